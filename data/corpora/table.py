"""A list of clips of one's own: CSV, TSV or JSON lines with `path`, `text` and `task`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.corpora.entry import Entry, csv_rows, found
from data.errors import InputError

NAME = "table"
LAYOUT = "*.csv, *.tsv or *.jsonl files with path, text and task (also: id, split, question, corpus, references)"
_NEEDED = ("path", "text", "task")


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """A row a line; a split a file, unless a column says another. `references` of a CSV are separated by `|`."""
    for listed in found(lists, "*.csv", "*.tsv", "*.jsonl"):
        for number, row in enumerate(_rows(listed)):
            # Relative to the root, also with a slash before it; or the whole path.
            paths = (root / row["path"].lstrip("/"), root / row["path"])
            references = row.get("references") or ()
            yield Entry(
                split=row.get("split") or listed.stem,
                id=row.get("id") or f"{listed.stem}/{number}",
                path=next((path for path in paths if path.is_file()), None),
                text=row["text"],
                task=row["task"],
                references=tuple(references.split("|") if isinstance(references, str) else references),
                question=row.get("question") or row.get("Q") or "",
                corpus=row.get("corpus") or "",
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix != ".jsonl":
        yield from csv_rows(path, *_NEEDED, delimiter="\t" if path.suffix == ".tsv" else ",")
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                missing = [name for name in _NEEDED if not isinstance(row[name], str)]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: must be an object with path, text and task ({error})"
                ) from None
            if missing:
                raise InputError(f"{path}, line {number}: '{missing[0]}' must be a string; put it in quotes")
            yield row
