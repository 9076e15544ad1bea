"""Tar shards: many sound files in one, on a disk or at any address that fsspec knows (s3, gs, hf, http, ...).

A shard is a plain tar in WebDataset's layout (`KEY.flac`, `KEY.json`, ...), which its readers take as it is. Here it is
read by place instead: beside the shards lies a manifest whose paths say where in which shard a sound is,
`000012.tar/1536+40213/name.flac` (first byte, bytes), and of one that was cut out of a long recording, where it began
there: `000012.tar/1536+40213@61.5/name.flac` (seconds). So rows, batches and the cache are what they are with loose
files, each rank fetches its own clips alone, and a run goes on from its step number as it does with files.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.compute as pc

from data.errors import InputError
from data.paths import cache_dir, resolve, written_whole
from data.rows.manifest import Manifest
from data.sound.decode import SoundBytes

MANIFEST = "manifest.arrow"
SHARD_NAME = "{:06d}.tar"
_MEMBER = re.compile(r"(.*\.tar)/(\d+)\+(\d+)(?:@([\d.e-]+))?/([^/]+)")
_REMOTE = re.compile(r"/([a-z][a-z0-9+.-]*):/(.*)")


def member_path(shard: int, first: int, size: int, name: str, begin_s: float = 0.0) -> str:
    """Where a sound lies, as a manifest's path."""
    cut = f"@{begin_s!r}" if begin_s else ""
    return f"{SHARD_NAME.format(shard)}/{first}+{size}{cut}/{name}"


def shards_of(rows: Manifest) -> np.ndarray:
    """The number of the shard that each row's sound lies in: int64 [rows]."""
    numbers = pc.cast(pc.utf8_slice_codeunits(rows.table.column("path"), 0, 6), "int64").to_numpy()
    return numbers if rows.indices is None else numbers[rows.indices]


def layout_hash(rows: Manifest) -> str:
    """A hash of which row lies where: another layout gives other batches."""
    return hashlib.sha256(shards_of(rows).tobytes()).hexdigest()


def read_member(path: Path) -> SoundBytes | None:
    """The sound at a path inside a shard; None for any other path.

    Raises:
        InputError: The shard cannot be read, or ends before the sound does.
    """
    if not (found := _MEMBER.fullmatch(str(path))):
        return None
    shard, first, size, begin_s, name = found[1], int(found[2]), int(found[3]), float(found[4] or 0), found[5]
    address = _address(shard)
    try:
        content = _files(address).cat_file(address, start=first, end=first + size)
    except Exception as error:  # each protocol's client has errors of its own
        raise InputError(f"{address}: cannot be read ({error}); check the shards, or make them again") from None
    if len(content) > size:
        raise InputError(
            f"{address}: the server gives no byte ranges (it sent {len(content):,} bytes for {size:,}); take one that "
            "does, or copy the shards to a disk"
        )
    if len(content) < size:
        raise InputError(f"{address}: ends before {name} does; fetch the shard again, or make it again")
    return SoundBytes(content, f"{address}/{name}", begin_s)


def shard_manifest(where: str) -> tuple[Path, Path | None]:
    """The manifest of a folder of shards, and the root of its paths (None: the manifest's own folder).

    That of a remote folder is copied into the cache folder once, and again where it has changed.

    Args:
        where: A folder as recipes name them, or an address.

    Raises:
        InputError: There is no manifest.
    """
    if "://" not in where:
        path = resolve(where) / MANIFEST
        if not path.is_file():
            raise InputError(f"{path}: no such manifest of shards; make them with scripts/shard_data.py")
        return path, None
    address = f"{where.rstrip('/')}/{MANIFEST}"
    try:
        files = _files(address)
        about: dict[str, Any] = files.info(address)
        key = repr([address, *(str(about.get(name)) for name in ("size", "ETag", "etag", "mtime", "LastModified"))])
        copy = cache_dir() / "shards" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.arrow"
        if not copy.is_file():
            with written_whole(copy) as temporary:
                files.get_file(address, str(temporary))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{address}: cannot be read ({error}); check the address in data.train") from None
    # A path has no double slash: s3://bucket/train becomes /s3:/bucket/train, and is turned back when it is read.
    return copy, Path("/" + where.rstrip("/"))


def _address(path: str) -> str:
    remote = _REMOTE.fullmatch(path)
    return f"{remote[1]}://{remote[2]}" if remote else path


def _files(address: str) -> fsspec.AbstractFileSystem:
    """What reads an address (fsspec keeps one of each kind); a path without a protocol is on a disk."""
    return fsspec.filesystem(address.partition("://")[0] if "://" in address else "file")
