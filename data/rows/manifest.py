"""Manifests: which clips there are, what is said or heard in them, and what is asked, as one table.

`read_manifest` is the one door: it takes an annotation file (JSON, `data/rows/annotation.py`), read into memory, or
what `write_manifest` made of some: an Arrow file that is mapped into memory, so that opening it takes no memory
whatever its size, and the time to look it over for damage. Both give a `Manifest`.
"""

import hashlib
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.progress import Progress
from data.rows.annotation import open_annotation
from data.rows.identity import Ids, RowsDigest
from data.rows.row import Mono, Row, fault_of_times
from data.sound.headers import Header, read_headers

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
SPOT_CHECKED = 1_000

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


def read_manifest(
    path: Path,
    root: Path | None = None,
    *,
    texts: bool = True,
    sounds: bool = True,
    left_out: dict[str, list[str]] | None = None,
) -> Manifest:
    """Reads an annotation file, or maps the Arrow file that `write_manifest` made of some.

    Args:
        path: The file: `.arrow`, or anything else for JSON.
        root: What the rows' paths are relative to, instead of what the file says.
        texts: Whether every row of an annotation file must have a text; a test set without its answers has none.
        sounds: Whether the sound files of an annotation file are needed; without, a duration not stated is 0.
        left_out: Faults for which a row is left out instead of refused (of missing_file, unreadable, wrong_length as
            far as lengths are compared here, duplicate_id): the ids of those rows are put there.

    Returns:
        The rows in the file's order. A missing id is made of path and task; a missing duration is read from the
        sound file's header, and those stated are compared with the headers of up to 1,000 rows, spread over the file
        (of the others when they are heard: `data.sound.audio.load_clip`). That the sound files of an Arrow file are
        there is not looked at: they were when it was made.

    Raises:
        InputError: The file or a row of it is not as it should be; names file, row, key and the mend.
    """
    path = Path(path)
    return _mapped(path, root) if path.suffix == ".arrow" else _in_memory(path, root, texts, sounds, left_out or {})


def _mapped(path: Path, root: Path | None) -> Manifest:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        # What is known of all rows only when they are written stands with the last batch, which has no rows.
        about = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata or {}
        table = reader.read_all()
        if (table.schema.metadata or {}).get(b"format") != FORMAT.encode() or table.schema != SCHEMA or not about:
            raise InputError(f"{path}: not a manifest of this version; make it again with scripts/make_manifest.py")
        _require_whole(table)
        own, fingerprint = about[b"root"].decode(), about[b"fingerprint"].decode()
        return Manifest(table, Path(root or path.parent / own).resolve(), fingerprint=fingerprint)
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest; check the path in the recipe") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0][:100]
        raise InputError(f"{path}: not a whole Arrow file ({reason}); make it again") from None


def _require_whole(table: pa.Table) -> None:
    """Refuses a damaged table: texts would be read from anywhere in memory.

    Raises:
        ValueError: A place, a character or a number in it cannot be.
    """
    table.validate(full=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        texts = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        if column.null_count or texts.null_count:
            raise ValueError(f"{name} of a row is null")
        if pa.types.is_floating(column.type) and len(column):
            most = pc.min_max(pc.if_else(pc.is_finite(column), column, -1.0))["min"].as_py()
            if most < 0:
                raise ValueError(f"{name} of a row is no number of seconds")


def _in_memory(path: Path, root: Path | None, texts: bool, sounds: bool, left_out: dict[str, list[str]]) -> Manifest:
    try:
        root, entries = open_annotation(path, root, texts=texts)
    except InputError as error:
        if not path.exists():
            raise InputError(f"{path}: no such annotation file; check the path in the recipe") from None
        raise error
    ids, batches, count = Ids(), [], 0
    stated: list[int] = []
    unknown: list[int] = []
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for number, entry in enumerate(entries):
        sound = root / entry["path"]
        if "duplicate_id" in left_out and ids.has(entry["id"]):
            left_out["duplicate_id"].append(entry["id"])
            continue
        name = ids.take(f"{path}, row {number}", entry)
        if sounds and not sound.is_file():
            if "missing_file" in left_out:
                left_out["missing_file"].append(name)
                continue
            raise InputError(
                f'{path}, row {number}: "path" names {sound}, which does not exist; mend it, or give the right root'
            )
        (unknown if np.isnan(entry["duration_s"]) else stated).append(count)
        append_row(columns, entry | {"id": name})
        count += 1
        if len(columns["id"]) == BATCH_ROWS:
            batches.append(batch_of(columns))
    table = pa.Table.from_batches([*batches, batch_of(columns)], SCHEMA)
    if not sounds:
        return Manifest(_with(table, "duration_s", np.nan_to_num(table["duration_s"].to_numpy())), root)
    some = [stated[at] for at in np.linspace(0, len(stated) - 1, min(len(stated), SPOT_CHECKED)).astype(int)]
    faults = _faults_of_length(path, Manifest(table, root), some, left_out)
    table, more = _with_headers(path, table, root, unknown, left_out)
    faults |= more
    if not faults:
        return Manifest(table, root)
    for number, name in zip(faults, table.column("id").take(pa.array(list(faults))).to_pylist(), strict=True):
        left_out[faults[number]].append(name)
    return Manifest(table, root, np.delete(np.arange(table.num_rows), list(faults)))


def _with(table: pa.Table, name: str, values: Sequence | np.ndarray) -> pa.Table:
    """The table with other values in a column."""
    field = SCHEMA.field(name)
    return table.set_column(SCHEMA.get_field_index(name), field, pa.array(values, field.type))


def _headers_of(table: pa.Table, root: Path, numbers: Sequence[int]) -> Iterator[tuple[int, Header]]:
    """The headers of the sounds of some rows."""
    progress = Progress("headers", len(numbers), unit="files", quiet=len(numbers) < 10_000)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(numbers), BATCH_ROWS):
            part = numbers[start : start + BATCH_ROWS]
            sounds = [root / table.column("path")[number].as_py() for number in part]
            yield from zip(part, read_headers(sounds, pool), strict=True)
            progress.add(len(part))


def _faults_of_length(
    path: Path, rows: Manifest, numbers: Sequence[int], left_out: Container[str]
) -> dict[int, Literal["wrong_length"]]:
    """Those of some rows that state other times than their sounds' headers.

    A header that cannot be read is met when it is heard.
    """
    wrong = {}
    for number, header in _headers_of(rows.table, rows.root, numbers):
        if not header.fault and (fault := rows[number].fault_of_length(header.duration_s)):
            if "wrong_length" not in left_out:
                raise InputError(f"{path}, row {number}: {fault}")
            wrong[number] = "wrong_length"
    return wrong


def _with_headers(
    path: Path, table: pa.Table, root: Path, unknown: list[int], left_out: Container[str]
) -> tuple[pa.Table, dict[int, Literal["unreadable", "wrong_length"]]]:
    """The table with what the sound files' headers say of rows without a length, and the rows at fault."""
    faults = {}
    durations, starts_s = table.column("duration_s").to_numpy().copy(), table.column("start_s").to_numpy()
    for number, header in _headers_of(table, root, unknown):
        sound, start_s = root / table.column("path")[number].as_py(), float(starts_s[number])
        if header.fault:
            name, fault = "unreadable", f'"path" names {sound}: {header.fault}; fetch it again'
        else:
            name, fault = "wrong_length", fault_of_times(sound, start_s, 0.0, math.nan, header.duration_s)
        if fault and name not in left_out:
            raise InputError(f"{path}, row {number}: {fault}")
        if fault:
            faults[number] = name
        durations[number] = max(header.duration_s - start_s, 0.0)
    return _with(table, "duration_s", durations), faults


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
