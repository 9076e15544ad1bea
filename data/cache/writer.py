"""Writes a teacher cache: one process a rank, killed and started again at will."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from data.cache.files import check_identity, ids_of, read_failed, shards_of, write_features, write_table
from data.cache.places import Places
from data.cache.row import CachedRow, CacheIdentity
from data.errors import NO_ROOM, InputError
from data.locks import take_lock
from data.paths import written_whole


class CacheWriter:
    """Adds rows to a cache folder; killed at any moment and opened again, it goes on after the last whole shard.

    Example:
        >>> with CacheWriter(folder, identity, rank=0, world=1) as writer:  # doctest: +SKIP
        ...     for clip in clips_of_this_rank:
        ...         if clip.id not in writer.before:
        ...             writer.add(make_row(clip))
    """

    def __init__(self, folder: Path, identity: CacheIdentity, rank: int, world: int, shard_rows: int = 256):
        """Opens `folder`, new or begun.

        Args:
            folder: the cache folder; made if absent.
            identity: what the rows will be made from.
            rank: this process's number; each rank writes shards of its own.
            world: how many processes write.
            shard_rows: rows a shard; what a kill can cost.

        Raises:
            InputError: the folder holds a cache of another identity, or a broken shard; or another process is
                writing as this rank.
        """
        self._folder, self._identity, self._rank, self._shard_rows = Path(folder), identity, rank, shard_rows
        self._rows: list[CachedRow] = []
        if (self._folder / "identity.json").exists():
            self._identity = check_identity(self._folder, identity)  # which may know its sounds, or not
        elif any(self._folder.glob("shard-*.parquet")):
            raise InputError(f"{folder}: shards without identity.json; give another cache folder or empty this one")
        with self._room():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked(rank)
            if rank == 0:
                self._write_identity()
            self._remove_leftovers(world)
            self._end_half_line()
        self.before = Places(ids_of(shard, self._identity)[0] for shard in shards_of(self._folder))
        """The rows in all ranks' finished shards when the folder was opened."""
        self._added: set[str] = set()
        self._failed: set[str] = set()
        self._failed_read = read_failed(self._folder)[1]
        own = self._folder.glob(f"shard-{rank:05d}-*.parquet")
        self._next = max((int(shard.stem.split("-")[2]) + 1 for shard in own), default=0)

    def add(self, row: CachedRow) -> None:
        """Adds a row; every `shard_rows` rows a shard appears."""
        if self._is_done(row.id):
            raise InputError(f"{self._folder}: row {row.id!r} is there already; ids must be unique in a manifest")
        self._added.add(row.id)
        self._rows.append(row)
        if len(self._rows) >= self._shard_rows:
            self._flush()

    def fail(self, row_id: str, reason: str) -> None:
        """Lists a row that could not be decoded."""
        if self._is_done(row_id):
            return
        # One write to a file opened for appending: ranks do not cut each other's lines.
        line = json.dumps({"id": row_id, "reason": reason}) + "\n"
        with self._room(), open(self._folder / "failed.jsonl", "ab", buffering=0) as file:
            file.write(line.encode())

    def failures(self) -> int:
        """How many rows any rank has listed since this one opened the folder, but for those that are cached."""
        reasons, self._failed_read = read_failed(self._folder, self._failed_read)
        self._failed |= reasons.keys()
        return sum(not self._is_done(row_id) for row_id in self._failed)

    def _is_done(self, row_id: str) -> bool:
        return row_id in self._added or row_id in self.before

    def close(self) -> None:
        """Writes what is left."""
        self._flush()

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()

    @contextmanager
    def kept_in_error(self) -> Iterator[None]:
        """What was added before is written where an error ends the context."""
        try:
            yield
        except Exception:
            self.close()
            raise

    def _locked(self, rank: int) -> TextIO:
        """The lock file of a rank. (On a file system without locks shards are given numbers that are free.)"""
        return take_lock(
            self._folder / f"rank-{rank:05d}.lock",
            lambda other: (
                f"{self._folder}: {other} is writing this cache (as rank {rank}); wait for it to end, or cache into "
                "another folder"
            ),
        )

    def _write_identity(self) -> None:
        with suppress(FileExistsError), written_whole(self._folder / "identity.json", new=True) as path:
            path.write_text(json.dumps(asdict(self._identity), indent=2) + "\n")
        self._identity = check_identity(self._folder, self._identity)

    def _remove_leftovers(self, world: int) -> None:
        """Removes what a killed process of this rank left, and those of ranks that are no more."""
        for leftover in self._folder.glob(".shard-*.tmp"):
            owner = int(leftover.name.split("-")[1])
            if owner == self._rank or (self._rank == 0 and owner >= world):
                leftover.unlink(missing_ok=True)
        for features in self._folder.glob(f"shard-{self._rank:05d}-*.safetensors"):
            if not features.with_suffix(".parquet").exists():
                features.unlink(missing_ok=True)

    def _end_half_line(self) -> None:
        """Ends the line of failed.jsonl that a killed run may have left half-written; readers skip it."""
        path = self._folder / "failed.jsonl"
        if path.exists() and path.stat().st_size:
            with open(path, "rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def _flush(self) -> None:
        if not self._rows:
            return
        with self._room():
            if not (self._folder / "identity.json").exists():  # the first rank, which writes it, is late
                self._write_identity()
            while not self._written_as(self._folder / f"shard-{self._rank:05d}-{self._next:06d}.parquet"):
                self._next += 1
        self._next += 1
        self._rows = []

    def _written_as(self, shard: Path) -> bool:
        """Writes the rows as this shard; False where another process has taken its name."""
        features = shard.with_suffix(".safetensors") if any(row.features for row in self._rows) else None
        try:
            if features:  # before the shard: a row that is there has its features
                with written_whole(features, new=True) as temporary, temporary.open("wb") as file:
                    write_features(self._rows, file)
        except FileExistsError:
            return False
        try:
            with written_whole(shard, new=True) as temporary, temporary.open("wb") as file:
                write_table(self._rows, self._identity, file)
        except BaseException as error:
            if features:
                features.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                what = "disk full" if error.errno == errno.ENOSPC else str(error.strerror).lower()
                raise InputError(f"{self._folder}: {what}; free some space, start again: it goes on") from error
            raise
