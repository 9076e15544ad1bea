"""A list of clips of one's own: CSV, TSV or JSON lines with `path`, `text` and `task`."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.corpora.entry import Entry, tell_unread
from data.corpora.files import Files, is_file
from data.corpora.lists import Listed, csv_rows, json_rows
from data.errors import InputError

NAME = "table"
LAYOUT = (
    "*.csv, *.tsv or *.jsonl files with path, text and task (also: id, split, question, corpus, references, start, "
    "end, duration, testset_id)"
)
NORMALISE = "none"
_ALWAYS = ("path", "task")
_NEEDED = ("path", "text", "task")
_STRINGS = ("split", "question", "Q", "corpus", "testset_id")
_NAMES = ("task", "split", "corpus", "id", "testset_id", "start", "end", "duration")
_KNOWN = {*_NEEDED, *_STRINGS, "id", "references", "start", "end", "duration"}


def entries(sounds: Files, lists: Files, *, texts: bool = True) -> Iterator[Entry]:
    """A row a line; a split a file, unless a column says another. `references` of a CSV are separated by `|`.

    Args:
        sounds: The sounds.
        lists: The tables.
        texts: Whether `text` must be there.
    """
    for listed in lists.named("*.csv", "*.tsv", "*.jsonl"):
        name, told = listed.relative_to(lists.folder).with_suffix("").as_posix(), set()
        for number, row in enumerate(_rows(listed, _NEEDED if texts else _ALWAYS)):
            tell_unread(listed, [key for key in row if key not in _KNOWN | told])
            told |= row.keys()
            path, text, task = (_string(row, key) for key in _NEEDED)
            if not path.strip() or not task:
                raise InputError(f"{row.where}: no '{'task' if path.strip() else 'path'}'; add it, or drop the line")
            yield Entry(
                split=_string(row, "split") or listed.stem,
                id=_id(row) or f"{name}/{number}",
                # Below the root, also with a slash before it; or the whole path.
                path=sounds.at(path) or (Path(path) if path.startswith("/") and is_file(Path(path)) else None),
                text=text,
                task=task,
                references=_references(row),
                question=_string(row, "question") or _string(row, "Q"),
                start_s=seconds(row, "start"),
                end_s=seconds(row, "end"),
                duration_s=seconds(row, "duration") or math.nan,
                corpus=_string(row, "corpus"),
                testset_id=_string(row, "testset_id"),
                where=row.where,
            )


def seconds(row: Listed, key: str) -> float:
    """A row's start, end or duration, 0 where it has none.

    Raises:
        InputError: It is no number of seconds.
    """
    given = row.get(key)
    try:
        value = 0.0 if given in (None, "") else float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(given, bool) or not 0 <= value < math.inf:
        raise InputError(f"{row.where}: '{key}' must be seconds, 0 or more; mend it, or leave it out")
    return value


def _rows(path: Path, needed: Sequence[str]) -> Iterator[Listed]:
    if path.suffix.lower() == ".jsonl":
        for row in json_rows(path):
            if missing := [name for name in needed if name not in row]:
                raise InputError(f"{row.where}: must be an object with path, text and task (no '{missing[0]}')")
            yield row
        return
    for row in csv_rows(path, *needed, verbatim=["path"], names=_NAMES):
        if path.suffix.lower() == ".tsv":
            row.update({key: _unquoted(value) for key, value in row.items()})
        row["references"] = [one.strip() for one in row.get("references", "").split("|") if one.strip()]
        yield row


def _unquoted(value: str) -> str:
    """A value as a spreadsheet meant it that put it in quotation marks, and doubled those within."""
    inner = value[1:-1]
    if len(value) > 1 and value[0] == value[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return value


def _string(row: Listed, key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{row.where}: '{key}' must be a string; put it in quotes")
    return value or ""


def _id(row: Listed) -> str:
    value: Any = row.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise InputError(f"{row.where}: 'id' must be a string or a whole number; mend it")
    return "" if value is None else str(value)


def _references(row: Listed) -> tuple[str, ...]:
    value = row.get("references") or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{row.where}: 'references' must be a list of strings; mend it")
    return tuple(value)
