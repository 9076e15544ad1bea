"""Synthesised speech: thousands of sentences, each said by one voice."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.mini import espeak, flite, pico, piper
from data.mini.changes import changed
from data.mini.clips import ASR, Clip, Splits, at_level, silence, trimmed
from data.mini.sentences import sentences
from data.sound.audio import resample
from data.text import normalise

NAME = "synthetic"
_ENGINES = {"piper": piper, "flite": flite, "espeak": espeak}
# Sentences by engine: the neural voice is the most natural, espeak-ng's are the most varied and made the fastest.
_TRAIN = {"piper": 500, "flite": 350, "espeak": 350}
_EXTRA = {"piper": 6000, "flite": 7000, "espeak": 6000}
_CHANGED = 0.5  # of the clips
_RATES, _SHIFTS, _VARIATIONS, _PITCHES = (0.85, 1.2), (0.9, 1.2), (0.7, 1.2), (-20, 20)


@dataclass(frozen=True)
class Spoken:
    """A sentence said by a synthetic voice.

    Attributes:
        rate: Speed of the speech, 1 for the voice's own.
        shift: Factor of its pitch and formants, as of a larger or smaller person.
        pitch: Of espeak-ng's voices, of 100 above their own.
        variation: Of melody and rhythm of the neural voice, 1 for its own.
        seed: Of this variation.
    """

    id: str
    said: str
    text: str
    engine: str
    voice: str
    rate: float
    shift: float = 1.0
    pitch: int = 0
    variation: float = 1.0
    seed: int = 0
    task: str = ASR
    references: tuple[str, ...] = ()

    @property
    def corpus(self) -> str:
        """Which engine it is."""
        return f"{NAME}_{self.engine}"

    def render(self) -> np.ndarray:
        """The voice at one loudness, with 0.1 s of silence around it."""
        # Resampling shifts the voice, and would make it faster too.
        rate = self.rate / self.shift
        if self.engine == "piper":
            samples, sample_rate = piper.say(self.said, rate, self.variation, self.seed)
        elif self.engine == "flite":
            samples, sample_rate = flite.say(self.said, self.voice, rate)
        else:
            samples, sample_rate = espeak.say(self.said, self.voice, rate, self.pitch)
        samples = trimmed(resample(samples, sample_rate * self.shift))
        return np.concatenate([silence(0.1), at_level(samples, 0.08), silence(0.1)])


def splits() -> Splits:
    """A stretch of the sentences for each engine, of the short recipe and of the long one."""
    for engine in _ENGINES.values():
        engine.fetched()  # here, once, and not by each of the processes that render
    left = iter(sentences()[pico.SENTENCES :])
    return Splits(train=list(_spoken(left, _TRAIN, "train")), extra=list(_spoken(left, _EXTRA, "extra")))


def _spoken(left: Iterator[str], counts: dict[str, int], split: str) -> Iterator[Clip]:
    rng = random.Random(f"synthetic {split}")
    for engine, count in counts.items():
        for number in range(count):
            said = next(left)
            clip = Spoken(
                f"{NAME}-{split}-{engine}-{number:05d}",
                said,
                normalise(said),
                engine,
                rng.choice(_ENGINES[engine].VOICES),
                round(rng.uniform(*_RATES), 2),
                shift=1.0 if engine == "espeak" else round(rng.uniform(*_SHIFTS), 2),
                pitch=rng.randint(*_PITCHES) if engine == "espeak" else 0,
                variation=round(rng.uniform(*_VARIATIONS), 2) if engine == "piper" else 1.0,
                seed=rng.randrange(2**31) if engine == "piper" else 0,
            )
            yield changed(clip, rng) if rng.random() < _CHANGED else clip
