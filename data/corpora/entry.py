"""What every corpus gives: its clips, one after the other, each with its official split."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data.errors import InputError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
"""Endings of sound files, in the order in which they are preferred."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a corpus.

    Attributes:
        split: The official split that it is in; `train` where there are none.
        id: Unique in its corpus.
        path: The sound file; None where the corpus lists one that is not there.
        text: What is said or heard, as it is to be learned; empty for what is not to be trained on.
        task: What is asked: asr, audiocaption, QA, and so on (`data/prompts.json`).
        references: All texts that are right, where a test set has several.
        question: What is asked, for QA.
        duration_s: Length in seconds, where the corpus states it.
        start_s: Where the clip begins in the file.
        end_s: Where it ends; 0 for the file's end.
        corpus: Where it comes from, if not from the corpus that is read.
        testset_id: Its name in a submission.
        content: The sound file itself, where it lies within another file.
    """

    split: str
    id: str
    path: Path | None
    text: str
    task: str
    references: tuple[str, ...] = ()
    question: str = ""
    duration_s: float | None = None
    start_s: float = 0.0
    end_s: float = 0.0
    corpus: str = ""
    testset_id: str = ""
    content: bytes | None = None


class Corpus(Protocol):
    """A module that reads one corpus.

    Attributes:
        NAME: What it is called, in commands, in ids and in the rows.
        LAYOUT: What it looks for, in a few words, for messages.
    """

    NAME: str
    LAYOUT: str

    @staticmethod
    def entries(root: Path, lists: Path) -> Iterator[Entry]:
        """Reads the corpus.

        Args:
            root: The folder with its sound files, at any depth.
            lists: The folder or file with what is said of them; often the same folder.

        Raises:
            InputError: Something that is looked for is not there, or is not as it should be.
        """


def found(folder: Path, *patterns: str) -> list[Path]:
    """The files below a folder that fit one of some patterns, sorted; the folder itself where it is such a file."""
    if folder.is_file():
        return [folder] if any(folder.match(pattern) for pattern in patterns) else []
    return sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})


def lines_of(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        InputError: It is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({error}); fetch it again") from None


def csv_rows(path: Path, *columns: str, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, without empty columns.

    Raises:
        InputError: A column is missing, a row is too short, or the file is not UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Tabs need no quotes: there a quotation mark is one.
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, restval=None)
        try:
            if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
                raise InputError(f"{path}: no column '{missing[0]}'; it has {', '.join(reader.fieldnames or ['none'])}")
            for row in reader:
                if short := [name for name in columns if row[name] is None]:
                    raise InputError(
                        f"{path}, line {reader.line_num}: too short, it has no '{short[0]}'; mend the line"
                    )
                yield {name: value.strip() for name, value in row.items() if name and isinstance(value, str)}
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error}); write it again") from None


class SoundFiles:
    """The sound files below a folder, looked up by name (without its ending) and by a folder on the way to it."""

    def __init__(self, root: Path) -> None:
        self.root, self._by_stem = root, {}
        for folder, _, names in os.walk(root, followlinks=True):
            for name in names:
                stem, ending = os.path.splitext(name)
                if ending.lower() in SOUNDS:
                    self._by_stem.setdefault(stem, []).append(os.path.join(folder, name))

    def find(self, *stems: str, within: str = "") -> Path | None:
        """The first of these names that there is, in a folder `within` if it is named; None if there is none."""
        for stem in stems:
            for path in sorted(self._by_stem.get(stem, ())):
                if not within or within == self.root.name or within in Path(path).relative_to(self.root).parts[:-1]:
                    return Path(path)
        return None
