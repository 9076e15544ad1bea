"""Annotation files: which sounds there are, what is said or heard in them, and what is asked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import soundfile

from data.errors import InputError
from data.paths import written_whole

Mono = Literal["first", "mix"]
"""What is heard of several channels: the first, as the reference does, or their mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """One clip with its task and text.

    Attributes:
        id: Unique in its annotation file.
        path: Absolute path of the sound file.
        text: What the model is to say.
        task: Name of the prompt, such as `asr` or `audiocaption`.
        corpus: Where the clip comes from.
        duration_s: Length in seconds.
        references: All texts that are right, for scoring.
        question: What is asked, for question answering.
        testset_id: The name of the clip in a submission.
        start_s: Where the clip begins in its sound file, seconds.
        mono: What is heard of a file with several channels.
    """

    id: str
    path: Path
    text: str
    task: str
    corpus: str = ""
    duration_s: float = 0.0
    references: tuple[str, ...] = ()
    question: str = ""
    testset_id: str = ""
    start_s: float = 0.0
    mono: Mono = "first"


def read_annotation(path: Path, root: Path | None = None, *, texts: bool = True, sounds: bool = True) -> list[Row]:
    """Reads `{"annotation": [{"path", "text", "task", ...}]}`.

    Args:
        path: The JSON file.
        root: What the rows' paths are relative to; the file's own folder if not given. A leading slash is tolerated.
        texts: Whether every row must have a text; a test set without its answers has none.
        sounds: Whether the sound files are needed; without them, a duration that is not stated is 0.

    Returns:
        The rows in the file's order. A missing id is made of path and task; a missing duration is read from the
        sound file's header.

    Raises:
        InputError: The file or a row of it is not as it should be; names file, row, key and the mend.
    """
    path = Path(path)
    root = (root or path.parent).resolve()
    rows, ids = [], set()
    for index, entry in enumerate(_entries(path)):
        row = _row(path, index, entry, root, ids, texts=texts, sounds=sounds)
        if row.id in ids:
            raise InputError(f'{path}, row {index}: id "{row.id}" is there twice; give each row its own "id"')
        ids.add(row.id)
        rows.append(row)
    return rows


def write_annotation(path: Path, rows: Sequence[Row], root: Path) -> None:
    """Writes rows with paths relative to `root`; the file appears whole or not at all."""
    root = Path(root).resolve()
    entries = []
    for row in rows:
        entry: dict[str, Any] = {"path": row.path.relative_to(root).as_posix(), "text": row.text, "task": row.task}
        entry["id"] = row.id
        entry["corpus"] = row.corpus
        entry["duration"] = round(row.duration_s, 3)
        if row.references:
            entry["references"] = list(row.references)
        if row.question:
            entry["Q"] = row.question
        if row.testset_id:
            entry["testset_id"] = row.testset_id
        entries.append(entry)
    with written_whole(Path(path)) as temporary:
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        temporary.write_text(f'{{"annotation": [\n{lines}\n]}}\n', encoding="utf-8")


def _entries(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such annotation file; check the path in the recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it must be a JSON file in UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}); mend it or write it again") from None
    if not isinstance(content, dict) or not isinstance(content.get("annotation"), list):
        raise InputError(f'{path}: must be {{"annotation": [rows]}}; put the list of rows under the key "annotation"')
    return content["annotation"]


def _row(file: Path, index: int, entry: Any, root: Path, ids: set[str], *, texts: bool, sounds: bool) -> Row:
    where = f"{file}, row {index}"
    if not isinstance(entry, dict):
        raise InputError(f'{where}: must be an object with "path", "text" and "task", not {type(entry).__name__}')
    for key in ("path", "text", "task") if texts else ("path", "task"):
        if key not in entry:
            raise InputError(f'{where}: the key "{key}" is missing; add it, or drop the row')
    for key in ("path", "text", "task", "id", "corpus", "Q", "testset_id"):
        if not isinstance(entry.get(key, ""), str):
            raise InputError(f'{where}: "{key}" must be a string, not {json.dumps(entry[key])[:40]}; put it in quotes')
    references = entry.get("references", [])
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise InputError(f'{where}: "references" must be a list of strings; write it as ["...", "..."]')
    sound = root / entry["path"].lstrip("/")
    if sounds and not sound.is_file():
        raise InputError(f'{where}: "path" names {sound}, which does not exist; mend it, or give the right root')
    return Row(
        id=entry.get("id") or _unique(f"{entry['path'].lstrip('/')}#{entry['task']}", ids),
        path=sound,
        text=entry.get("text", ""),
        task=entry["task"],
        corpus=entry.get("corpus", ""),
        duration_s=_duration(where, entry.get("duration"), sound) if sounds else float(entry.get("duration") or 0),
        references=tuple(references),
        question=entry.get("Q", ""),
        testset_id=entry.get("testset_id", ""),
    )


def _unique(name: str, taken: set[str]) -> str:
    """The name itself, or with the first free number behind it."""
    number, unique = 2, name
    while unique in taken:
        unique, number = f"{name}#{number}", number + 1
    return unique


def _duration(where: str, given: Any, sound: Path) -> float:
    """The duration in the row, or that in the sound file's header."""
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, int | float) or not given >= 0:
            raise InputError(f'{where}: "duration" must be seconds, 0 or more; mend it, or leave it out')
        return float(given)
    try:
        return soundfile.info(sound).duration
    except (soundfile.LibsndfileError, RuntimeError):
        raise InputError(f'{where}: "path" names {sound}, which is not a sound file; fetch it again') from None
