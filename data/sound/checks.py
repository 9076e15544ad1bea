"""One sound file looked at: its header and fingerprint, and on request every sample of it."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.sound.decode import blocks
from data.sound.headers import read_header

FULL_SCALE = 0.999
"""Amplitude from which a sample counts as clipped (1 is the most that integer samples can have)."""


@dataclass(frozen=True, slots=True)
class SoundCheck:
    """What was found in a sound file.

    Attributes:
        size: Bytes of the file.
        mtime_ns: When it was last changed: a file of the same size and time is not looked at again.
        fault: Why it cannot be read; empty where it can.
        missing: Whether there is no such file.
        duration_s: Length in seconds; 0 for a file of no samples or no bytes.
        rate: Samples a second; 0 where the header cannot be read.
        channels: How many; 0 where the header cannot be read.
        fingerprint: Of the file's bytes, see `data.sound.headers`.
        decoded: Whether its samples were looked at; what follows is known only then.
        peak_first: Largest amplitude of the first channel.
        peak_mix: Largest amplitude of the channels' mean.
        clipped: Share of the samples at full scale.
        finite: Whether no sample is NaN or infinite.
        samples_hash: Of the samples, their rate and channels: equal where only the format differs.
    """

    size: int = 0
    mtime_ns: int = 0
    fault: str = ""
    missing: bool = False
    duration_s: float = 0.0
    rate: int = 0
    channels: int = 0
    fingerprint: str = ""
    decoded: bool = False
    peak_first: float = 0.0
    peak_mix: float = 0.0
    clipped: float = 0.0
    finite: bool = True
    samples_hash: str = ""


def check_sound(path: Path, *, decode: bool, known: tuple[int, int] | None = None) -> SoundCheck | None:
    """Looks at a file; what is wrong with it is told in the result.

    Args:
        path: The file.
        decode: Whether its samples are looked at too.
        known: Size and time of change when it was last looked at.

    Returns:
        What was found; None where the file is as it was then.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return SoundCheck(missing=True, fault=error.strerror or "no such file")
    if not stat.S_ISREG(status.st_mode):
        return SoundCheck(missing=True, fault="not a file")
    if known == (status.st_size, status.st_mtime_ns):
        return None
    of_file = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if not status.st_size:
        return SoundCheck(**of_file, decoded=decode)
    header = read_header(path)
    of_file |= {
        "fault": header.fault,
        "duration_s": header.duration_s,
        "rate": header.sample_rate,
        "channels": header.channels,
        "fingerprint": header.fingerprint,
    }
    if not decode or header.fault or not header.duration_s:
        return SoundCheck(**of_file, decoded=decode)
    try:
        return SoundCheck(**of_file, decoded=True, **_samples(path))
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ").split(";")[0]
        return SoundCheck(**of_file | {"fault": reason}, decoded=True)


def file_hash(path: Path) -> str:
    """A hash of all bytes of a file; empty where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _samples(path: Path) -> dict[str, object]:
    """What there is to say of a file's samples, in blocks: memory does not grow with its length."""
    digest = hashlib.blake2b(digest_size=16)
    peak_first = peak_mix = 0.0
    finite, clipped, count = True, 0, 0
    for samples, rate in blocks(path):
        if not count:
            digest.update(f"{rate} {samples.shape[1]}".encode())
        digest.update(samples.data)
        finite = finite and bool(np.isfinite(samples).all())
        heard = samples if finite else np.nan_to_num(samples)
        loud = np.abs(heard)
        clipped += int((loud >= FULL_SCALE).sum())
        count += samples.size
        peak_first = max(peak_first, float(loud[:, 0].max()))
        peak_mix = max(peak_mix, float(np.abs(heard.mean(1)).max()))
    return {
        "peak_first": peak_first,
        "peak_mix": peak_mix,
        "clipped": clipped / max(count, 1),
        "finite": finite,
        "samples_hash": digest.hexdigest(),
    }
