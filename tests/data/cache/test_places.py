"""Where rows lie is known of each, in 16 bytes a row."""

import numpy as np
import pytest

from data.cache import places
from data.cache.places import Places
from data.cache.reader import CacheReader
from data.cache.row import CachedRow, CacheIdentity
from data.cache.writer import CacheWriter

IDENTITY = CacheIdentity("t", "k", "p", "a", "c")


def test_each_row_is_found_and_no_other():
    shards = [[f"{shard}/ä{at}" for at in range(size)] for shard, size in enumerate((3, 0, 200, 1))]
    found = Places(shards)
    assert len(found) == 204 and not [*found.alike()]
    for number, ids in enumerate(shards):
        assert [found.of(row_id) for row_id in ids] == [(number, at) for at in range(len(ids))]
    assert found.of("elsewhere") is None and Places([]).of("elsewhere") is None
    assert found.has(["2/ä7", "elsewhere", "0/ä0"]).tolist() == [True, False, True]
    assert Places([]).has(["a", "b"]).tolist() == [False, False] and found.has([]).tolist() == []


def test_many_rows_are_asked_for_in_parts(monkeypatch):
    monkeypatch.setattr(places, "_ROWS_AT_ONCE", 2)
    assert Places([["a", "b"], ["c"]]).has("abcdcba").tolist() == [True] * 3 + [False] + [True] * 3


def test_what_is_there_twice_is_told_in_the_order_of_shards():
    assert [*Places([["a", "b"], ["c", "a"]]).alike()] == [((0, 0), (1, 1))]


def test_memory_is_16_bytes_a_row():
    found = Places([[str(at) for at in range(5000)]])
    assert sum(x.nbytes for x in vars(found).values() if isinstance(x, np.ndarray)) == 16 * 5000


def test_a_hash_that_two_ids_share_gives_neither_for_the_other(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "_keys", lambda ids: np.zeros(len(ids), np.uint64))
    with CacheWriter(tmp_path, IDENTITY, rank=0, world=1, shard_rows=1) as writer:
        for name in ("a", "b"):
            writer.add(CachedRow(name, "asr", "transcribe", "hi"))
    reader = CacheReader(tmp_path)
    assert reader.ids() == ["a", "b"] and reader["a"].id == "a"
    with pytest.raises(KeyError):
        reader["b"]
