"""What is known of the sound files under a folder, kept on disk: a scan that was cut off goes on from it."""

import os
import time
from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from data.paths import remove_leftovers, written_whole
from data.sound.checks import SoundCheck

_TYPES = {int: pa.int64(), str: pa.string(), float: pa.float64(), bool: pa.bool_()}
_SCHEMA = pa.schema([("path", pa.string()), *[(field.name, _TYPES[field.type]) for field in fields(SoundCheck)]])
_MOST_PARTS = 64


class ScanStore:
    """Parquet parts in a folder, each written whole; of a file that stands in several, the newest counts.

    Args:
        folder: Where the parts lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending: dict[str, SoundCheck] = {}

    def add(self, path: str, check: SoundCheck) -> None:
        """Takes what was found in a file; `flush` keeps it."""
        self._pending[path] = check

    def flush(self) -> None:
        """Writes what was added since as one more part."""
        if not self._pending:
            return
        self._write(self._pending)
        self._pending = {}

    def read(self) -> dict[str, SoundCheck]:
        """All that is known, by path; many small parts become one."""
        remove_leftovers(self.folder)
        parts = self._parts()
        known = {path: check for part in parts for path, check in _rows(part)}
        if len(parts) > _MOST_PARTS:
            self._write(known)
            for part in parts:
                part.unlink(missing_ok=True)
        return known

    def _parts(self) -> list[Path]:
        # By the time that they were written at: two scans may fill one folder.
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def _write(self, checks: dict[str, SoundCheck]) -> None:
        values = zip(*map(attrgetter(*_SCHEMA.names[1:]), checks.values()), strict=True)
        columns = [list(checks), *map(list, values)]
        table = pa.table([pa.array(column, type) for column, type in zip(columns, _SCHEMA.types, strict=True)], _SCHEMA)
        with written_whole(self.folder / f"{time.time_ns()}_{os.getpid()}.parquet") as temporary:
            parquet.write_table(table, temporary, compression="zstd")


def _rows(part: Path) -> Iterator[tuple[str, SoundCheck]]:
    for batch in parquet.ParquetFile(part).iter_batches():
        columns = [column.to_pylist() for column in batch.columns]
        for path, *values in zip(*columns, strict=True):
            yield path, SoundCheck(*values)
