"""Takes of labelled recordings: no recording that is in validation or test is in training.

Most kinds have one recording only, and a kind that is never heard in training cannot be named. So what is held out
are other recordings, mostly of another source, of kinds that training knows: another dog, not the same one later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from data.mini import gcompris, tuxpaint
from data.sound.audio import SAMPLE_RATE

_MAX_TAKE = 3.6  # seconds
_QUIET, _MIN_SECONDS = 1e-3, 0.3
_FAINT = 0.2  # a take fainter than this part of its recording's loudness does not show the sound
_READERS = {"gcompris": gcompris.recording, "tuxpaint": tuxpaint.recording}
_FARM = "explore_farm_animals"
# Compared with every recording of training by cross-correlation: none is the same.
_TEST = {
    **{f"{_FARM}/{kind}.ogg": f"a {kind}" for kind in ("cat", "cow", "dog", "duck", "horse", "pig", "sheep")},
    f"{_FARM}/owl.ogg": "an owl",
    f"{_FARM}/chickens.ogg": "a hen",
    "instruments/violin.ogg": "a violin",
}
_VALID = {
    "instruments/cello.ogg": "a cello",
    "instruments/cymbal.ogg": "a crash cymbal",
    "memory-sound/LRBark_1_LA_cut.ogg": "a dog",
}
_VALID_PICTURES = {"cow_white", "pig_golden", "pig_golden2"}


@dataclass(frozen=True)
class Take:
    """A stretch of a labelled recording, in samples at 16 kHz after trimming."""

    label: str
    source: str
    file: str
    start: int
    end: int

    def samples(self) -> np.ndarray:
        """The sound, with 5 ms fades against clicks."""
        samples = _READERS[self.source](self.file)[self.start : self.end].copy()
        fade = np.linspace(0, 1, SAMPLE_RATE // 200, dtype=np.float32)
        samples[: len(fade)] *= fade
        samples[-len(fade) :] *= fade[::-1]
        return samples


@cache
def takes() -> dict[str, tuple[Take, ...]]:
    """The takes for "train", "valid" and "test"."""
    found: dict[str, list[Take]] = {"train": [], "valid": [], "test": []}
    for file, label in tuxpaint.labelled().items():
        split = "valid" if file.rpartition("/")[2].removesuffix(".ogg") in _VALID_PICTURES else "train"
        found[split] += cut(label, "tuxpaint", file)
    for split, held_out in (("valid", _VALID), ("test", _TEST)):
        for file, label in held_out.items():
            found[split] += cut(label, "gcompris", file)
    return {split: tuple(chosen) for split, chosen in found.items()}


def cut(label: str, source: str, file: str) -> Iterator[Take]:
    """A recording in equal takes, none longer than 3.6 s; without those that are too faint."""
    samples = _READERS[source](file)
    if len(samples) < _MIN_SECONDS * SAMPLE_RATE or _rms(samples) <= _QUIET:
        return
    count = int(np.ceil(len(samples) / (_MAX_TAKE * SAMPLE_RATE)))
    edges = np.linspace(0, len(samples), count + 1).astype(int).tolist()
    for start, end in pairwise(edges):
        if _rms(samples[start:end]) > _FAINT * _rms(samples):
            yield Take(label, source, file, start, end)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt((samples**2).mean()))
