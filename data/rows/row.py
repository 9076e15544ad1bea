"""One clip with its task and text, as everything over the annotation knows it."""

from dataclasses import dataclass, field
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
        fingerprint: Of the sound file's content (`data.sound.headers`); empty in rows of JSON, whose sounds may be
            mended while the rows stay the same.
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
    fingerprint: str = field(default="", compare=False)

    def fault_of_length(self, file_s: float) -> str:
        """What is wrong with its times, of a sound file of so many seconds; empty where nothing is."""
        return fault_of_times(self.path, self.start_s, self.end_s, self.duration_s, file_s)


def stretch_s(start_s: float, end_s: float, file_s: float) -> float:
    """Length of a stretch of a sound file of so many seconds; an end of 0 is the file's."""
    return max(min(end_s or file_s, file_s) - start_s, 0.0)


def fault_of_times(path: Path | str, start_s: float, end_s: float, duration_s: float, file_s: float) -> str:
    """What is wrong with a row's times, of a sound file of so many seconds; a duration of NaN is one not stated."""
    for key, at in (("start", start_s), ("end", end_s)):
        if at > file_s and lengths_differ(at, file_s):
            return f'"{key}" is {at:g} s, but {path} ends at {file_s:.2f} s; mend it, or leave it out'
    there_s = stretch_s(start_s, end_s, file_s)
    if lengths_differ(duration_s, there_s):
        return (
            f'"duration" is {duration_s:g} s, but there are {there_s:.2f} s of sound in {path}; state the clip\'s '
            "seconds, or leave it out"
        )
    return ""


def lengths_differ(stated_s: float, there_s: float) -> bool:
    """Whether a stated length is another than the sound's: by over 0.25 s and 2%, as headers and rounding are not."""
    return abs(stated_s - there_s) > 0.25 + 0.02 * there_s
