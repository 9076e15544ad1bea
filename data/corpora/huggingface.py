"""A Hugging Face dataset: a folder that `datasets` reads or has saved, or a name on the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.corpora.entry import Entry
from data.errors import InputError
from data.text import normalise

NAME = "huggingface"
LAYOUT = "a dataset with a column of sounds, and a text, transcript or caption"
_SPEECH = ("text", "sentence", "transcription", "transcript", "normalized_text")
_CAPTIONS = ("caption", "captions")
_SPLITS = {"validation": "valid"}
_ENDINGS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """A row a row; columns `task`, `question` and `id` are taken over where they are there.

    What is called a text or transcript is speech, what is called a caption is not. Sounds that lie within the
    dataset's own files are written out.
    """
    from datasets import Audio  # here, as it takes seconds

    for split, table in _splits(lists).items():
        sound, text = _columns(lists, table)
        table = table.cast_column(sound, Audio(decode=False))
        captioned = text in _CAPTIONS
        for number, row in enumerate(table):
            texts = row[text] if isinstance(row[text], list) else [row[text]]
            texts = [of or "" for of in texts] or [""]
            name = str(row.get("id") or f"{split}/{number}")
            stored = row[sound] or {}
            path = Path(stored.get("path") or "")
            content = None if path.is_file() else stored.get("bytes")
            if content is not None:
                path = Path(NAME) / f"{name}{_ENDINGS.get(content[:4], path.suffix or '.mp3')}"
            task = row.get("task") or ("audiocaption" if captioned else "asr")
            yield Entry(
                split=_SPLITS.get(split, split),
                id=name,
                path=path if content is not None or path.is_file() else None,
                text=normalise(texts[0]) if task == "asr" else texts[0],
                task=task,
                references=tuple(texts) if len(texts) > 1 else (),
                question=row.get("question") or "",
                content=content,
            )


def _splits(lists: Path) -> dict[str, Any]:
    from datasets import Dataset, load_dataset, load_from_disk

    saved = any((lists / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        loaded = load_from_disk(str(lists)) if saved else load_dataset(str(lists))
    except Exception as error:  # of many kinds
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"{lists}: neither a folder that datasets reads nor a dataset on the hub ({reason})") from None
    return {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)


def _columns(lists: Path, table: Any) -> tuple[str, str]:
    """The columns of sounds and texts."""
    from datasets import Audio

    sound = next((name for name, kind in table.features.items() if isinstance(kind, Audio)), None)
    text = next((name for name in (*_SPEECH, *_CAPTIONS) if name in table.features), None)
    if sound is None or text is None:
        wanted = "of sounds" if sound is None else f"named {', '.join((*_SPEECH, *_CAPTIONS))}"
        raise InputError(f"{lists}: no column {wanted}; it has {', '.join(table.features)}")
    return sound, text
