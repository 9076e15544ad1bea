"""The sounds that people give: a path, bytes, an open file, or samples with their rate."""

import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import InputError
from data.sound.decode import Sound, SoundBytes
from data.sound.stream import Samples

Given = str | os.PathLike | bytes | IO[bytes] | tuple[np.ndarray, int] | Sound | Samples
"""Whatever is taken for one sound; a list of them is a batch."""


def as_sound(given: Given) -> Sound | Samples:
    """A sound as `data/sound` reads it.

    Raises:
        InputError: It is none of `Given`.
    """
    if isinstance(given, SoundBytes | Samples):
        return given
    if isinstance(given, str | os.PathLike):
        return Path(given)
    if isinstance(given, bytes | bytearray | memoryview):
        return SoundBytes(bytes(given), "sound in memory")
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Integral):
        return Samples(np.asarray(given[0]), int(given[1]))
    if hasattr(given, "read"):
        content = given.read()
        if isinstance(content, bytes):
            return SoundBytes(content, str(getattr(given, "name", "sound in memory")))
    raise InputError(f"{type(given).__name__}: no sound; give a path, bytes, a file opened as 'rb', or (samples, rate)")


def all_of(given: Given | Iterable[Given]) -> list[Given] | None:
    """The sounds of a batch; None of one sound."""
    single = isinstance(given, str | os.PathLike | bytes | bytearray | memoryview | tuple | Samples)
    return None if single or hasattr(given, "read") or not isinstance(given, Iterable) else list(given)
