"""What every corpus is made of: clips that are planned first (cheap, seeded) and rendered later (in parallel)."""

import re
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from data.sound.audio import SAMPLE_RATE

ASR = "asr"
AAC = "audiocaption"
PLAIN = re.compile(r"[A-Za-z' ,.!?-]+")
"""A subtitle of which all is said as it is written."""


class Clip(Protocol):
    """A planned clip. Its `repr` says all that its sound depends on, so a changed plan makes a new file."""

    id: str
    text: str
    task: str
    corpus: str
    references: tuple[str, ...]

    def render(self) -> np.ndarray:
        """The sound: float32, 16 kHz, [samples]."""


@dataclass
class Splits:
    """The clips of a corpus, or of several.

    Attributes:
        tests: Held out, by what the test set is called: `asr` becomes `test_asr.json`.
        valid: Held out.
        train: For the short recipe, and for the long one.
        extra: Training clips of the long recipe only.
    """

    tests: dict[str, list[Clip]] = field(default_factory=dict)
    valid: list[Clip] = field(default_factory=list)
    train: list[Clip] = field(default_factory=list)
    extra: list[Clip] = field(default_factory=list)

    @property
    def test(self) -> list[Clip]:
        """All test clips."""
        return [clip for clips in self.tests.values() for clip in clips]


def silence(seconds: float) -> np.ndarray:
    """Zeros, float32 at 16 kHz."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def trimmed(samples: np.ndarray, floor_db: float = 40.0, margin_s: float = 0.05) -> np.ndarray:
    """Without what is quieter than the loudest 20 ms by `floor_db` at both ends, but for a small margin."""
    hop = SAMPLE_RATE // 50
    if len(samples) < 2 * hop:
        return samples
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    level = np.sqrt((frames**2).mean(1))
    loud = np.flatnonzero(level >= level.max() * 10 ** (-floor_db / 20))
    margin = round(margin_s * SAMPLE_RATE)
    return samples[max(0, loud[0] * hop - margin) : (loud[-1] + 1) * hop + margin]


def at_level(samples: np.ndarray, rms: float) -> np.ndarray:
    """Scaled to a loudness, with its peaks below full scale."""
    scale = rms / max(float(np.sqrt((samples**2).mean())), 1e-6)
    return samples * min(scale, 0.95 / max(float(np.abs(samples).max()), 1e-6))
