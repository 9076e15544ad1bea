"""Writes a teacher cache: one process a rank, killed and started again at will."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from data.cache.files import check_identity, ids_of, read_failed, shards_of, write_features, write_table
from data.cache.row import CachedRow, CacheIdentity
from data.errors import InputError
from data.paths import written_whole


@contextmanager
def _written_for_good(path: Path) -> Iterator[BinaryIO]:
    """A file that is on the disk when the block ends, or is not there."""
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


class CacheWriter:
    """Adds rows to a cache folder; killed at any moment and opened again, it goes on after the last whole shard.

    Example:
        >>> with CacheWriter(folder, identity, rank=0, world=1) as writer:  # doctest: +SKIP
        ...     for clip in clips_of_this_rank:
        ...         if clip.id not in writer.done_ids():
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
            InputError: the folder holds a cache of another identity, or a broken shard.
        """
        self._folder, self._identity, self._rank, self._shard_rows = Path(folder), identity, rank, shard_rows
        self._rows: list[CachedRow] = []
        if (self._folder / "identity.json").exists():
            check_identity(self._folder, identity)
        elif any(self._folder.glob("shard-*.parquet")):
            raise InputError(f"{folder}: shards without identity.json; give another cache folder or empty this one")
        else:
            with written_whole(self._folder / "identity.json") as path:
                path.write_text(json.dumps(asdict(identity), indent=2) + "\n")
        for leftover in self._folder.glob(".shard-*.tmp"):  # of a killed run; other live ranks' are left alone
            owner = int(leftover.name.split("-")[1])
            if owner == rank or (rank == 0 and owner >= world):
                leftover.unlink(missing_ok=True)
        self._done = {row for shard in shards_of(self._folder) for row in ids_of(shard, identity)}
        self._failed = set(read_failed(self._folder))
        self._end_half_line()
        own = self._folder.glob(f"shard-{rank:05d}-*.parquet")
        self._next = max((int(shard.stem.split("-")[2]) + 1 for shard in own), default=0)

    def done_ids(self) -> set[str]:
        """The ids in all ranks' finished shards when the folder was opened, and those added since."""
        return self._done

    def add(self, row: CachedRow) -> None:
        """Adds a row; every `shard_rows` rows a shard appears."""
        if row.id in self._done:
            raise InputError(f"{self._folder}: row {row.id!r} is there already; ids must be unique in a manifest")
        self._done.add(row.id)
        self._rows.append(row)
        if len(self._rows) >= self._shard_rows:
            self._flush()

    def fail(self, row_id: str, reason: str) -> None:
        """Lists a row that could not be decoded, once."""
        if row_id in self._failed:
            return
        self._failed.add(row_id)
        # One write to a file opened for appending: ranks do not cut each other's lines.
        line = json.dumps({"id": row_id, "reason": reason}) + "\n"
        with open(self._folder / "failed.jsonl", "ab", buffering=0) as file:
            file.write(line.encode())

    def close(self) -> None:
        """Writes what is left."""
        self._flush()

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()

    def _end_half_line(self) -> None:
        """Ends the line of failed.jsonl that a killed run may have left half-written; readers skip it."""
        path = self._folder / "failed.jsonl"
        if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with open(path, "ab") as file:
                file.write(b"\n")

    def _flush(self) -> None:
        if not self._rows:
            return
        shard = self._folder / f"shard-{self._rank:05d}-{self._next:06d}.parquet"
        try:
            if any(row.features for row in self._rows):
                # Before the shard: a row that is there has its features.
                with _written_for_good(shard.with_suffix(".safetensors")) as file:
                    write_features(self._rows, file)
            with _written_for_good(shard) as file:
                write_table(self._rows, self._identity, file)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError(f"{self._folder}: disk full; free some space, start again: it goes on") from error
            raise
        self._next += 1
        self._rows = []
