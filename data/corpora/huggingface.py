"""A Hugging Face dataset: a folder that `datasets` reads or has saved, or a name on the hub."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.corpora.contents import ending_of
from data.corpora.entry import Entry, tell_unread
from data.corpora.files import Files, is_file
from data.corpora.lists import Listed, csv_rows, json_rows
from data.corpora.table import seconds
from data.errors import InputError

NAME = "huggingface"
LAYOUT = "a dataset with a column of sounds, and a text, transcript or caption"
NORMALISE = "none"
_SPEECH = ("text", "sentence", "transcription", "transcript", "normalized_text")
_CAPTIONS = ("caption", "captions")
_SPLITS = {"validation": "valid"}
_NAMED = ("train", "validation", "valid", "dev", "test")
_MORE = ("task", "question", "start", "end", "file_name")


def name_of(place: Path) -> str:
    """What a dataset is called: after its folder, or its name on the hub."""
    name = place.resolve().name if place.exists() else place.as_posix()
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-") or NAME


def entries(sounds: Files, lists: Files, *, texts: bool = True) -> Iterator[Entry]:
    """A row a row; columns `task`, `question`, `start` and `end` are taken over where they are there.

    What is called a text or transcript is speech, what is called a caption is not. A row is named by its split and
    number: a dataset's own ids may be those of sentences, or begin anew in each split.

    Args:
        sounds: The sounds, where the dataset names files.
        lists: The dataset.
        texts: Whether there must be a column of texts.
    """
    told: set[str] = set()
    own = _own_folders(sounds, lists)
    for split, columns, rows in _splits(lists):
        sound, text = _columns(lists.place, columns, texts)
        tell_unread(lists.place, [name for name in columns if name not in {sound, text, *_MORE, *told}])
        told |= columns.keys()
        for number, values in enumerate(_read(lists.place, rows)):
            where = values.where if isinstance(values, Listed) else f"{lists.place}, split {split}, row {number}"
            # What a table of floats lacks is NaN there, and an empty cell in a CSV.
            values = {key: None if isinstance(of, float) and math.isnan(of) else of for key, of in values.items()}
            row = Listed(values, where)
            said = row.get(text) if isinstance(row.get(text), list) else [row.get(text)]
            said = [_string(row, text, of) for of in said if of] or [""]
            content, path, left_out = _sound(row[sound], sounds, lists, own)
            yield Entry(
                split=_SPLITS.get(split, split),
                id=f"{split}/{number}",
                path=path,
                text=said[0],
                task=_string(row, "task", row.get("task")) or ("audiocaption" if text in _CAPTIONS else "asr"),
                references=tuple(said) if len(said) > 1 else (),
                question=_string(row, "question", row.get("question")),
                start_s=seconds(row, "start"),
                end_s=seconds(row, "end"),
                content=content,
                left_out=left_out,
                where=row.where,
            )


def _string(row: Listed, name: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{row.where}: '{name}' must be a string, not {type(value).__name__}; mend the dataset")
    return value or ""


def _sound(stored: Any, sounds: Files, lists: Files, own: list[Path]) -> tuple[bytes | None, Path | None, str]:
    """A sound's bytes, or its file, or why there is neither."""
    stored = stored if isinstance(stored, dict) else {"path" if isinstance(stored, str) else "bytes": stored}
    content, name = stored.get("bytes"), stored.get("path") or ""
    if content:
        return (content, None, "") if ending_of(content) else (None, None, "whose sound is in no format that is known")
    if not name:
        return None, None, "that have no sound"
    # It is the data that say where: no file is taken but one of the dataset's own.
    path = Path(name)
    if ".." in path.parts:
        return None, None, ""
    if not path.is_absolute():
        return None, lists.at(name) or sounds.at(name), ""
    return None, path if any(map(path.is_relative_to, own)) and is_file(path) else None, ""


def _own_folders(sounds: Files, lists: Files) -> list[Path]:
    from datasets import config

    places = (sounds.folder, lists.folder, config.HF_CACHE_HOME, config.HF_DATASETS_CACHE)
    return [form for place in places for form in (Path(place).absolute(), Path(place).resolve())]


def _splits(lists: Files) -> Iterator[tuple[str, dict[str, Any], Iterable[dict[str, Any]]]]:
    """Each split's name, columns and rows."""
    from datasets import Audio, Dataset, load_dataset, load_from_disk  # here, as it takes seconds

    place = lists.place
    saved = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
    described = place.is_dir() and not saved and lists.named("metadata.csv", "metadata.jsonl")
    if described and not lists.named("*.parquet", "*.arrow"):
        yield from _folder(lists, described)
        return
    try:
        loaded = load_from_disk(str(place)) if saved else load_dataset(str(place), trust_remote_code=False)
    except Exception as error:  # of many kinds
        reason = str(error.__cause__ or error).split("\n")[0][:200]
        raise InputError(f"{place}: neither a folder that datasets reads nor a dataset on the hub ({reason})") from None
    for split, table in ({"train": loaded} if isinstance(loaded, Dataset) else loaded).items():
        for name, kind in table.features.items():
            table = table.cast_column(name, Audio(decode=False)) if isinstance(kind, Audio) else table
        yield split, dict(table.features), table


def _folder(lists: Files, described: list[Path]) -> Iterator[tuple[str, dict[str, Any], Iterable[dict[str, Any]]]]:
    """A folder of sounds beside metadata files (`datasets` would ask for torchcodec); a split a folder."""
    for listed in described:
        beside = listed.parent.relative_to(lists.folder)
        split = next((part for part in reversed(beside.parts) if part in _NAMED), "train")
        rows = (
            csv_rows(listed, "file_name", verbatim=["file_name"])
            if listed.suffix.lower() == ".csv"
            else json_rows(listed)
        )
        rows = [Listed(row | {"audio": str(beside / str(row.get("file_name") or ""))}, row.where) for row in rows]
        yield split, {key: "audio" if key == "audio" else None for row in rows for key in row}, rows


def _read(place: Path, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except (OSError, ValueError) as error:  # Arrow's errors are such
        raise InputError(f"{place}: cannot be read ({str(error)[:200]}); fetch it again") from None


def _columns(place: Path, columns: dict[str, Any], texts: bool) -> tuple[str, str | None]:
    """The columns of sounds and texts; there may be none of texts where none is asked for."""
    sound = next((name for name, kind in columns.items() if _holds_sounds(name, kind)), None)
    text = next((name for name in (*_SPEECH, *_CAPTIONS) if name in columns), None)
    if sound is None or (text is None and texts):
        wanted = "of sounds" if sound is None else f"named {', '.join((*_SPEECH, *_CAPTIONS))}"
        raise InputError(f"{place}: no column {wanted}; it has {', '.join(columns)}")
    return sound, text


def _holds_sounds(name: str, kind: Any) -> bool:
    """Whether a column is of sounds; in plain Parquet they are bytes and a path, or bytes alone."""
    if type(kind).__name__ == "Audio" or (isinstance(kind, dict) and set(kind) == {"bytes", "path"}):
        return True
    return name == "audio" and (kind == "audio" or getattr(kind, "dtype", "") in ("binary", "large_binary", "string"))
