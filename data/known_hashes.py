"""Hashes of large files that nobody writes to while they are used, such as weights: each is read once a process."""

from pathlib import Path

from data.paths import file_sha256

Stamp = tuple[str, int, int]
"""A file as it was when it was hashed: its path, its size in bytes, and when it was written, in nanoseconds."""

_known: dict[Stamp, str] = {}


def stamp_of(path: Path) -> Stamp:
    """A file as it is now."""
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; it is read only where it is another one than when it was last hashed."""
    stamp = stamp_of(path)
    if stamp not in _known:
        _known[stamp] = file_sha256(path)
    return _known[stamp]


def take_over(hashes: dict[Stamp, str]) -> None:
    """Knows what another process of this machine has hashed."""
    _known.update(hashes)
