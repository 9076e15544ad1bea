"""What happens to speech between a mouth and a recording: other speed, a room, noise, a telephone line, loudness."""

import random
from dataclasses import dataclass

import numpy as np

from data.mini.clips import Clip, at_level
from data.mini.takes import Take, takes
from data.sound.audio import SAMPLE_RATE, resample

_SPEEDS, _RT60, _SNR_DB, _LEVELS = (0.9, 1.1), (0.1, 0.6), (5.0, 30.0), (0.02, 0.16)
_ROOM, _NOISE, _TELEPHONE = 0.4, 0.5, 0.15  # how often
_HISS = 0.3  # of the noises: hiss, and no recorded sound
_BAND = (300.0, 3400.0)  # Hz


@dataclass(frozen=True)
class Changed:
    """A clip as it sounds elsewhere.

    Attributes:
        clip: The clip.
        name: What its id gets.
        speed: Of the sound; above 1 it is faster, and higher.
        rt60_s: Seconds in which the room's echo falls by 60 dB; 0 without a room.
        wet_db: Loudness of the echo against the direct sound.
        snr_db: Loudness of the speech against the noise; infinite without noise.
        noise: A recorded sound, again and again; without one, hiss.
        telephone: Whether only 300 to 3,400 Hz are left.
        level: Root of the mean square of the result.
        seed: Of echo and hiss.
    """

    clip: Clip
    name: str
    speed: float
    rt60_s: float
    wet_db: float
    snr_db: float
    noise: Take | None
    telephone: bool
    level: float
    seed: int

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{self.clip.id}-{self.name}"

    @property
    def text(self) -> str:
        """What is said."""
        return self.clip.text

    @property
    def task(self) -> str:
        """The clip's."""
        return self.clip.task

    @property
    def corpus(self) -> str:
        """The clip's."""
        return self.clip.corpus

    @property
    def references(self) -> tuple[str, ...]:
        """The clip's."""
        return self.clip.references

    def render(self) -> np.ndarray:
        """Speed first, then the room, then the noise, then the line."""
        rng = np.random.default_rng(self.seed)
        samples = resample(self.clip.render(), self.speed * SAMPLE_RATE)
        if self.rt60_s:
            samples = _in_room(samples, self.rt60_s, self.wet_db, rng)
        if np.isfinite(self.snr_db):
            samples = _with_noise(samples, self.noise, self.snr_db, rng)
        if self.telephone:
            samples = _through_telephone(samples)
        return at_level(samples, self.level)


def changed(clip: Clip, rng: random.Random, name: str = "changed") -> Changed:
    """A clip with changes drawn by `rng`; noises are recordings of training."""
    noise, room = rng.random() < _NOISE, rng.random() < _ROOM
    recorded = noise and rng.random() >= _HISS
    return Changed(
        clip,
        name,
        speed=round(rng.uniform(*_SPEEDS), 3),
        rt60_s=round(rng.uniform(*_RT60), 2) if room else 0.0,
        wet_db=round(rng.uniform(-15, -3), 1) if room else 0.0,
        snr_db=round(rng.uniform(*_SNR_DB), 1) if noise else float("inf"),
        noise=rng.choice(takes()["train"]) if recorded else None,
        telephone=rng.random() < _TELEPHONE,
        level=round(_LEVELS[0] * (_LEVELS[1] / _LEVELS[0]) ** rng.random(), 3),
        seed=rng.randrange(2**31),
    )


def _in_room(samples: np.ndarray, rt60_s: float, wet_db: float, rng: np.random.Generator) -> np.ndarray:
    """The direct sound, and noise that dies away, from 5 ms on, as its echo (Moorer 1979)."""
    times = np.arange(round(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(times)) * 10 ** (-3 * times / rt60_s) * (times > 0.005)
    echo *= 10 ** (wet_db / 20) / max(float(np.sqrt((echo**2).sum())), 1e-6)
    echo[0] = 1
    size = len(samples) + len(echo) - 1
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(echo, size)
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def _with_noise(samples: np.ndarray, take: Take | None, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    if take is None:
        noise = rng.standard_normal(len(samples)).astype(np.float32)
    else:
        recorded = np.roll(take.samples(), rng.integers(SAMPLE_RATE))
        noise = np.resize(recorded, len(samples))
    scale = np.sqrt((samples**2).mean() / max(float((noise**2).mean()), 1e-9)) * 10 ** (-snr_db / 20)
    return samples + noise * np.float32(scale)


def _through_telephone(samples: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(frequencies < _BAND[0]) | (frequencies > _BAND[1])] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)
