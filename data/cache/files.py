"""The files of a cache folder: identity, shards (cached rows as Parquet), failures.

identity.json                    what the cache was made from; every shard carries its hash
rank-<rank>.lock                 held by the process that writes as this rank, which stands in it
shard-<rank>-<number>.parquet    rows, zstd; each file is there whole or not at all
shard-<rank>-<number>.safetensors    the rows' features, where they are cached, as "<row id>/<feature>"; there before it
failed.jsonl                     {"id", "reason"} of the rows that could not be decoded
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from safetensors import SafetensorError, safe_open

from data.cache.row import FORMAT_VERSION, CachedRow, CacheIdentity
from data.cache.targets import FEATURES, TARGETS, Feature, SparseTargets, counted
from data.errors import InputError
from data.strict_json import loads

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
    "sound": pa.string(),
}
_COLUMN = {name: f"{name}_targets" for name in TARGETS}
_SCHEMA = pa.schema([*_TEXTS.items(), *((column, _TARGET) for column in _COLUMN.values())])
_EARLIER = _SCHEMA.remove(_SCHEMA.get_field_index("sound"))
"""Shards of before fingerprints were kept: nothing else of them differs, so they are read."""
_MADE_FROM = {
    "teacher": "its weights or settings",
    "tokenizer": "its vocabulary",
    "prompts": "data.prompts",
    "audio": "the rows: data.train, data.limit, data.mono",
    "targets": "the cache section",
    "hypotheses": "the generation section, cache.hypotheses",
    "sounds": "the content of the sound files",
}
_DTYPES = {"float16": "F16", "float32": "F32"}
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
    """Writes the rows' features as one safetensors file, array by array: no second copy of them is made.

    The format has no checksums, so one of each array stands among what the file says of itself.
    """
    arrays = {f"{row.id}/{name}": array for row in rows for name, array in row.features.items()}
    header: dict[str, Any] = {"__metadata__": {key: _checksum(array) for key, array in arrays.items()}}
    end = 0
    for key, array in arrays.items():
        start, end = end, end + array.nbytes
        header[key] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    about = json.dumps(header).encode()
    about += b" " * (-len(about) % 8)
    file.write(len(about).to_bytes(8, "little") + about)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).data)


def _checksum(array: np.ndarray) -> str:
    """Of what an array holds, as what; of many gigabytes a second, so that reading a row takes no longer."""
    digest = xxhash.xxh3_64(np.ascontiguousarray(array).data)
    digest.update(f"{array.dtype.name} {array.shape}".encode())
    return digest.hexdigest()


class ShardFeatures:
    """The features beside a shard: the file is opened once, and nothing but what is asked for is read.

    Raises:
        InputError: It is missing or broken.
    """

    def __init__(self, shard: Path) -> None:
        self.path = shard.with_suffix(".safetensors")
        with self._named():
            self._file = safe_open(self.path, "np")  # memory-mapped
            self._keys = set(self._file.keys())
            self._checksums = self._file.metadata() or {}  # earlier files have none
            if self._checksums and self._checksums.keys() != self._keys:
                raise ValueError("it has other features than were written")

    def of(self, row_id: str) -> dict[Feature, np.ndarray]:
        """Those of a row."""
        with self._named():
            keys = {name: f"{row_id}/{name}" for name in FEATURES}
            found = {name: self._file.get_tensor(key) for name, key in keys.items() if key in self._keys}
            for name, array in found.items():
                if self._checksums.get(keys[name]) not in (None, _checksum(array)):
                    raise ValueError(f"the {name} of row {row_id} is not what was written")
            return found

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{self.path}: missing, truncated or damaged ({error}); delete it and the shard beside it, and run "
                "scripts/cache_teacher.sh again, which makes its rows again"
            ) from error


def ids_of(path: Path, identity: CacheIdentity) -> tuple[list[str], bool]:
    """The row ids of a shard, in order, and whether it has features beside it; refuses one of another identity."""
    with named(path), open_shard(path) as shard:
        about = shard.schema_arrow.metadata or {}
        if about.get(_IDENTITY) != identity.sha256().encode():
            raise InputError(f"{path}: made from another teacher, prompts or audio than its folder; delete this file")
        groups = [shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups)]
        if not any(map(shard.schema_arrow.equals, (_SCHEMA, _EARLIER))) or not _are_written(groups):
            raise ValueError("of other columns or row groups")
        ids = shard.read(columns=["id"], use_threads=False).column("id").to_pylist()
        if not all(ids):
            raise ValueError("a row has no id")
        return ids, _WITH_FEATURES in about


def texts_of(path: Path) -> list[CachedRow]:
    """The rows of a shard without their targets and features: nothing but their texts is read.

    Raises:
        ValueError: One is none that `write_table` writes.
    """
    with open_shard(path) as shard:
        rows = shard.read(columns=list(_TEXTS), use_threads=False).to_pylist()
    return [CachedRow(**_asked(texts)) for texts in rows]


def _asked(texts: dict[str, Any]) -> dict[str, Any]:
    """The texts of a row, of which task and prompt are always there; its sound's fingerprint not in earlier shards."""
    if texts["task"] is None or texts["prompt"] is None:
        raise ValueError(f"row {texts['id']} was not asked")
    return texts | {"sound": texts.get("sound") or ""}


def _are_written(groups: list[int]) -> bool:
    """Whether these rows a group are those of a shard: full ones, and the rest."""
    return all(rows == GROUP_ROWS for rows in groups[:-1]) and 0 < sum(groups[-1:]) <= GROUP_ROWS


def open_shard(path: Path) -> pq.ParquetFile:
    """A shard, memory-mapped; what is read from it is checked against its checksums."""
    return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)


def batch_of(shard: pq.ParquetFile, group: int) -> pa.RecordBatch:
    """A decoded row group."""
    (batch,) = shard.read_row_group(group, use_threads=False).combine_chunks().to_batches()
    return batch


def row_of(batch: pa.RecordBatch, position: int) -> CachedRow:
    """One row of a decoded row group.

    Raises:
        ValueError: It is none that `write_table` writes.
    """
    names = [name for name in _TEXTS if name in batch.schema.names]
    texts = _asked({name: batch.column(name)[position].as_py() for name in names})
    targets = {}
    for name, column in _COLUMN.items():
        struct = batch.column(column)
        if struct[position].is_valid:
            arrays = {part: _slice(struct.field(part), position) for part in _ARRAYS}
            draws = struct.field("draws")[position].as_py()
            logp = arrays["logp"].astype(np.float32)
            with np.errstate(divide="ignore", invalid="ignore"):  # that is looked at next
                arrays["logp"] = logp if draws is None else counted(logp, draws)
            likely = (np.isfinite(arrays["logp"]) & (arrays["logp"] <= 0)).all() and (arrays["counts"] >= 1).all()
            if not likely or (arrays["ids"] < 0).any() or (arrays["token_ids"] < 0).any():
                raise ValueError(f"the {name} of row {texts['id']} has targets that no teacher gives")
            targets[name] = SparseTargets(**arrays, draws=draws)
    return CachedRow(**texts, targets=targets)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns what is said of a broken file into a line that names it and the mend."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: truncated or not a cache shard ({reason}); delete it and run "
            "scripts/cache_teacher.sh again, which makes its rows again"
        ) from error


def shards_of(folder: Path) -> list[Path]:
    """The finished shards, in order of rank and number."""
    return sorted(folder.glob("shard-*.parquet"))


def check_identity(folder: Path, identity: CacheIdentity | None, *, to_read: bool = False) -> CacheIdentity:
    """The identity of the cache in `folder`, which must serve `identity` if one is given."""
    path = folder / "identity.json"
    try:
        parts = loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{folder}: no teacher cache here (no identity.json); run scripts/cache_teacher.sh") from None
    except ValueError:
        raise InputError(f"{path}: not JSON; remove the folder and cache again") from None
    version = parts.get("format_version") if isinstance(parts, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version}, this code has {FORMAT_VERSION}, which hears and writes otherwise; "
            "cache into another folder, or remove this one"
        )
    try:
        found = CacheIdentity(**parts)
    except TypeError:
        found = None
    if found is None or not all(isinstance(getattr(found, part.name), part.type) for part in fields(found)):
        raise InputError(f"{path}: parts missing or unknown; remove the folder and cache again")
    if identity is not None and not found.serves(identity, to_read=to_read):
        parts = ", ".join(
            f"{part} ({_MADE_FROM[part]}: {getattr(found, part)[:21] or 'none'} there, "
            f"{getattr(identity, part)[:21] or 'none'} now)"
            for part in found.differences(identity)
        )
        raise InputError(f"{folder}: made from another {parts}; set another cache.folder, or remove this one")
    return found


def read_failed(folder: Path, first: int = 0) -> tuple[dict[str, str], int]:
    """What failed.jsonl says from a byte on: the latest reason by id, and the byte behind what was read.

    A half-written line is skipped: its row is tried again.
    """
    path, reasons = folder / "failed.jsonl", {}
    if not path.exists():
        return reasons, first
    with path.open("rb") as file:
        file.seek(first)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.splitlines():
        try:
            entry = json.loads(line)
            if isinstance(entry["id"], str):
                reasons[entry["id"]] = entry["reason"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return reasons, first + len(whole) + bool(whole)


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
