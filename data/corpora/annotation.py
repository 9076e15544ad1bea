"""Annotation files that there are already, such as the stage1_train.json of the SALMONN-3B challenge."""

import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry
from data.corpora.files import Files, is_file
from data.rows.annotation import open_annotation
from data.rows.json_stream import stream_list

NAME = "annotation"
LAYOUT = 'JSON files of {"annotation": [{"path", "text", "task"}]}'
NORMALISE = "none"


def entries(sounds: Files, lists: Files) -> Iterator[Entry]:
    """The rows as they are, a split a file. A row without a corpus gets the first folder of its path.

    Paths are those below the root, or else whole ones, as SALMONN's own files have them.
    """
    for listed in lists.named("*.json"):
        _, rows = open_annotation(listed, sounds.folder, texts=False)
        for number, (row, written) in enumerate(zip(rows, stream_list(listed, "annotation"), strict=True)):
            yield Entry(
                split=listed.stem,
                id=row["id"] or f"{listed.stem}/{number}",
                path=sounds.at(row["path"]) or _whole(written["path"]),
                text=row["text"],
                task=row["task"],
                references=tuple(row["references"]),
                question=row["question"],
                start_s=row["start_s"],
                end_s=row["end_s"],
                duration_s=row["duration_s"],
                corpus=row["corpus"] or _first_folder(row["path"]),
                testset_id=row["testset_id"],
                where=f"{listed}, row {number}",
            )


def _whole(path: str) -> Path | None:
    return Path(path) if path.startswith("/") and is_file(Path(path)) else None


def _first_folder(path: str) -> str:
    folder, slash, _ = path.partition("/")
    return re.sub(r"[^a-z0-9_.-]+", "_", folder.lower()).strip(".") if slash else ""
