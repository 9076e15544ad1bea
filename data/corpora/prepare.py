"""From a corpus as it is distributed to annotation files, one a split."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.corpora import huggingface, table
from data.corpora.contents import written_out
from data.corpora.entry import Corpus, Entry
from data.corpora.files import Files
from data.corpora.lengths import with_lengths
from data.errors import InputError
from data.progress import Progress
from data.rows.annotation import annotation_writer, open_annotation
from data.rows.row import lengths_differ
from data.text import normalise

TEXTLESS = "in which nothing is said"
MISSING = "whose sound file is not there"
TWICE = "that are there twice"

_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_HELD_OUT = re.compile(r"(dev|valid|validation|test|eval|evaluation)([-_.\d].*)?")


@dataclass
class Prepared:
    """What was made of a corpus.

    Attributes:
        files: Annotation file of each split.
        rows: Rows by split and task.
        untexted: How many of them have no text, by split.
        corrected: How many rows stated another length than their sound has.
        left_out: How many rows were left out, by the reason.
        first: The first row left out for each reason.
    """

    files: dict[str, Path] = field(default_factory=dict)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    untexted: Counter[str] = field(default_factory=Counter)
    corrected: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, entry: Entry, reason: str, about: str = "") -> None:
        """Counts a row that is left out."""
        self.left_out[reason] += 1
        known = "; ".join(filter(None, (about, entry.where)))
        self.first.setdefault(reason, f"{entry.id}{f' ({known})' if known else ''}")

    def told(self) -> list[str]:
        """What was left out, in words."""
        return [
            f"{count} rows {reason}, the first of them {self.first[reason]}" for reason, count in self.left_out.items()
        ]


def prepare(
    corpus: Corpus,
    root: Path,
    out: Path,
    lists: Path | None = None,
    *,
    tasks: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    name: str = "",
    normalised: str = "",
    untexted: bool = False,
    **options: Any,
) -> Prepared:
    """Writes `NAME_SPLIT.json` for every split of a corpus; they appear when all of it was read.

    Nothing that the corpus says becomes a path outside of `out`, and lengths are those of the sounds' headers.

    Args:
        corpus: A module of `data.corpora`.
        root: The folder with its sound files.
        out: Where the annotation files go.
        lists: Where its lists lie, if not below the root.
        tasks: Which tasks are kept; all if not given.
        renamed: New names of tasks, by the corpus's own.
        name: What the corpus is called in files and rows, if not by its own name.
        normalised: How transcripts are written down, `english` or `none`; as the corpus has it if not given.
        untexted: Whether rows without a text stay, but for those of a split that is held out.
        options: What this corpus alone can be asked.

    Raises:
        InputError: Nothing of what the corpus is made of is there, or it is not as it should be.
    """
    lists = lists or root
    sounds = Files(root)
    listed = sounds if lists == root else Files(lists)
    name = name or (huggingface.name_of(lists) if corpus.NAME == huggingface.NAME else corpus.NAME)
    _require_plain(name, "name", "the corpus")
    english = (normalised or corpus.NORMALISE) == "english"
    made, progress = Prepared(), Progress(name, None, unit="rows")
    choice = _Choice(made, tasks, renamed or {}, english, untexted)
    if untexted and corpus in (huggingface, table):
        options["texts"] = False
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            writer = _Writer(made, name, sounds.folder, out, stack)
            chosen = filter(None, map(choice, corpus.entries(sounds, listed, **options)))
            for entry, seconds, fault in with_lengths(chosen, progress):
                if fault:
                    made.leave_out(entry, fault[0], fault[1])
                else:
                    writer.write(entry, seconds)
            progress.end()
            _require_rows(corpus, root, lists, made, tasks)
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: {error.strerror or error}; mend it, or give another place"
        ) from None
    return made


class _Choice:
    """Goes over rows one by one: gives those that are to be written, with their task and text as they will be."""

    def __init__(
        self, made: Prepared, tasks: Sequence[str], renamed: Mapping[str, str], english: bool, untexted: bool
    ) -> None:
        self.made, self.tasks, self.renamed, self.english, self.untexted = made, tasks, renamed, english, untexted
        self._ids: set[int] = set()

    def __call__(self, entry: Entry) -> Entry | None:
        task = self.renamed.get(entry.task, entry.task)
        if self.tasks and task not in self.tasks:
            return None
        where = entry.where or entry.id
        for kind, given in (("split", entry.split), ("task", task), ("corpus", entry.corpus or "none")):
            _require_plain(given, kind, where)
        spoken = entry.task == "asr"
        written = normalise if spoken and self.english else str.strip
        references = tuple(filter(None, map(written, entry.references)))
        chosen = replace(entry, task=task, text=written(entry.text), references=references)
        _require_characters(chosen, where)
        if entry.left_out:
            return self.made.leave_out(entry, entry.left_out)
        if not (any(map(str.isalnum, chosen.text)) if spoken else chosen.text):
            if not self.untexted or _HELD_OUT.fullmatch(entry.split):  # what is scored needs its texts
                return self.made.leave_out(entry, TEXTLESS)
            chosen = replace(chosen, text="")
        if entry.path is None and entry.content is None:
            return self.made.leave_out(entry, MISSING)
        if self._is_known(chosen, where):
            return self.made.leave_out(entry, TWICE)
        return chosen

    def _is_known(self, entry: Entry, where: str) -> bool:
        """Whether the very same row was there before; 8 bytes of a hash are kept of each id, and of each row.

        Without a text, rows of one sound that are asked the same are the same: the teacher would write one text twice.
        """
        id = entry.id if entry.text or entry.path is None else ""
        row = _hash((id, entry.task, entry.text, entry.path, entry.start_s, entry.end_s, entry.question))
        name = _hash(entry.id)
        known = row in self._ids
        if not known and name in self._ids:
            raise InputError(
                f'{where}: id "{entry.id}" is there twice, for other sounds or texts; give each row its own'
            )
        self._ids |= {row, name}
        return known


class _Writer:
    """Writes rows to the annotation file of their split; sounds within the corpus's own files are written out."""

    def __init__(self, made: Prepared, name: str, root: Path, out: Path, stack: ExitStack) -> None:
        self.made, self.name, self.root, self.out, self.stack = made, name, root, out, stack
        self._writers: dict[str, tuple[Callable[..., None], Path]] = {}

    def write(self, entry: Entry, seconds: float) -> None:
        """One row.

        Args:
            entry: The row.
            seconds: Length of its sound.
        """
        path = entry.path
        if entry.content is not None:
            path = written_out(entry.content, self.out / self.name / entry.split, self.out)
        write, base = self._writers.get(entry.split) or self._opened(entry, path)
        end_s = entry.end_s if entry.end_s <= seconds else 0.0
        length_s = (end_s or seconds) - entry.start_s
        self.made.corrected += lengths_differ(entry.duration_s, length_s)
        write(
            path=_relative(path, base),
            text=entry.text,
            task=entry.task,
            id=f"{self.name}/{entry.id}",
            corpus=entry.corpus or self.name,
            duration=length_s,
            references=entry.references,
            question=entry.question,
            testset_id=entry.testset_id,
            start=entry.start_s,
            end=end_s,
        )
        self.made.rows[entry.split, entry.task] += 1
        self.made.untexted[entry.split] += not entry.text

    def _opened(self, entry: Entry, sound: Path) -> tuple[Callable[..., None], Path]:
        base = self.root if entry.content is None else self.out
        path = self.out / f"{self.name}_{entry.split}.json"
        if path.is_file():
            _require_same_corpus(path, base, f"{self.name}/{entry.id}", _relative(sound, base))
        self.made.files[entry.split] = path
        self._writers[entry.split] = self.stack.enter_context(annotation_writer(path, base)), base
        return self._writers[entry.split]


def _relative(path: Path, base: Path) -> str:
    """A path as an annotation of this root has it: a link below the root stays, and one on the way to it does not."""
    if path.is_relative_to(base):
        return path.relative_to(base).as_posix()
    return Path(os.path.relpath(path.parent.resolve() / path.name, base.resolve())).as_posix()


def _require_same_corpus(path: Path, base: Path, id: str, sound: str) -> None:
    """Refuses to replace an annotation file of another root, or whose first row is this one with another sound."""
    try:
        root, rows = open_annotation(path, texts=False)
        first = next(rows)
    except (InputError, StopIteration):
        return  # nothing that is worth keeping
    if root != base.resolve() or (first["id"] == id and first["path"] != sound):
        raise InputError(f"{path}: made of other sounds, or of another root; give this corpus a --name, or remove that")


def _require_plain(given: str, kind: str, where: str) -> None:
    """Refuses a name that is more than a name: it stands in names of files and folders."""
    if not _PLAIN.fullmatch(given) or given in (".", ".."):
        raise InputError(
            f"{where}: the {kind} {json.dumps(given[:100])} must be letters, digits, '.', '_' and '-' alone; rename it"
        )


def _require_characters(entry: Entry, where: str) -> None:
    written = "".join((entry.id, str(entry.path), entry.text, *entry.references, entry.question, entry.testset_id))
    if "\0" in written:
        raise InputError(f"{where}: holds a NUL character, as no text does; mend it")
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: cannot be written as UTF-8 ({error.reason}); mend its text or rename it") from None


def _hash(value: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "little")


def _require_rows(corpus: Corpus, root: Path, lists: Path, made: Prepared, tasks: Sequence[str]) -> None:
    if made.rows:
        return
    if made.left_out[MISSING]:
        raise InputError(
            f"{root}: none of the sound files of {made.left_out[MISSING]} rows is there, the first of them "
            f"{made.first[MISSING]}; looked for {corpus.LAYOUT}"
        )
    if made.left_out[TEXTLESS]:
        raise InputError(
            f"{lists}: none of {made.left_out[TEXTLESS]} rows has a text; looked for {corpus.LAYOUT} (--keep-untexted "
            "keeps training rows without one)"
        )
    if made.left_out:
        raise InputError(f"{lists}: no rows but {'; '.join(made.told())}")
    among = f" with the task {' or '.join(tasks)}" if tasks else ""
    raise InputError(f"{lists}: no rows of {corpus.NAME}{among}; looked for {corpus.LAYOUT}")
