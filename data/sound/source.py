"""Where a sound's bytes come from, a file or memory, and what is said of one that cannot be heard."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError


class SoundBytes(io.BytesIO):
    """A sound file that lies in memory.

    Args:
        content: The file's bytes.
        name: What messages call it.
        begin_s: Where it was cut out of a longer sound, seconds.
    """

    def __init__(self, content: bytes, name: str, begin_s: float = 0.0) -> None:
        super().__init__(content)
        self.name, self.begin_s = name, begin_s

    def __str__(self) -> str:
        return self.name


Sound = Path | SoundBytes
RATES = (1_000, 768_000)
"""Samples a second that a sound has."""
MOST_CHANNELS = 64
BLOCK_S, BLOCK_VALUES = 30, 1 << 23
"""A block is at most so long, and has at most so many values (frames x channels): 34 MB of float32. Up to 192 kHz of
one channel, 96 kHz of two and 44.1 kHz of six, 30 s are less."""
_HEAD = 4096
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """A sound file within a file, which may be several that were joined.

    Attributes:
        first: Where it begins.
        end: Where it ends.
        head: How its beginning must read so that the length stated in it is right; empty where it is.
    """

    first: int
    end: int
    head: bytes = b""


class Window:
    """A part of a sound's bytes, as a file of its own."""

    def __init__(self, sound: Sound, part: Part) -> None:
        self._sound, self._first, self._head, self._size = sound, part.first, part.head, part.end - part.first
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a byte, as files do."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """The next byte."""
        return self._at

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        with Probe(self._sound) as whole:
            content = whole.read(self._first + self._at, max(min(count, self._size - self._at), 0))
        head = self._head[self._at : self._at + len(content)]
        self._at += len(content)
        return head + content[len(head) :]


def rewound(sound: Sound) -> io.BytesIO | str:
    """The sound as libraries take it: a name, or a file at its beginning."""
    if isinstance(sound, SoundBytes):
        sound.seek(0)
        return sound
    return str(sound)


class Probe:
    """A sound opened once, to look at it here and there; its beginning is read once.

    Args:
        sound: The sound, which is what messages call it.
    """

    def __init__(self, sound: Sound) -> None:
        self.sound = sound
        # Memory has a place of its own: a library may be reading it meanwhile.
        self._file = io.BytesIO(sound.getvalue()) if isinstance(sound, SoundBytes) else open(sound, "rb", buffering=0)  # noqa: SIM115
        self.size = self._file.seek(0, os.SEEK_END)
        self._head = self._pread(0, _HEAD)

    def __str__(self) -> str:
        return str(self.sound)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, first: int, count: int) -> bytes:
        """Some bytes of it, fewer at its end."""
        return self._head[first : first + count] if first + count <= len(self._head) else self._pread(first, count)

    def places(self, *names: bytes, first: int = 0) -> Iterator[int]:
        """Where any of these names stands, from a byte on, in rising order."""
        most = max(map(len, names)) - 1
        while first < self.size:
            block = self._pread(first, _BLOCK + most)  # so that none is cut in two
            found = []
            for name in names:
                at = block.find(name)
                while 0 <= at < _BLOCK:
                    found.append(first + at)
                    at = block.find(name, at + 1)
            yield from sorted(found)
            first += _BLOCK

    def _pread(self, first: int, count: int) -> bytes:
        self._file.seek(first)
        return self._file.read(count)


def unreadable(sound: "Sound | Probe", reason: object) -> InputError:
    """What is said of a sound that a library cannot read."""
    short = str(getattr(reason, "strerror", None) or reason).split(": ", 1)[-1].rstrip(".")
    return InputError(f"{sound}: cannot be read as sound ({short}); fetch it again, or drop its row")


def truncated(sound: "Sound | Probe") -> InputError:
    """What is said of a sound that is not there to its end."""
    return InputError(f"{sound}: truncated, the file ends before its sound does; fetch it again, or drop its row")


def joined_unlike(sound: "Sound | Probe", what: str = "other rates or channels") -> InputError:
    """What is said of sounds that cannot be heard as one."""
    return InputError(f"{sound}: files of {what} joined to one; write them apart, or as one sound")


def require_plausible(sound: object, rate: int, channels: int) -> None:
    """Refuses what no sound is: a header may state any rate and number of channels, and a few bytes fill them.

    Raises:
        InputError: The rate or the number of channels is none of a sound.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(
            f"{sound}: {rate:,} samples a second; a sound has {RATES[0]:,} to {RATES[1]:,}: write it again at its rate"
        )
    if channels > MOST_CHANNELS:
        raise InputError(
            f"{sound}: {channels:,} channels; a sound has at most {MOST_CHANNELS}: write those heard alone"
        )


def block_frames(rate: int, channels: int) -> int:
    """Frames of a block, so that its memory is bounded whatever rate and channels are."""
    return max(min(BLOCK_S * rate, BLOCK_VALUES // channels), 1)
