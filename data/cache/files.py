"""The files of a cache folder: identity, shards (cached rows as Parquet), failures.

identity.json                    what the cache was made from; every shard carries its hash
shard-<rank>-<number>.parquet    rows, zstd; each file is there whole or not at all
shard-<rank>-<number>.safetensors    the rows' features, where they are cached, as "<row id>/<feature>"; there before it
failed.jsonl                     {"id", "reason"} of the rows that could not be decoded
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.cache.row import FORMAT_VERSION, CachedRow, CacheIdentity
from data.cache.targets import FEATURES, TARGETS, Feature, SparseTargets, counted
from data.errors import InputError

GROUP_ROWS = 64
"""Rows a row group, part of the format: what one random access decodes."""

_ARRAYS = {
    "token_ids": pa.int32(),
    "ids": pa.int32(),
    "logp": pa.float16(),
    "counts": pa.int32(),
}
_TARGET = pa.struct([*(pa.field(name, pa.list_(kind)) for name, kind in _ARRAYS.items()), ("draws", pa.int32())])
_TEXTS = {
    "id": pa.string(),
    "task": pa.string(),
    "prompt": pa.string(),
    "reference": pa.string(),
    "hypothesis": pa.string(),
    "hypothesis_logp": pa.float64(),
    "hypothesis_ended": pa.bool_(),
    "hypothesis_wer": pa.float64(),
}
_COLUMN = {name: f"{name}_targets" for name in TARGETS}
_SCHEMA = pa.schema([*_TEXTS.items(), *((column, _TARGET) for column in _COLUMN.values())])
_MADE_FROM = {
    "teacher": "its weights or settings",
    "tokenizer": "its vocabulary",
    "prompts": "data.prompts",
    "audio": "the rows: data.train, data.limit",
    "targets": "the cache and generation sections",
}
_IDENTITY, _WITH_FEATURES = b"cache_identity", b"features"


def write_table(rows: list[CachedRow], identity: CacheIdentity, file: BinaryIO) -> None:
    """Writes rows as one Parquet file that carries the hash of `identity`."""
    columns = [pa.array([getattr(row, name) for row in rows], kind) for name, kind in _TEXTS.items()]
    columns += [_target_column([row.targets.get(name) for row in rows]) for name in _COLUMN]
    told = {_IDENTITY: identity.sha256()}
    if any(row.features for row in rows):
        told[_WITH_FEATURES] = b"beside"
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(told))
    numbers = [f"{column}.{name}.list.element" for column in _COLUMN.values() for name in _ARRAYS]
    pq.write_table(
        table,
        file,
        compression="zstd",
        row_group_size=GROUP_ROWS,
        use_dictionary=list(_TEXTS),
        use_byte_stream_split=numbers,  # like bytes side by side: the high bytes of ids and values compress away
        write_statistics=False,
        write_page_checksum=True,
    )


def write_features(rows: list[CachedRow], file: BinaryIO) -> None:
    """Writes the rows' features as one safetensors file."""
    arrays = {f"{row.id}/{name}": array for row in rows for name, array in row.features.items()}
    file.write(save({key: np.ascontiguousarray(array) for key, array in arrays.items()}))


def features_of(shard: Path, row_id: str) -> dict[Feature, np.ndarray]:
    """A row's features; empty where there are none."""
    path = shard.with_suffix(".safetensors")
    with named(shard), open_shard(shard) as file:
        if _WITH_FEATURES not in (file.schema_arrow.metadata or {}):
            return {}
    try:
        with safe_open(path, "np") as file:  # memory-mapped: nothing but what is asked for is read
            keys = {f"{row_id}/{name}": name for name in FEATURES}
            return {keys[key]: file.get_tensor(key) for key in keys.keys() & set(file.keys())}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: missing, truncated or damaged ({error}); delete it and the shard beside it, and run "
            "scripts/cache_teacher.sh again, which makes its rows again"
        ) from error


def ids_of(path: Path, identity: CacheIdentity) -> list[str]:
    """The row ids of a shard, in order; refuses one of another identity."""
    with named(path), open_shard(path) as shard:
        if (shard.schema_arrow.metadata or {}).get(_IDENTITY) != identity.sha256().encode():
            raise InputError(f"{path}: made from another teacher, prompts or audio than its folder; delete this file")
        return shard.read(columns=["id"], use_threads=False).column("id").to_pylist()


def open_shard(path: Path) -> pq.ParquetFile:
    """A shard, memory-mapped; what is read from it is checked against its checksums."""
    return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)


def batch_of(shard: pq.ParquetFile, group: int) -> pa.RecordBatch:
    """A decoded row group."""
    (batch,) = shard.read_row_group(group, use_threads=False).combine_chunks().to_batches()
    return batch


def row_of(batch: pa.RecordBatch, position: int) -> CachedRow:
    """One row of a decoded row group."""
    texts = {name: batch.column(name)[position].as_py() for name in _TEXTS}
    targets = {}
    for name, column in _COLUMN.items():
        struct = batch.column(column)
        if struct[position].is_valid:
            arrays = {part: _slice(struct.field(part), position) for part in _ARRAYS}
            draws = struct.field("draws")[position].as_py()
            logp = arrays["logp"].astype(np.float32)
            arrays["logp"] = logp if draws is None else counted(logp, draws)
            targets[name] = SparseTargets(**arrays, draws=draws)
    return CachedRow(**texts, targets=targets)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns what pyarrow says of a broken file into a line that names it and the mend."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: truncated or not a cache shard ({str(error).splitlines()[0]}); delete it and run "
            "scripts/cache_teacher.sh again, which makes its rows again"
        ) from error


def shards_of(folder: Path) -> list[Path]:
    """The finished shards, in order of rank and number."""
    return sorted(folder.glob("shard-*.parquet"))


def check_identity(folder: Path, identity: CacheIdentity | None) -> CacheIdentity:
    """The identity of the cache in `folder`, which must be `identity` if one is given."""
    path = folder / "identity.json"
    try:
        parts = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{folder}: no teacher cache here (no identity.json); run scripts/cache_teacher.sh") from None
    except ValueError:
        raise InputError(f"{path}: not JSON; remove the folder and cache again") from None
    version = parts.get("format_version") if isinstance(parts, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}, this code has {FORMAT_VERSION}; cache into another folder")
    try:
        found = CacheIdentity(**parts)
    except TypeError:
        raise InputError(f"{path}: parts missing or unknown; remove the folder and cache again") from None
    if identity is not None and found != identity:
        parts = ", ".join(
            f"{part} ({_MADE_FROM[part]}: {getattr(found, part)[:12]} there, {getattr(identity, part)[:12]} now)"
            for part in found.differences(identity)
        )
        raise InputError(f"{folder}: made from another {parts}; use another cache folder, or remove this one")
    return found


def read_failed(folder: Path) -> dict[str, str]:
    """Reason by id; a half-written line is skipped, its row is tried again."""
    reasons = {}
    path = folder / "failed.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            reasons.setdefault(entry["id"], entry["reason"])
        except (ValueError, KeyError, TypeError):
            continue
    return reasons


def _target_column(column: list[SparseTargets | None]) -> pa.StructArray:
    """The targets of some rows as one struct of lists; None where a row has none."""
    lists = []
    for name, kind in _ARRAYS.items():
        arrays = [np.zeros(0) if targets is None else getattr(targets, name) for targets in column]
        offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
        values = np.concatenate(arrays).astype(kind.to_pandas_dtype())
        lists.append(pa.ListArray.from_arrays(offsets, pa.array(values, kind)))
    lists.append(pa.array([None if targets is None else targets.draws for targets in column], pa.int32()))
    missing = pa.array([targets is None for targets in column])
    return pa.StructArray.from_arrays(lists, fields=list(_TARGET), mask=missing)


def _slice(lists: pa.ListArray, position: int) -> np.ndarray:
    start, end = lists.offsets[position].as_py(), lists.offsets[position + 1].as_py()
    return lists.values.slice(start, end - start).to_numpy(zero_copy_only=True)
