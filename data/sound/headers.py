"""Headers of sound files: length, rate and channels without decoding, and a fingerprint of the content."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.sound.decode import sound_info

_PROBE = 4096
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a sound file without decoding it.

    Attributes:
        duration_s: Length in seconds, as the header has it; 0 for a file without samples.
        sample_rate: In Hz; 0 where the file is not readable.
        channels: How many; 0 where the file is not readable.
        fingerprint: Of the content, 16 hexadecimal digits: equal for equal files. It is taken of the file's size and
            of 4 KiB at its beginning, middle and end, so two files that differ elsewhere alone share it.
        fault: Why the header is not readable; empty where it is.
    """

    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    fingerprint: str = ""
    fault: str = ""


def read_header(path: str | Path) -> Header:
    """Reads one header; a fault is told in it and not raised."""
    try:
        found = fingerprint(path)
        info = sound_info(Path(path))
        return Header(info.seconds, info.rate, info.channels, found)
    except FileNotFoundError:
        return Header(fault="no such file")
    except OSError as error:
        return Header(fault=f"cannot be read ({error.strerror})")
    except InputError as error:
        return Header(fault=str(error).removeprefix(f"{path}: ").split(";")[0])


def read_headers(paths: Iterable[str | Path], pool: Executor) -> Iterator[Header]:
    """Headers in the order of the paths, read by the workers of a pool.

    Args:
        paths: Sound files; all are handed to the pool at once, so give a long list piece by piece.
        pool: Threads (enough where the disk is slow to answer) or processes (where it is not).
    """
    return pool.map(read_header, paths, chunksize=_CHUNK)


def fingerprint(path: str | Path) -> str:
    """Of a file's size, and of blocks at its beginning, middle and end (see `Header`).

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
        for start in (0, size // 2, max(size - _PROBE, 0)):
            file.seek(start)
            digest.update(file.read(_PROBE))
    return digest.hexdigest()
