"""What a model wrote of a sound."""

from dataclasses import asdict, dataclass
from typing import Literal

Flag = Literal["silence", "cut", "repeats"]
"""Why a text is not the whole one, or none: nothing was there to be heard (of speech: nobody speaks), the text was cut
where the sound allows no more, or it went in circles and was stopped there."""
Task = Literal["transcribe", "caption", "ask"]


@dataclass(frozen=True)
class Segment:
    """A part of a sound.

    Attributes:
        start_s: Where it begins, seconds.
        end_s: Where it ends.
        text: What was written of it.
        flags: What is to be known of the text.
        logp: Mean log-probability of the text's tokens; 0 where there is no text.
    """

    start_s: float
    end_s: float
    text: str
    flags: tuple[Flag, ...] = ()
    logp: float = 0.0


@dataclass(frozen=True)
class Result:
    """A sound's text.

    Attributes:
        text: The segments' texts: of speech one after the other, of captions and answers a line each.
        segments: In their order in time.
        seconds: Length of the sound.
    """

    text: str
    segments: tuple[Segment, ...]
    seconds: float

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Those of any segment; `silence` where all of it is silent."""
        if all("silence" in segment.flags for segment in self.segments):
            return ("silence",)
        found = {flag for segment in self.segments for flag in segment.flags}
        return tuple(sorted(found - {"silence"}))

    def as_dict(self) -> dict:
        """For JSON: times to the millisecond."""
        segments = [
            asdict(of)
            | {"start_s": round(of.start_s, 3), "end_s": round(of.end_s, 3)}
            | {"flags": list(of.flags), "logp": round(of.logp, 4)}
            for of in self.segments
        ]
        return {"text": self.text, "seconds": round(self.seconds, 3), "flags": list(self.flags), "segments": segments}


@dataclass(frozen=True)
class Piece:
    """Some text as it is written; of all pieces together it is the result's.

    Attributes:
        text: What is new.
        segment: The segment that ends with it.
    """

    text: str
    segment: Segment | None = None


SEPARATOR: dict[Task, str] = {"transcribe": " ", "caption": "\n", "ask": "\n"}
"""What stands between the segments' texts."""


def result_of(task: Task, segments: list[Segment], seconds: float) -> Result:
    """A sound's text, of its segments."""
    text = SEPARATOR[task].join(segment.text for segment in segments if segment.text)
    return Result(text, tuple(segments), seconds)
