"""Annotation files: JSON that says which sounds there are, what is said or heard in them, and what is asked.

`{"root": ..., "annotation": [{"path", "text", "task", ...}]}`; the keys are described in data/README.md.
"""

import difflib
import json
import math
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from data.errors import InputError
from data.paths import written_whole
from data.rows.json_stream import keys_behind, stream_list
from data.rows.row import Row

_KNOWN = ("path", "text", "task", "id", "corpus", "Q", "testset_id", "references", "start", "end", "duration")
_ELSEWHERE = {
    "expand_wav": "joins more files to the row's, which is not read here; write them as one file, and name that",
    "offset": 'is "start" here; name it so',
    "question": 'is "Q" here; name it so',
}
"""Keys of other formats that change what a row is."""
_LONGEST_S = 1e9
_TOLD: set[tuple[Path, str]] = set()
_STRINGS = {"id": "id", "corpus": "corpus", "Q": "question", "testset_id": "testset_id"}


def open_annotation(
    path: Path, root: Path | None = None, on_bytes: Callable[[int], None] | None = None, *, texts: bool = True
) -> tuple[Path, Iterator[dict[str, Any]]]:
    """What the paths of an annotation file are relative to, and its rows one by one, checked.

    Args:
        path: The JSON file.
        root: What the paths are relative to; if not given, the file's "root", else its own folder.
        on_bytes: Is told of bytes as they are read.
        texts: Whether every row must have a text; else that of a row without one is empty.

    Returns:
        The root, and an iterator of rows: `path` (relative, or whole: see `located`), `text`, `task`, `id` (empty where
        the row has none), `corpus`, `duration_s` (NaN where the row has none), `references`, `question`, `testset_id`,
        `start_s` and `end_s`.

    Raises:
        InputError: The file or a row of it is not as it should be; names file, row, key and the mend. A key that is
            null is taken for one that is not there.
    """
    root, entries = open_list(path, root, on_bytes)
    return root, _checked_all(path, root, entries, texts)


def open_list(
    path: Path, root: Path | None = None, on_bytes: Callable[[int], None] | None = None
) -> tuple[Path, Iterator[Any]]:
    """The root of an annotation file and its rows as they stand there, whatever is wrong with them."""
    before: dict[str, Any] = {}
    behind: dict[str, Any] = {}
    entries = stream_list(path, "annotation", before=before, behind=behind, on_bytes=on_bytes)
    first = list(islice(entries, 1))  # what stands before the list is known from here on
    own = before["root"] if "root" in before else keys_behind(path).get("root", ".")
    if not isinstance(own, str):
        raise InputError(f'{path}: "root" must be a folder, not {json.dumps(own)[:40]}; mend it, or leave it out')
    _require_name(str(path), "root", own)

    def rows() -> Iterator[Any]:
        yield from chain(first, entries)
        if behind.get("root", own) != own:
            raise InputError(f'{path}: "root" must come first; move it before "annotation"')
        _tell_unknown(path, dict.fromkeys(before | behind, "outside of the rows"), ("root", "annotation"))

    return Path(root or path.parent / own).resolve(), rows()


def located(root: Path, path: str) -> str:
    """A row's path from the root on; a whole one where no such file is below the root, but where the path says."""
    inside = path.lstrip("/")
    return path if inside != path and not (root / inside).is_file() and os.path.isfile(path) else inside


def write_annotation(path: Path, rows: Sequence[Row], root: Path) -> None:
    """Writes rows with paths relative to `root`; the file appears whole or not at all."""
    root = Path(root).resolve()
    with annotation_writer(path, root) as write:
        for row in rows:
            write(
                path=row.path.relative_to(root).as_posix(),
                text=row.text,
                task=row.task,
                id=row.id,
                corpus=row.corpus,
                duration=row.duration_s,
                references=row.references,
                question=row.question,
                testset_id=row.testset_id,
                start=row.start_s,
                end=row.end_s,
            )


@contextmanager
def annotation_writer(path: Path, root: Path) -> Iterator["_Writer"]:
    """A writer of rows, one by one; the file appears, whole, when the block ends without an error.

    Args:
        path: The JSON file.
        root: The folder that the rows' paths are relative to; written down where it is not the file's own.
    """
    path, root = Path(path), Path(root).resolve()
    own = relative_root(root, path.parent)
    head = "" if own == "." else f'"root": {json.dumps(own)}, '
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{{head}"annotation": [')
        yield _Writer(file)
        file.write("\n]}\n")


class _Writer:
    """Writes a row a call: its keys as `open_annotation` gives them, those that are empty left out."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.rows = file, 0

    def __call__(
        self, *, path: str, text: str, task: str, id: str, corpus: str = "", duration: float | None = None, **more: Any
    ) -> None:
        entry: dict[str, Any] = {"path": path, "text": text, "task": task, "id": id, "corpus": corpus}
        if duration is not None:
            entry["duration"] = round(duration, 3)
        if more.get("references"):
            entry["references"] = list(more["references"])
        if more.get("question"):
            entry["Q"] = more["question"]
        entry |= {key: more[key] for key in ("testset_id", "start", "end") if more.get(key)}
        self.file.write((",\n" if self.rows else "\n") + json.dumps(entry, ensure_ascii=False))
        self.rows += 1


def _checked_all(path: Path, root: Path, entries: Iterator[Any], texts: bool) -> Iterator[dict[str, Any]]:
    unknown: dict[str, str] = {}
    for number, entry in enumerate(entries):
        row = checked_row(f"{path}, row {number}", entry, texts=texts, known=unknown)
        for key in entry.keys() - unknown.keys():
            if entry[key] is not None and key not in _KNOWN:
                unknown[key] = f"row {number}"
        row["path"] = located(root, row["path"])
        yield row
    _tell_unknown(path, unknown, _KNOWN)


def checked_row(where: str, entry: Any, *, texts: bool, known: Container[str] = ()) -> dict[str, Any]:
    """A row as `open_annotation` gives it, but for its path, which is as it stands there.

    Args:
        where: The file and the row, for messages.
        entry: The row as JSON.
        texts: Whether it must have a text.
        known: Keys that were looked at before, and say nothing here.

    Raises:
        InputError: It is not as it should be.
    """
    row = _checked(where, entry, texts)
    for key, value in entry.items():
        if value and key in _ELSEWHERE:  # an empty "expand_wav" joins nothing
            raise InputError(f'{where}: "{key}" {_ELSEWHERE[key]}')
        if value is not None and key not in _KNOWN and key not in known:
            _require_no_slip(where, key, _KNOWN)
    return row


def _require_no_slip(where: str, key: str, known: Iterable[str]) -> None:
    """Refuses a key that is nearly a known one."""
    near = difflib.get_close_matches(key.lower(), [name for name in known if len(name) > 3], n=1, cutoff=0.8)
    near = near or [name for name in known if name.lower() == key.lower()]
    if near:
        raise InputError(f'{where}: unknown key "{key}"; did you mean "{near[0]}"?')


def _tell_unknown(path: Path, keys: dict[str, str], known: Iterable[str]) -> None:
    """Names keys that say nothing here, once for each file."""
    unknown = {key: where for key, where in keys.items() if key not in known}
    for key, where in unknown.items():
        _require_no_slip(f"{path}, {where}", key, known)
    names = ", ".join(f"{json.dumps(key)[:40]} ({where})" for key, where in unknown.items())
    if names and (path, names) not in _TOLD and int(os.environ.get("RANK", 0)) == 0:
        _TOLD.add((path, names))
        print(f"warning: {path}: keys that are not known are not read: {names}", file=sys.stderr, flush=True)


def _checked(where: str, entry: Any, texts: bool) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f'{where}: must be an object with "path", "text" and "task", not {type(entry).__name__}')
    entry = {key: value for key, value in entry.items() if value is not None}
    if not texts:
        entry.setdefault("text", "")
    for key in ("path", "text", "task"):
        if key not in entry:
            raise InputError(f'{where}: the key "{key}" is missing; add it, or drop the row')
    for key in ("path", "text", "task", *_STRINGS):
        if not isinstance(entry.get(key, ""), str):
            raise InputError(f'{where}: "{key}" must be a string, not {json.dumps(entry[key])[:40]}; put it in quotes')
        _require_characters(where, key, entry.get(key, ""))
    references = entry.get("references", [])
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise InputError(f'{where}: "references" must be a list of strings; write it as ["...", "..."]')
    for reference in references:
        _require_characters(where, "references", reference)
    _require_name(where, "path", entry["path"])
    row = {
        "path": entry["path"],
        "text": entry["text"],
        "task": entry["task"],
        "references": references,
    }
    row |= {name: entry.get(key, "") for key, name in _STRINGS.items()}
    start_s, end_s, duration_s = (_seconds(where, entry, key) for key in ("start", "end", "duration"))
    if end_s and end_s <= start_s:
        raise InputError(f'{where}: "end" must come after "start"; mend them, or leave them out')
    if end_s:
        duration_s = end_s - start_s
    elif entry.get("duration") is None:
        duration_s = math.nan
    return row | {"duration_s": duration_s, "start_s": start_s, "end_s": end_s}


def _require_name(where: str, key: str, name: str) -> None:
    """Refuses what no file can be called."""
    _require_characters(where, key, name)
    if "\0" in name:
        raise InputError(f'{where}: "{key}" holds a NUL character, as no file\'s name does; mend it')


def _require_characters(where: str, key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f'{where}: "{key}" holds half a character ({json.dumps(text)[:40]}); mend it') from None


def _seconds(where: str, entry: dict[str, Any], key: str) -> float:
    given = entry.get(key)
    if given is None:
        return 0.0
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= _LONGEST_S:
        raise InputError(f'{where}: "{key}" must be seconds, 0 or more; mend it, or leave it out')
    return float(given)


def relative_root(root: Path, folder: Path) -> str:
    """A root as it is written down in a file of `folder`: relative where it lies in it, so that both can be moved."""
    root, folder = root.resolve(), folder.resolve()
    return os.path.relpath(root, folder) if root.is_relative_to(folder) else str(root)
