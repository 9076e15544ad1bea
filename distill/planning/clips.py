"""The clips that a run is planned for, by length, and the micro-batches that they make under a budget of seconds."""

from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.rows.manifest import Manifest
from data.sound.audio import SAMPLE_RATE
from data.sound.features import FBANK_BINS, HOP, WINDOW_S
from teacher.config import SalmonnConfig
from teacher.connector import windows_of
from teacher.encoder import encoder_frames
from teacher.processor import MAX_TEXT_TOKENS

CHARACTERS_A_TOKEN = 4.0
"""Of English text, about; a tokenizer need not be on this machine."""
TOKENS_A_SECOND = 4.0
"""Of speech, where no row says it: some 180 words a minute."""
_SHORTEST_S = 1.0
_GRID_S = 0.5
_END = 1


@dataclass(frozen=True)
class Clips:
    """Clips by length.

    Attributes:
        seconds: Distinct lengths, rising.
        number: How many clips each length has; none where it is only one that could be met.
        tokens: Mean text tokens of a clip of each length, the end symbol with them.
        longest: Most text tokens of a clip of each length: batches are padded to them.
        source: What they are counted from, for people.
    """

    seconds: np.ndarray
    number: np.ndarray
    tokens: np.ndarray
    longest: np.ndarray
    source: str

    @property
    def hours(self) -> float:
        """Of all clips."""
        return float(self.seconds @ self.number) / 3600


def stated_clips(hours: float, clips: int | None, tokens_a_second: float = TOKENS_A_SECOND) -> Clips:
    """Clips of one length, the mean; of the shortest and the longest there may be some too.

    Args:
        hours: Of all clips.
        clips: How many, at least 1; None: of 10 s.
        tokens_a_second: Text tokens of a second of sound.

    Raises:
        InputError: The mean is no length of a clip.
    """
    clips = max(round(hours * 360), 1) if clips is None else clips
    mean = hours * 3600 / clips
    if not _SHORTEST_S <= mean <= WINDOW_S:
        raise InputError(
            f"--hours {hours:g} of --clips {clips}: a clip of {mean:.1f} s on average; they have {_SHORTEST_S:g} to "
            f"{WINDOW_S} s here, so change one of them"
        )
    seconds = np.array(sorted({_SHORTEST_S, mean, float(WINDOW_S)}))
    tokens = np.minimum(np.ceil(seconds * tokens_a_second), MAX_TEXT_TOKENS) + _END
    number = np.where(seconds == mean, clips, 0)
    about = f"{hours:,.10g} hours in {clips:,} clips, {tokens_a_second:g} text tokens a second (as stated)"
    return Clips(seconds, number, tokens, tokens, about)


def counted_clips(rows: Manifest) -> Clips:
    """The clips of training rows; text tokens are counted by characters."""
    lengths = np.ceil(np.clip(rows.durations_s, _SHORTEST_S, WINDOW_S) / _GRID_S) * _GRID_S
    characters = np.fromiter(map(len, rows.values("text")), np.float64, len(rows))
    tokens = np.minimum(np.ceil(characters / CHARACTERS_A_TOKEN), MAX_TEXT_TOKENS) + _END
    seconds, at, number = np.unique(lengths, return_inverse=True, return_counts=True)
    longest = np.zeros(len(seconds))
    np.maximum.at(longest, at, tokens)
    about = f"{len(rows):,} rows, {rows.durations_s.sum() / 3600:,.1f} hours (counted)"
    return Clips(seconds, number, np.bincount(at, tokens) / number, longest, about)


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch of clips of one length, as one model gets it.

    Attributes:
        clips: How many.
        frames: Encoder frames of each, at 50 a second, silence that is heard with them.
        windows: Audio tokens of each.
        patches: BEATs' states of each; 0 without BEATs.
        positions: Positions of the LLM for each: prompt, audio tokens, text.
        texts: Supervised positions of each.
    """

    clips: int
    frames: int
    windows: int
    patches: int
    positions: int
    texts: int


def heard_seconds(config: SalmonnConfig, seconds: float) -> float:
    """Seconds of a clip that count against a budget (`SalmonnProcessor.seconds`)."""
    margin_s = WINDOW_S if config.margin_s is None else config.margin_s
    return min(max(seconds, 1.0) + margin_s, WINDOW_S)


def clips_within(config: SalmonnConfig, seconds: float, budget_s: float) -> int:
    """Clips of one length in a micro-batch under a budget of padded seconds: at least one."""
    return max(int(budget_s / heard_seconds(config, seconds)), 1)


def micro_batch(config: SalmonnConfig, clips: int, seconds: float, texts: float, prompt: int) -> MicroBatch:
    """A batch of clips of one length, of the shapes that `SalmonnProcessor` gives it.

    Args:
        config: The model's.
        clips: How many.
        seconds: Length of each.
        texts: Text tokens of each.
        prompt: Tokens of the prompt around the audio tokens.
    """
    window, stride = config.window_frames, config.window_stride
    heard = int(heard_seconds(config, seconds) * SAMPLE_RATE) // (2 * HOP)
    own = encoder_frames(-(-int(seconds * SAMPLE_RATE) // HOP))
    slots = heard
    if config.margin_s is None and not config.reference_padding:  # whole windows of the clip alone
        slots = min(window + max(-(-(own - window) // stride), 0) * stride, heard)
    windows = windows_of(slots, window, stride)
    patches = 0
    if config.beats_config:
        side = config.beats_config["input_patch_size"]
        patches = int(seconds * 100 - 2) // side * (FBANK_BINS // side)
    texts = round(texts)
    return MicroBatch(clips, heard, windows, patches, prompt + windows + texts, texts)
