"""Reads a teacher cache row by row."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.cache.files import (
    GROUP_ROWS,
    ShardFeatures,
    batch_of,
    check_identity,
    ids_of,
    named,
    open_shard,
    read_failed,
    row_of,
    shards_of,
    texts_of,
)
from data.cache.places import Places
from data.cache.row import CachedRow, CacheIdentity
from data.cache.targets import Feature
from data.errors import InputError

_OPEN_SHARDS, _HELD_GROUPS = 64, 64


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds.

    Attributes:
        rows: Clips.
        tokens: Supervised positions, of all texts.
        bytes: Of all shards, texts included.
        feature_bytes: Of the features beside them.
        bytes_per_token: On disk.
        kept_mass_mean: Probability kept at a position; the rest is its tail.
        kept_mass_p01: Its 1st percentile.
        ids_per_token: Ids kept at a position.
        ids_histogram: Positions by ids kept: at most 1, 2, 4, 8, ... (and more than half of that).
        content_sha256: A hash over the rows in id order: independent of shards, ranks and interruptions.
    """

    rows: int
    tokens: int
    bytes: int
    feature_bytes: int
    bytes_per_token: float
    kept_mass_mean: float
    kept_mass_p01: float
    ids_per_token: float
    ids_histogram: dict[int, int]
    content_sha256: str


class CacheReader:
    """A finished or growing cache, read row by row; opening it reads ids only.

    May be handed to data loader workers: open files stay with the process that opened them.
    """

    def __init__(self, folder: Path, identity: CacheIdentity | None = None):
        """Opens `folder`.

        Args:
            folder: the cache folder.
            identity: what the rows must have been made from (they may have texts that it does not ask for); None
                takes any.

        Raises:
            InputError: no cache there, one of another identity, or a broken shard.
        """
        self._folder = Path(folder)
        self.identity = check_identity(self._folder, identity, to_read=True)
        self._shards = shards_of(self._folder)
        self._with_features: list[bool] = []
        self._places = Places(self._opened())
        for earlier, later in self._places.alike():
            row_id, other = self._id_at(*later), self._id_at(*earlier)
            if row_id == other:
                shard, other = self._shards[later[0]], self._shards[earlier[0]].name
                raise InputError(f"{shard}: row {row_id!r} is also in {other}; delete one, cache again")
        self._forget()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._places

    def has(self, ids: Iterable[str]) -> np.ndarray:
        """Which of many rows are there, in their order: bool [rows]."""
        return self._places.has(ids)

    def ids(self) -> list[str]:
        """All ids, sorted; they are read anew, as no more than a hash of each is kept."""
        return sorted(row_id for shard in self._shards for row_id in ids_of(shard, self.identity)[0])

    def __getitem__(self, row_id: str) -> CachedRow:
        if (place := self._places.of(row_id)) is None:
            raise KeyError(row_id)
        shard, position = place
        group, within = divmod(position, GROUP_ROWS)
        with named(self._shards[shard]):
            row = row_of(self._group(shard, group), within)
        if row.id != row_id:
            raise KeyError(row_id)
        return row

    def features(self, row_id: str) -> dict[Feature, np.ndarray]:
        """What the teacher's encoder and connector made of the clip, where the cache has it; float16 [T, D]."""
        if (place := self._places.of(row_id)) is None:
            raise KeyError(row_id)
        number = place[0]
        if not self._with_features[number]:
            return {}
        if number not in self._features:
            self._features[number] = ShardFeatures(self._shards[number])
            if len(self._features) > _OPEN_SHARDS:
                self._features.popitem(last=False)
        self._features.move_to_end(number)
        return self._features[number].of(row_id)

    def rows(self) -> Iterator[CachedRow]:
        """All rows without their features, shard by shard, with no more than a row group in memory."""
        for path in self._shards:
            with named(path), open_shard(path) as shard:
                for group in range(shard.num_row_groups):
                    batch = batch_of(shard, group)
                    yield from (row_of(batch, position) for position in range(len(batch)))

    def texts(self) -> Iterator[CachedRow]:
        """All rows without their targets and features: what was asked and written, which is read alone."""
        for path in self._shards:
            with named(path):
                rows = texts_of(path)
            yield from rows

    def failed(self) -> dict[str, str]:
        """Reason by id, of the rows that could not be decoded and still are not there."""
        return {row_id: reason for row_id, reason in read_failed(self._folder)[0].items() if row_id not in self}

    def content_sha256(self) -> str:
        """A hash over the rows in id order: independent of shards, ranks and interruptions."""
        return self.stats().content_sha256

    def stats(self) -> CacheStats:
        """What the cache holds, in one pass over it."""
        tails, counts, digests = [np.zeros(0, np.float32)], [np.zeros(0, np.int32)], {}
        for row in self.rows():
            digests[row.id] = replace(row, features=self.features(row.id)).sha256()
            for targets in row.targets.values():
                tails.append(targets.tail)
                counts.append(targets.counts)
        kept_mass_N, counts_N = 1 - np.concatenate(tails), np.concatenate(counts)
        tokens = len(kept_mass_N)
        size = sum(shard.stat().st_size for shard in self._shards)
        edges = [1, *(2**power + 1 for power in range(16))]
        histogram = np.histogram(counts_N, bins=[*edges, np.iinfo(np.int32).max])[0]
        return CacheStats(
            rows=len(self),
            tokens=tokens,
            bytes=size,
            feature_bytes=sum(path.stat().st_size for path in self._folder.glob("shard-*.safetensors")),
            bytes_per_token=size / max(tokens, 1),
            kept_mass_mean=float(kept_mass_N.mean(dtype=np.float64)) if tokens else 0.0,
            kept_mass_p01=float(np.percentile(kept_mass_N, 1)) if tokens else 0.0,
            ids_per_token=float(counts_N.mean()) if tokens else 0.0,
            ids_histogram={2**power: int(count) for power, count in enumerate(histogram) if count},
            content_sha256=hashlib.sha256(b"".join(digests[row_id] for row_id in sorted(digests))).hexdigest(),
        )

    def _opened(self) -> Iterator[list[str]]:
        """The ids of each shard."""
        for shard in self._shards:
            ids, with_features = ids_of(shard, self.identity)
            self._with_features.append(with_features)
            yield ids

    def _id_at(self, shard: int, position: int) -> str:
        return ids_of(self._shards[shard], self.identity)[0][position]

    def _group(self, shard: int, group: int) -> pa.RecordBatch:
        """A decoded row group, the latest ones held."""
        if (shard, group) not in self._groups:
            path = self._shards[shard]
            with named(path):
                if shard not in self._files:
                    self._files[shard] = open_shard(path)
                self._groups[shard, group] = batch_of(self._files[shard], group)
            if len(self._files) > _OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
            if len(self._groups) > _HELD_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end((shard, group))
        return self._groups[shard, group]

    def _forget(self) -> None:
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()
        self._features: OrderedDict[int, ShardFeatures] = OrderedDict()

    def __getstate__(self) -> dict:
        opened = ("_files", "_groups", "_features")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()
