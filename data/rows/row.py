"""One clip with its task and text, as everything over the annotation knows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mono = Literal["first", "mix"]
"""What is heard of several channels: the first, as the reference does, or their mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """One clip with its task and text.

    Attributes:
        id: Unique in its manifest.
        path: Absolute path of the sound file.
        text: What the model is to say.
        task: Name of the prompt, such as `asr` or `audiocaption`.
        corpus: Where the clip comes from.
        duration_s: Length in seconds.
        references: All texts that are right, for scoring.
        question: What is asked, for question answering.
        testset_id: The name of the clip in a submission.
        start_s: Where the clip begins in its sound file, seconds.
        end_s: Where it ends there, seconds; 0 for the file's end.
        mono: What is heard of a file with several channels.
    """

    id: str
    path: Path
    text: str
    task: str
    corpus: str = ""
    duration_s: float = 0.0
    references: tuple[str, ...] = ()
    question: str = ""
    testset_id: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    mono: Mono = "first"
