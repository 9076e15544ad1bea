"""What can be wrong with a row: the classes, from which threshold on, and what a recipe does with the rows of each."""

from typing import Literal, get_args

from pydantic import Field

from data.rows.row import Mono
from data.settings import Settings

LEAST_S = 0.025
"""A frame of the spectrum, seconds: in less there is nothing to hear but a click."""

Fault = Literal[
    "unreadable",
    "zero_length",
    "too_short",
    "too_long",
    "wrong_length",
    "silent",
    "clipped",
    "nan",
    "duplicate_audio",
    "duplicate_id",
    "no_text",
    "long_text",
    "missing_file",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
"""A row may have several; one without any is `ok`."""


class Lengths(Settings):
    """From where on clips and texts are too short or too long."""

    min_seconds: float = Field(1.0, ge=0, description="too_short: clips shorter than this, seconds")
    max_seconds: float = Field(30.0, gt=0, description="too_long: clips longer than this, seconds")
    max_text_tokens: int = Field(
        300, ge=1, description="long_text: more tokens, taken as the words or a quarter of the characters"
    )

    def fault_of_length(self, duration_s: float) -> Fault | None:
        """The fault of a clip's length, if any."""
        if duration_s < LEAST_S:
            return "zero_length"
        if duration_s < self.min_seconds:
            return "too_short"
        return "too_long" if duration_s > self.max_seconds else None

    def fault_of_text(self, text: object) -> Fault | None:
        """The fault of a row's text, if any: None, another thing than a string, and blanks are no text."""
        if not isinstance(text, str) or not text.strip():
            return "no_text"
        # No tokenizer here: English has a word or four characters to a token, whichever makes more of a text.
        return "long_text" if max(len(text.split()), len(text) / 4) > self.max_text_tokens else None


class Thresholds(Lengths):
    """From where on a row is at fault."""

    silence_db: float = Field(-60.0, le=0, description="silent: no sample above this, dB of full scale")
    clipped_share: float = Field(0.001, gt=0, le=1, description="clipped: at least this share of samples at full scale")
    mono: Mono = Field("first", description="silent: what is heard of several channels, the first or their mean")


class FaultPolicies(Settings):
    """What is done with training rows of each fault; what is dropped is counted and named in the log.

    A row of several faults is treated by the strictest of them. Missing files, texts, ids and lengths are found when
    rows are read; the rest is known of the rows that a scan has listed (`data.scan`).
    """

    missing_file: Literal["stop", "drop"] = Field("stop", description="no such sound file; stop: refuse to start")
    unreadable: Literal["stop", "drop", "keep"] = Field(
        "stop",
        description="not decodable; drop: also where training finds it; keep: caching lists it among its failures, "
        "training stops at it",
    )
    zero_length: Literal["stop", "drop"] = Field("drop", description="under 25 ms: no frame of sound")
    too_short: Literal["stop", "drop", "keep"] = Field("keep", description="keep: padded with zeros to 1 s")
    too_long: Literal["stop", "drop", "crop", "split"] = Field(
        "crop",
        description="crop: the first 30 s are heard; split: captions, into parts of max_seconds with the whole text "
        "(other tasks are dropped: what is said in a part is not known)",
    )
    wrong_length: Literal["stop", "drop"] = Field(
        "stop", description="states a start, end or duration that is not the sound's, by over 0.25 s and 2%"
    )
    silent: Literal["stop", "drop", "keep"] = Field("drop", description="nothing to hear")
    clipped: Literal["stop", "drop", "keep"] = Field("keep", description="recorded too loud")
    nan: Literal["stop", "drop"] = Field("drop", description="samples that are no numbers")
    duplicate_audio: Literal["stop", "drop", "keep"] = Field("keep", description="the sound of an earlier file again")
    duplicate_id: Literal["stop", "drop"] = Field("stop", description="drop: the first row of the id stays")
    no_text: Literal["stop", "drop", "teacher"] = Field(
        "drop", description="teacher: cached with the teacher's text, and trained on that (train.hypotheses)"
    )
    long_text: Literal["stop", "drop", "crop"] = Field("crop", description="crop: cut to 300 tokens")
    max_dropped: float = Field(
        0.2, ge=0, le=1, description="share of a file's rows that may be dropped; more stop the run"
    )
