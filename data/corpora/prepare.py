"""From a corpus as it is distributed to annotation files, one a split."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from data.corpora.entry import Corpus, Entry
from data.errors import InputError
from data.paths import written_whole
from data.progress import Progress
from data.rows.annotation import annotation_writer


@dataclass
class Prepared:
    """What was made of a corpus.

    Attributes:
        files: Annotation file of each split.
        rows: Rows by split and task.
        textless: Rows left out because there is nothing in them to learn.
        missing: Rows left out because their sound file is not there.
        first_missing: The first of those.
    """

    files: dict[str, Path] = field(default_factory=dict)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    textless: int = 0
    missing: int = 0
    first_missing: str = ""


def prepare(
    corpus: Corpus,
    root: Path,
    out: Path,
    lists: Path | None = None,
    *,
    tasks: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Prepared:
    """Writes `NAME_SPLIT.json` for every split of a corpus; they appear when all of it was read.

    Args:
        corpus: A module of `data.corpora`.
        root: The folder with its sound files.
        out: Where the annotation files go.
        lists: Where its lists lie, if not below the root.
        tasks: Which tasks are kept; all if not given.
        renamed: New names of tasks, by the corpus's own.

    Raises:
        InputError: Nothing of what the corpus is made of is there, or it is not as it should be.
    """
    lists, renamed = lists or root, renamed or {}
    made, splits, progress = Prepared(), {}, Progress(corpus.NAME, None, unit="rows")
    with ExitStack() as stack:
        for entry in corpus.entries(root, lists):
            progress.add(1)
            task = renamed.get(entry.task, entry.task)
            if tasks and task not in tasks:
                continue
            if not entry.text.strip():
                made.textless += 1
            elif entry.path is None:
                made.missing, made.first_missing = made.missing + 1, made.first_missing or entry.id
            else:
                base = root if entry.content is None else out
                if entry.split not in splits:
                    made.files[entry.split] = out / f"{corpus.NAME}_{entry.split}.json"
                    splits[entry.split] = stack.enter_context(annotation_writer(made.files[entry.split], base))
                _write(splits[entry.split], entry, task, corpus.NAME, base)
                made.rows[entry.split, task] += 1
        progress.end()
        _require_rows(corpus, root, lists, made, tasks)
    return made


def _write(write, entry: Entry, task: str, corpus: str, base: Path) -> None:
    """One row; a sound that lies within the corpus's own files is written out."""
    path = entry.path
    if entry.content is not None:
        path = base / path
        if not path.is_file():
            with written_whole(path) as temporary:
                temporary.write_bytes(entry.content)
    write(
        path=Path(os.path.relpath(path, base)).as_posix(),
        text=entry.text.strip(),
        task=task,
        id=f"{corpus}/{entry.id}",
        corpus=entry.corpus or corpus,
        duration=entry.duration_s,
        references=entry.references,
        question=entry.question,
        testset_id=entry.testset_id,
        start=entry.start_s,
        end=entry.end_s,
    )


def _require_rows(corpus: Corpus, root: Path, lists: Path, made: Prepared, tasks: Sequence[str]) -> None:
    if made.rows:
        return
    if made.missing:
        raise InputError(
            f"{root}: none of the sound files of {made.missing} rows is there, the first of them "
            f"{made.first_missing}; looked for {corpus.LAYOUT}"
        )
    if made.textless:
        raise InputError(f"{lists}: none of {made.textless} rows has a text; looked for {corpus.LAYOUT}")
    among = f" with the task {' or '.join(tasks)}" if tasks else ""
    raise InputError(f"{lists}: no rows of {corpus.NAME}{among}; looked for {corpus.LAYOUT}")
