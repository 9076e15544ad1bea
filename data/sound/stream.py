"""A sound of any length as the models hear it, mono at 16 kHz, a block at a time: an hour never lies in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from data.errors import InputError
from data.rows.faults import LEAST_S
from data.rows.row import Mono
from data.sound.audio import SAMPLE_RATE, to_mono
from data.sound.decode import Sound, blocks, sound_info
from data.sound.source import MOST_CHANNELS, block_frames, require_plausible


@dataclass(frozen=True, eq=False)
class Samples:
    """A sound that is decoded already.

    Attributes:
        samples: Shape [frames] or [frames, channels]; floats of which 1 is full scale, or integers of 16 or 32 bits.
        rate: Samples a second.
        name: What messages call it.
    """

    samples: np.ndarray
    rate: int
    name: str = "samples"

    def __post_init__(self) -> None:
        kind, shaped = self.samples.dtype, self.samples.ndim in (1, 2) and 1 <= self.channels <= MOST_CHANNELS
        if not shaped or not (kind.kind == "f" or kind in (np.int16, np.int32)):
            raise InputError(
                f"{self.name}: {kind} of shape {self.samples.shape}; give floats, or integers of 16 or 32 bits, "
                f"[frames] or [frames, channels], of at most {MOST_CHANNELS}"
            )
        require_plausible(self.name, self.rate, self.channels)

    def __str__(self) -> str:
        return self.name

    @property
    def channels(self) -> int:
        """How many."""
        return self.samples.shape[1] if self.samples.ndim == 2 else 1

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate


def seconds_of(sound: Sound | Samples) -> float:
    """A sound's length, as its header has it.

    Raises:
        InputError: It is no sound.
    """
    return sound.seconds if isinstance(sound, Samples) else sound_info(sound).seconds


def mono_blocks(sound: Sound | Samples, mono: Mono = "first") -> Iterator[np.ndarray]:
    """Decodes a sound, at most about 30 s at a time, and of many channels less.

    What comes is, joined, what `load_audio` gives of a sound of 1 to 30 s. One that is silent is none that is faulty.

    Args:
        sound: A file of any format that is read here, or samples.
        mono: What is heard of several channels.

    Yields:
        float32 samples at 16 kHz, shape [samples].

    Raises:
        InputError: It cannot be decoded, holds no or hardly any samples or such as are not finite, or its first channel
            alone is silent, where that is what is heard.
    """
    resampler, frames, rate, silent, others = None, 0, SAMPLE_RATE, True, False
    for samples, rate in _decoded(sound):
        part = to_mono(samples, mono)
        if not np.isfinite(part).all():
            raise InputError(f"{sound}: holds NaN or infinite samples; write it again from its source")
        frames, silent, others = frames + len(part), silent and not part.any(), others or bool(samples.any())
        if rate == SAMPLE_RATE:
            yield part.astype(np.float32, copy=False)
            continue
        resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        yield resampler.resample_chunk(part.astype(np.float32, copy=False))
    if frames < LEAST_S * rate:
        raise InputError(
            f"{sound}: {1000 * frames / rate:.3g} ms of sound, less than one frame of {1000 * LEAST_S:g} ms"
        )
    if silent and others:
        raise InputError(f"{sound}: silent on the first channel alone, which is the one that is heard; make it mono")
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _decoded(sound: Sound | Samples) -> Iterator[tuple[np.ndarray, int]]:
    if not isinstance(sound, Samples):
        yield from blocks(sound)
        return
    samples = sound.samples if sound.samples.ndim == 2 else sound.samples[:, None]
    scale = 1 if samples.dtype.kind == "f" else -float(np.iinfo(samples.dtype).min)
    frames = block_frames(sound.rate, sound.channels)
    for first in range(0, len(samples), frames):
        part = samples[first : first + frames]
        yield (part if scale == 1 else part / np.float32(scale)), sound.rate
