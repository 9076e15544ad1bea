"""Annotation files that there are already, such as the stage1_train.json of the SALMONN-3B challenge."""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry, found
from data.rows.annotation import open_annotation

NAME = "annotation"
LAYOUT = 'JSON files of {"annotation": [{"path", "text", "task"}]}'


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """The rows as they are, a split a file. A row without a corpus gets the first folder of its path."""
    for listed in found(lists, "*.json"):
        _, rows = open_annotation(listed, root, texts=False)
        for number, row in enumerate(rows):
            path = root / row["path"]
            yield Entry(
                split=listed.stem,
                id=row["id"] or f"{listed.stem}/{number}",
                path=path if path.is_file() else None,
                text=row["text"],
                task=row["task"],
                references=tuple(row["references"]),
                question=row["question"],
                duration_s=None if row["duration_s"] != row["duration_s"] else row["duration_s"],
                start_s=row["start_s"],
                end_s=row["end_s"],
                corpus=row["corpus"] or Path(row["path"]).parts[0].lower(),
                testset_id=row["testset_id"],
            )
