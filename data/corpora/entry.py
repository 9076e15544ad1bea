"""What every corpus gives: its clips, one after the other, each with its official split."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data.corpora.files import Files
from data.errors import one_line


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a corpus.

    Attributes:
        split: The official split that it is in; `train` where there are none.
        id: Unique in its corpus.
        path: The sound file; None where the corpus lists one that is not there.
        text: What is said or heard; empty for what is not to be trained on.
        task: What is asked: asr, audiocaption, QA, and so on (`data/prompts.json`).
        references: All texts that are right, where a test set has several.
        question: What is asked, for QA.
        start_s: Where the clip begins in the file.
        end_s: Where it ends; 0 for the file's end.
        duration_s: How long the corpus says that it is; NaN where it says nothing.
        corpus: Where it comes from, if not from the corpus that is read.
        testset_id: Its name in a submission.
        content: The sound file itself, where it lies within another file.
        left_out: Why it is no row, where the corpus itself says so: "that ...".
        where: What messages call it, such as a list and a line; its id if empty.
    """

    split: str
    id: str
    path: Path | None
    text: str
    task: str
    references: tuple[str, ...] = ()
    question: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    duration_s: float = math.nan
    corpus: str = ""
    testset_id: str = ""
    content: bytes | None = None
    left_out: str = ""
    where: str = ""


class Corpus(Protocol):
    """A module that reads one corpus.

    Attributes:
        NAME: What it is called, in commands, in ids and in the rows.
        LAYOUT: What it looks for, in a few words, for messages.
        NORMALISE: How its transcripts are written down unless the person says otherwise: `english`, as `normalise`
            (`data/text.py`) leaves them; `none`, as they are.
    """

    NAME: str
    LAYOUT: str
    NORMALISE: str

    @staticmethod
    def entries(sounds: Files, lists: Files, **options: Any) -> Iterator[Entry]:
        """Reads the corpus.

        Args:
            sounds: Its sound files, at any depth.
            lists: What is said of them; often the same folder.
            options: What this corpus alone can be asked.

        Raises:
            InputError: Something that is looked for is not there, or is not as it should be.
        """


def tell_unread(place: object, names: list[str]) -> None:
    """Tells of keys or columns that a reader passes over."""
    if names:
        print(one_line(f"note: {place}: not read: {', '.join(names)}"), file=sys.stderr, flush=True)
