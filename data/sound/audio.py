"""A clip as the models hear it: float32 mono at 16 kHz, between 1 and 30 seconds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr

from data.errors import InputError
from data.rows.faults import LEAST_S
from data.rows.row import Mono, Row, lengths_differ
from data.rows.shards import read_member
from data.sound.decode import Sound, blocks
from data.sound.headers import fingerprint

SAMPLE_RATE = 16_000
MIN_SECONDS = 1
MAX_SECONDS = 30


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """From `rate` to 16 kHz, as librosa does with `soxr_hq` (without its slow import)."""
    if rate == SAMPLE_RATE:
        return samples
    length = int(np.ceil(len(samples) * SAMPLE_RATE / rate))
    out = soxr.resample(samples, rate, SAMPLE_RATE, quality="soxr_hq")[:length]
    return np.pad(out, (0, length - len(out)))


def to_mono(samples: np.ndarray, mono: Mono) -> np.ndarray:
    """One channel, shape [frames], of samples [frames, channels]."""
    return samples[:, 0] if mono == "first" or samples.shape[1] == 1 else samples.mean(1)


def load_clip(row: Row) -> np.ndarray:
    """The clip of an annotation row, as the row says that it is heard (see `load_audio`).

    Raises:
        InputError: Also where it is not as long as the row states: batches are made by that.
    """
    member = read_member(row.path)
    sound, start_s = (row.path, row.start_s) if member is None else (member, row.start_s - member.begin_s)
    samples, rate = _decoded(sound, start_s, row.end_s - row.start_s if row.end_s else None, row.mono)
    heard_s, stated_s = len(samples) / rate, min(row.duration_s, MAX_SECONDS)
    if stated_s and lengths_differ(stated_s, heard_s):
        raise InputError(
            f"{sound}: {heard_s:.2f} s are heard, where row {row.id} states {stated_s:g} s; mend its times, or leave "
            "its duration out"
        )
    return _as_heard(samples, rate)


def load_clips(rows: Sequence[Row]) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Those clips of rows that can be heard, and why the others cannot; both by place."""
    waves, faults = {}, {}
    for i, row in enumerate(rows):
        try:
            waves[i] = load_clip(row)
        except InputError as error:
            faults[i] = str(error)
    return waves, faults


def sound_of(row: Row) -> str:
    """The fingerprint of a row's sound file as it is; of one that is in a shard, or not there, as its manifest has it.

    Returns:
        Empty where neither is known.
    """
    try:
        return fingerprint(row.path)
    except OSError:
        return row.fingerprint


def load_audio(sound: Sound | str, *, start_s: float = 0.0, end_s: float = 0.0, mono: Mono = "first") -> np.ndarray:
    """Reads a sound file as the models hear it.

    Made mono, resampled to 16 kHz, cut to 30 s, padded with zeros to 1 s.

    Args:
        sound: A file (wav, flac, ogg, mp3, m4a, ...).
        start_s: Where the clip begins in it, seconds.
        end_s: Where the clip ends in it, seconds; 0: at its end.
        mono: What is heard of several channels.

    Returns:
        float32 samples, shape [samples], between 16,000 and 480,000 of them.

    Raises:
        InputError: The file is missing, empty, truncated, not sound, not finite, silent, or no frame long.
    """
    sound = Path(sound) if isinstance(sound, str) else sound
    return _as_heard(*_decoded(sound, start_s, end_s - start_s if end_s else None, mono))


def _decoded(sound: Sound, start_s: float, seconds: float | None, mono: Mono) -> tuple[np.ndarray, int]:
    """One channel of a stretch, at most 30 s long, and its rate."""
    parts, rate, others = [], 0, False
    for part, own_rate in blocks(sound, start_s=start_s, seconds=min(seconds or MAX_SECONDS, MAX_SECONDS)):
        parts.append(np.ascontiguousarray(to_mono(part, mono)))  # a copy: the others' memory is freed
        with np.errstate(invalid="ignore"):  # NaN is told below
            rate, others = own_rate, others or bool(part.any())
    if not parts:
        raise InputError(f"{sound}: holds no samples; fetch or record it again, or drop its row")
    samples = np.concatenate(parts)
    if len(samples) < LEAST_S * rate:
        raise InputError(
            f"{sound}: {1000 * len(samples) / rate:.3g} ms of sound, less than one frame of {1000 * LEAST_S:g} ms; "
            "record it again, or drop its row"
        )
    if not np.isfinite(samples).all():
        raise InputError(f"{sound}: holds NaN or infinite samples; write it again from its source, or drop its row")
    if not samples.any():
        if mono == "first" and others:
            raise InputError(
                f"{sound}: silent on the first channel alone; hear all with data.mono=mix, or drop its row"
            )
        raise InputError(f"{sound}: silent, every sample is zero; record it again, or drop its row")
    return samples, rate


def _as_heard(samples: np.ndarray, rate: int) -> np.ndarray:
    samples = resample(samples, rate)[: MAX_SECONDS * SAMPLE_RATE].astype(np.float32, copy=False)
    return np.pad(samples, (0, max(0, MIN_SECONDS * SAMPLE_RATE - len(samples))))
