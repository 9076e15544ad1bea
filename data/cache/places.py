"""Where the rows of a cache lie, by id, in 16 bytes a row: a dictionary of ids takes 175."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

_ROWS_AT_ONCE = 65_536


class Places:
    """The shard and the position of each row; kept is the hash of an id, not the id itself.

    That two of a million ids have one hash of 64 bits has a chance of 3 in 100 million; who reads a row sees which it
    is.

    Args:
        shards: The ids of each shard, in order.
    """

    def __init__(self, shards: Iterable[Sequence[str]]) -> None:
        keys, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for number, ids in enumerate(shards):
            keys.append(_keys(ids))
            places.append((np.uint64(number) << np.uint64(32)) + np.arange(len(ids), dtype=np.uint64))
        every = np.concatenate(keys)
        order = np.argsort(every, kind="stable")
        self._keys, self._places = every[order], np.concatenate(places)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, row_id: str) -> bool:
        return self.of(row_id) is not None

    def of(self, row_id: str) -> tuple[int, int] | None:
        """Shard and position of a row; None where it is not there."""
        (key,) = _keys([row_id])
        at = int(np.searchsorted(self._keys, key))
        return self._place(at) if at < len(self) and self._keys[at] == key else None

    def has(self, ids: Iterable[str]) -> np.ndarray:
        """Which of many rows are there, in their order: bool [rows]."""
        ids, found = iter(ids), [np.zeros(0, bool)]
        while some := list(islice(ids, _ROWS_AT_ONCE)):
            keys = _keys(some)
            at = np.searchsorted(self._keys, keys)
            at[at == len(self)] = 0
            found.append(self._keys[at] == keys if len(self) else np.zeros(len(some), bool))
        return np.concatenate(found)

    def alike(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """The places of rows that have one hash, two by two, the earlier one first."""
        for at in np.flatnonzero(self._keys[1:] == self._keys[:-1]).tolist():
            yield self._place(at), self._place(at + 1)

    def _place(self, at: int) -> tuple[int, int]:
        place = int(self._places[at])
        return place >> 32, place & 0xFFFFFFFF


def _keys(ids: Sequence[str]) -> np.ndarray:
    """64 bits of a hash of each id, equal in every process: uint64 [ids]."""
    digests = (hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8).digest() for row_id in ids)
    return np.frombuffer(b"".join(digests), np.uint64)
