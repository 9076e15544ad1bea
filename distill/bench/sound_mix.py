"""Sound files to measure with: real recordings, as long as those of SALMONN's training data."""

from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile

from data.errors import InputError
from data.paths import cache_dir
from data.rows.manifest_reader import read_manifest
from data.sound.audio import SAMPLE_RATE

MEDIAN_S, MEAN_S, MOST_S = 5.3, 11.2, 180.0
"""Of the 1.6 million clips of SALMONN's training data, seconds."""


def real_durations(count: int, seed: int = 0) -> np.ndarray:
    """Seconds of `count` clips: log-normal by median and mean, at most 180 s and at least a tenth of one."""
    spread = np.sqrt(2 * np.log(MEAN_S / MEDIAN_S))
    durations = np.random.default_rng(seed).lognormal(np.log(MEDIAN_S), spread, count)
    return durations.clip(0.1, MOST_S)


def write_mix(
    folder: Path, count: int, *, rates: tuple[int, ...] = (SAMPLE_RATE,), suffixes: tuple[str, ...] = ("flac", "wav")
) -> list[Path]:
    """Writes files of `real_durations`, from the mini recipe's recordings joined end to end.

    Args:
        folder: Where they go.
        count: How many.
        rates: Sample rates, Hz, in turn; a recording is not resampled but played faster.
        suffixes: Formats, in turn.

    Raises:
        InputError: The mini recipe's recordings are not there.
    """
    annotation = cache_dir() / "mini" / "train_small.json"
    if not annotation.is_file():
        raise InputError(f"{annotation}: no such file; run: bash scripts/setup.sh")
    folder.mkdir(parents=True)
    rows = read_manifest(annotation)
    recordings = cycle(rows[:: max(len(rows) // 500, 1)])
    written, left = [], np.zeros(0, np.float32)
    for number, seconds in enumerate(real_durations(count)):
        rate, suffix = rates[number % len(rates)], suffixes[number % len(suffixes)]
        wanted = round(seconds * rate)
        while len(left) < wanted:
            left = np.concatenate([left, soundfile.read(next(recordings).path, dtype="float32")[0]])
        written.append(folder / f"{number}.{suffix}")
        soundfile.write(written[-1], left[:wanted], rate)
        left = left[wanted:]
    return written
