"""Recordings of animals and instruments out of the children's programs GCompris: only for validation and tests.

Its files are resource collections of the Qt library, version 3: a tree of nodes, the names, and the contents, each at
an offset that the header tells.
"""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from data.fetch import debian_package
from data.mini.clips import trimmed
from data.sound.audio import resample

_NODE = 22  # bytes


@cache
def recording(file: str) -> np.ndarray:
    """A sound, `COLLECTION/NAME`: float32, 16 kHz, trimmed."""
    collection, name = file.split("/")
    samples, rate = soundfile.read(io.BytesIO(contents(collection)[name]), dtype="float32", always_2d=True)
    samples = resample(samples[:, 0], rate)
    return trimmed(samples - samples.mean())


@cache
def contents(collection: str) -> dict[str, bytes]:
    """The files of a collection that are not compressed, by name."""
    return _Collection((_folder() / f"{collection}.rcc").read_bytes()).files(0)


@dataclass(frozen=True)
class _Collection:
    data: bytes

    def number(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self.data[at : at + size], "big")

    def files(self, node: int) -> dict[str, bytes]:
        tree, contents, names = (self.number(at) for at in (8, 12, 16))
        at = tree + node * _NODE
        flags = self.number(at + 4, 2)
        if flags & 2:  # a folder: how many nodes it has, and the first one
            found: dict[str, bytes] = {}
            for child in range(self.number(at + 6)):
                found |= self.files(self.number(at + 10) + child)
            return found
        if flags:
            return {}
        name, start = names + self.number(at), contents + self.number(at + 10)
        length = self.number(name, 2)
        written = self.data[name + 6 : name + 6 + 2 * length].decode("utf-16-be")
        return {written: self.data[start + 4 : start + 4 + self.number(start)]}


@cache
def _folder() -> Path:
    return debian_package("gcompris-qt-data") / "usr/share/gcompris-qt/rcc"
