"""What can be wrong with a row: the classes, from which threshold on, and what a recipe does with the rows of each."""

from typing import Literal, get_args

from pydantic import Field

from data.manifest import Mono
from data.settings import Settings

Fault = Literal[
    "unreadable",
    "zero_length",
    "too_short",
    "too_long",
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


class Thresholds(Settings):
    """From where on a row is at fault."""

    min_seconds: float = Field(1.0, ge=0, description="too_short: clips shorter than this, seconds")
    max_seconds: float = Field(30.0, gt=0, description="too_long: clips longer than this, seconds")
    silence_db: float = Field(-60.0, le=0, description="silent: no sample above this, dB of full scale")
    clipped_share: float = Field(0.001, gt=0, le=1, description="clipped: at least this share of samples at full scale")
    max_text_tokens: int = Field(
        300, ge=1, description="long_text: more tokens, taken as the words or a quarter of the characters"
    )
    mono: Mono = Field("first", description="silent: what is heard of several channels, the first or their mean")

    def fault_of_length(self, duration_s: float) -> Fault | None:
        """The fault of a clip's length, if any."""
        if duration_s <= 0:
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
