"""Manifests: which clips there are, what is said or heard in them, and what is asked, as one table."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from data.errors import InputError
from data.rows.identity import RowsDigest
from data.rows.row import Mono, Row

FORMAT = "salmonn-distill manifest 2"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),  # relative to the root
        ("text", pa.string()),
        ("task", pa.string()),
        ("corpus", pa.string()),
        ("duration_s", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("references", pa.list_(pa.string())),
        ("question", pa.string()),
        ("testset_id", pa.string()),
        ("fingerprint", pa.string()),  # of the sound file (data/sound/headers.py); empty in rows of JSON
    ],
    metadata={"format": FORMAT},
)
BATCH_ROWS = 16_384

_STORED = [name for name in Row.__slots__ if name != "mono"]


class Manifest(Sequence[Row]):
    """Rows of a table, or some of them in its order. A row is made when it is asked for, and not kept.

    What is asked of many rows is asked by column (`durations_s`, `values`, `where`): that takes no rows.

    Args:
        table: Columns as in `SCHEMA`.
        root: What paths are relative to.
        indices: Which rows of the table, ascending; all if not given.
        mono: What is heard of files with several channels, in every row.
        fingerprint: Of all these rows, where it is known.
    """

    def __init__(
        self,
        table: pa.Table,
        root: Path,
        indices: np.ndarray | None = None,
        mono: Mono = "first",
        fingerprint: str | None = None,
    ) -> None:
        self.table, self.root, self.indices, self.mono = table, Path(root), indices, mono
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return self.table.num_rows if self.indices is None else len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Manifest": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._chosen(np.arange(len(self))[index])
        at = range(len(self))[index]
        at = at if self.indices is None else int(self.indices[at])
        values = {name: self.table.column(name)[at].as_py() for name in _STORED}
        values |= {"path": self.root / values["path"], "references": tuple(values["references"])}
        return Row(**values, mono=self.mono)

    @property
    def durations_s(self) -> np.ndarray:
        """Seconds of every row: float64 [rows]."""
        durations = self.table.column("duration_s").to_numpy()
        return durations if self.indices is None else durations[self.indices]

    def values(self, name: str) -> Iterator[Any]:
        """A column's values, row after row, with no more than a batch of them in memory."""
        start = 0
        for chunk in self.table.column(name).chunks:
            end = start + len(chunk)
            if self.indices is not None:
                first, last = np.searchsorted(self.indices, (start, end))
                chunk = chunk.take(pa.array(self.indices[first:last] - start))
            for at in range(0, len(chunk), BATCH_ROWS):
                yield from chunk.slice(at, BATCH_ROWS).to_pylist()
            start = end

    def with_mono(self, mono: Mono) -> "Manifest":
        """The same rows, with this heard of several channels."""
        return self if mono == self.mono else Manifest(self.table, self.root, self.indices, mono)

    def where(self, mask: np.ndarray) -> "Manifest":
        """The rows at which a mask (bool [rows]) is true."""
        return self if mask.all() else self._chosen(np.flatnonzero(mask))

    def among(self, name: str, wanted: Iterable[str]) -> np.ndarray:
        """A mask of the rows whose column has one of these values: bool [rows]."""
        mask = pc.is_in(self.table.column(name), pa.array(list(wanted), pa.string())).to_numpy()
        return mask if self.indices is None else mask[self.indices]

    @property
    def with_text(self) -> np.ndarray:
        """A mask of the rows that have a text: bool [rows]."""
        # Chunk by chunk: trimmed, all texts would be in memory at once.
        chunks = self.table.column("text").chunks
        masks = [pc.not_equal(pc.utf8_trim_whitespace(chunk), "").to_numpy(zero_copy_only=False) for chunk in chunks]
        mask = np.concatenate([np.zeros(0, bool), *masks])
        return mask if self.indices is None else mask[self.indices]

    def longest_first(self) -> np.ndarray:
        """Row numbers by falling length, those of one length by id."""
        part = self.table.select(["duration_s", "id"])
        part = part if self.indices is None else part.take(pa.array(self.indices))
        return pc.sort_indices(part, [("duration_s", "descending"), ("id", "ascending")]).to_numpy()

    def fingerprint(self) -> str:
        """A SHA-256 over what is heard, asked and said in all rows: id, file name, task, text, length, and so on."""
        if self._fingerprint is None:
            digest = RowsDigest()
            for row in zip(*map(self.values, RowsDigest.COLUMNS), strict=True):
                digest.add(*row, self.mono)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _chosen(self, at: np.ndarray) -> "Manifest":
        if len(at) == len(self) and (at[:1] == 0).all() and (np.diff(at) == 1).all():
            return self
        if (np.diff(at) < 0).any():
            raise ValueError("the rows of a manifest stay in their order")
        return Manifest(self.table, self.root, at if self.indices is None else self.indices[at], self.mono)


def durations_of(rows: Sequence[Row]) -> np.ndarray:
    """Seconds of every row: float64 [rows]."""
    return rows.durations_s if isinstance(rows, Manifest) else np.array([row.duration_s for row in rows], np.float64)


def fingerprint_of(rows: Sequence[Row]) -> str:
    """`Manifest.fingerprint` of any rows."""
    if isinstance(rows, Manifest):
        return rows.fingerprint()
    digest = RowsDigest()
    for row in rows:
        values = (getattr(row, name) for name in RowsDigest.COLUMNS[2:])
        digest.add(row.id, row.path.name, *values, row.mono)
    return digest.hexdigest()


def sounds_of(rows: Sequence[Row]) -> str:
    """A SHA-256 over the content of all rows' sounds; empty where it is not known, as of rows of JSON."""
    named = rows.values("fingerprint") if isinstance(rows, Manifest) else (row.fingerprint for row in rows)
    digest = hashlib.sha256()
    for fingerprint in named:
        if not fingerprint:
            return ""
        digest.update(fingerprint.encode())
    return digest.hexdigest()


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """The rows of several manifests, one after the other.

    Raises:
        InputError: An id is in two of them.
    """
    if len(manifests) == 1:
        return manifests[0]
    tables = []
    for manifest in manifests:
        table = manifest.table if manifest.indices is None else manifest.table.take(pa.array(manifest.indices))
        paths = table.column("path")
        joined = pc.binary_join_element_wise(str(manifest.root), paths, "/")
        paths = pc.if_else(pc.starts_with(paths, "/"), paths, joined)
        tables.append(table.set_column(SCHEMA.get_field_index("path"), "path", paths))
    whole = Manifest(pa.concat_tables(tables), Path("/"), mono=manifests[0].mono)
    ids = set()
    for row_id in whole.values("id"):
        if row_id in ids:
            raise InputError(
                f'annotation files: id "{row_id}" is in two of them; a clip of its own has an id of its own'
            )
        ids.add(row_id)
    return whole


def append_row(columns: dict[str, list], entry: dict[str, Any]) -> None:
    """Adds a row, as `open_annotation` gives it, to columns as in `SCHEMA`."""
    for name, values in columns.items():
        values.append(entry.get(name, "" if name == "fingerprint" else 0))


def batch_of(columns: dict[str, list]) -> pa.RecordBatch:
    """The columns as a batch; they are empty then."""
    arrays = [pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names]
    for values in columns.values():
        values.clear()
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def sealed(sink: pa.NativeFile, path: Path) -> dict[str, str]:
    """What stands with a manifest's last batch of all before it: how many bytes there are, and their checksum.

    Args:
        sink: Into which they were written.
        path: The file.
    """
    sink.flush()
    size = sink.tell()
    return {"bytes": str(size), "checksum": checksum(path, size)}


def checksum(path: Path, size: int) -> str:
    """Of the first bytes of a file; of many gigabytes a second."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
