"""The one door to rows, `read_manifest`, which gives a `Manifest` of either form.

An annotation file (JSON, `data/rows/annotation.py`) is read into memory. What `write_manifest` made of some, an Arrow
file, is mapped into memory, so that opening it takes no memory whatever its size, and the time to look it over for
damage.
"""

import math
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.progress import Progress
from data.rows.annotation import open_annotation
from data.rows.identity import Ids
from data.rows.manifest import BATCH_ROWS, FORMAT, SCHEMA, Manifest, append_row, batch_of, checksum
from data.rows.row import fault_of_times
from data.sound.headers import Header, read_headers

SPOT_CHECKED = 1_000
"""Rows of an annotation file whose stated lengths are compared with their sounds' headers."""


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
        if b"checksum" in about and checksum(path, int(about[b"bytes"])) != about[b"checksum"].decode():
            raise ValueError("its bytes are not those that were written")
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
