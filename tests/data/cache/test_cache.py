"""The teacher cache: sparse targets, and a folder of shards that survives what happens to it."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load_file, save_file

from data.cache import files
from data.cache.files import read_failed
from data.cache.reader import CacheReader
from data.cache.row import CachedRow, CacheIdentity
from data.cache.targets import MAX_DRAWS, SparseTargets, counted, draw, sparsify
from data.cache.writer import CacheWriter
from data.errors import InputError
from data.hashing import hash_of
from data.paths import REPOSITORY

IDENTITY = CacheIdentity(teacher="t", tokenizer="k", prompts="p", audio="a", targets="s")


# ---- sparse targets ----


def cut(logits_NV, top_p, top_k):
    return SparseTargets.from_logits(logits_NV, np.arange(len(logits_NV)), top_p=top_p, top_k=top_k)


@settings(max_examples=100, deadline=None)
@given(
    logits=npst.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.floats(-30, 30, width=16)
    ),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 0.9999, 1.0]),
    top_k=st.integers(1, 50),
)
def test_the_smallest_set_that_reaches_the_mass(logits, top_p, top_k):
    targets = cut(torch.from_numpy(logits), top_p, top_k)
    p_NV = torch.from_numpy(logits).double().softmax(1).numpy()
    ends = np.cumsum(targets.counts)
    assert (targets.counts >= 1).all()
    assert (targets.counts <= top_k).all()
    for p_V, tail, start, end in zip(p_NV, targets.tail, ends - targets.counts, ends, strict=True):
        ids, stored = targets.ids[start:end], targets.logp[start:end].astype(np.float64)
        np.testing.assert_allclose(np.exp(stored), p_V[ids], rtol=0, atol=4.1e-4)
        np.testing.assert_allclose(stored, np.log(p_V[ids]), rtol=2**-10, atol=1 / 8)
        assert len(set(ids.tolist())) == len(ids)
        assert p_V[ids].min() >= np.delete(p_V, ids).max(initial=0) - 1e-6
        kept = p_V[ids].sum()
        assert kept >= top_p - 1e-6 or len(ids) in (top_k, len(p_V))
        assert len(ids) == 1 or kept - p_V[ids].min() < top_p + 1e-6
        assert tail >= 0
        assert np.exp(stored).sum() + tail == pytest.approx(1, abs=1e-6)
        assert (stored == stored.astype(np.float16)).all()


def test_ids_that_are_too_improbable_are_not_kept():
    logits_NV = 2 * torch.randn(300, 80, generator=torch.Generator().manual_seed(0))
    (all_of_them,) = sparsify(logits_NV, [np.arange(300)], top_p=0.99, top_k=60)
    (targets,) = sparsify(logits_NV, [np.arange(300)], top_p=0.99, top_k=60, min_p=0.02)
    p_NV = logits_NV.double().softmax(1).numpy()
    ends, rows = np.cumsum(targets.counts), np.repeat(np.arange(300), all_of_them.counts)
    for p_V, start, end in zip(p_NV, ends - targets.counts, ends, strict=True):
        assert (p_V[targets.ids[start:end]] >= 0.02).all()
    enough = p_NV[rows, all_of_them.ids] >= 0.02
    assert targets.ids.tolist() == all_of_them.ids[enough].tolist()
    assert sparsify(logits_NV, [np.arange(300)], top_p=0.99, top_k=60, min_p=0.999)[0].counts.tolist() == [1] * 300
    np.testing.assert_allclose(
        targets.tail, 1 - np.bincount(np.repeat(np.arange(300), targets.counts), np.exp(targets.logp)), atol=1e-6
    )


def test_bits_are_spared_where_they_say_nothing():
    """The float16 numbers of improbable ids have an empty low byte, and the tail is still what they leave."""
    logits_NV = 3 * torch.randn(200, 500, generator=torch.Generator().manual_seed(0))
    targets = cut(logits_NV, 1.0, 500)
    exact = logits_NV.double().log_softmax(1).gather(1, torch.from_numpy(targets.ids.reshape(200, 500)).long())
    off = np.abs(np.exp(targets.logp.astype(np.float64)) - exact.exp().numpy().ravel())
    assert off.max() < 4.1e-4
    low = targets.logp.astype(np.float16).view(np.uint16) & 0xFF
    improbable = (targets.logp < np.log(1e-4)) & (targets.logp > np.log(1e-6))
    probable = targets.logp > np.log(0.1)
    assert (low[improbable] & 0x0F == 0).all() and (low[probable] & 0x0F != 0).any()
    assert targets.tail.max() < 0.03


def test_draws_are_unbiased_and_a_texts_own():
    logits_NV = 2 * torch.randn(700, 40, generator=torch.Generator().manual_seed(0))
    texts = [np.arange(300), np.arange(0), np.arange(400)]
    drawn = draw(logits_NV, texts, draws=50, seeds=[1, 2, 3])
    assert [len(targets) for targets in drawn] == [300, 0, 400]
    for targets in drawn:
        shares = np.exp(targets.logp.astype(np.float64))
        ends = np.cumsum(targets.counts)
        for start, end in zip(ends - targets.counts, ends, strict=True):
            assert shares[start:end].sum() == pytest.approx(1)
            assert (np.diff(shares[start:end]) <= 0).all()
            assert len(set(targets.ids[start:end].tolist())) == end - start
        assert not targets.tail.any() and targets.draws == 50
    # The mean over positions of one distribution is that distribution, within its deviation.
    (many,) = draw(logits_NV[:1].expand(2000, 40), [np.arange(2000)], draws=50, seeds=[7])
    mean = np.bincount(many.ids, np.exp(many.logp.astype(np.float64)), minlength=40) / 2000
    p_V = logits_NV[0].double().softmax(0).numpy()
    np.testing.assert_array_less(np.abs(mean - p_V), 5 * np.sqrt(p_V / (50 * 2000)) + 1e-9)
    (alone,) = draw(logits_NV[300:], [np.arange(400)], draws=50, seeds=[3])
    assert alone.ids.tolist() == drawn[2].ids.tolist() and alone.logp.tolist() == drawn[2].logp.tolist()
    (other,) = draw(logits_NV[300:], [np.arange(400)], draws=50, seeds=[4])
    assert other.ids.tolist() != alone.ids.tolist()


@settings(max_examples=60, deadline=None)
@given(draws=st.integers(1, MAX_DRAWS), data=st.data())
def test_counts_survive_float16(draws, data):
    counts = np.array(data.draw(st.lists(st.integers(1, draws), min_size=1, max_size=20)))
    exact = np.log(counts / draws).astype(np.float32)
    np.testing.assert_allclose(counted(exact.astype(np.float16), draws), exact, rtol=1e-6, atol=1e-7)


def test_rows_in_chunks_and_half_precision():
    logits_NV = torch.randn(700, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = cut(logits_NV, 0.9, 8)
    parts = sparsify(logits_NV, [np.arange(0), np.arange(300), np.arange(400)], top_p=0.9, top_k=8)
    assert [len(part) for part in parts] == [0, 300, 400]
    assert np.concatenate([part.ids for part in parts]).tolist() == whole.ids.tolist()
    assert np.concatenate([part.tail for part in parts]).tolist() == whole.tail.tolist()


def test_impossible_ids_are_not_kept():
    targets = cut(torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]), 1.0, 4)
    assert sorted(targets.ids.tolist()) == [0, 2]
    assert targets.tail[0] == pytest.approx(0, abs=1e-3)


def test_sums_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        SparseTargets(*(np.zeros(n, np.float32) for n in (2, 3, 3, 2)))
    with pytest.raises(ValueError, match="5 rows of logits for texts of 4"):
        sparsify(torch.zeros(5, 9), [np.arange(4)], top_p=0.9, top_k=4)
    with pytest.raises(ValueError, match="top_p"):
        cut(torch.zeros(1, 9), 0.0, 4)
    for wrong in (0, MAX_DRAWS + 1):
        with pytest.raises(ValueError, match="draws must be"):
            draw(torch.zeros(1, 9), [np.arange(1)], draws=wrong, seeds=[0])
    with pytest.raises(ValueError, match="5 rows of logits for texts of 4"):
        draw(torch.zeros(5, 9), [np.arange(4)], draws=3, seeds=[0])


# ---- rows on disk ----

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def sparse_targets(draw):
    counts = np.array(draw(st.lists(st.integers(1, 5), max_size=6)), np.int32)
    N, S = len(counts), int(counts.sum())
    numbers = np.random.default_rng(draw(st.integers(0, 99)))
    draws = draw(st.none() | st.integers(1, 60))
    logp = (-20 * numbers.random(S)).astype(np.float16).astype(np.float32)
    if draws is not None:
        logp = np.log(numbers.integers(1, draws, S, endpoint=True) / draws).astype(np.float32)
    return SparseTargets(
        token_ids=numbers.integers(0, 128_256, N, dtype=np.int32),
        ids=numbers.integers(0, 128_256, S, dtype=np.int32),
        logp=logp,
        counts=counts,
        draws=draws,
    )


FEATURE = npst.arrays(np.float16, st.tuples(st.integers(0, 3), st.just(2)), elements=st.floats(-2, 2, width=16))


ROWS = st.lists(
    st.builds(
        CachedRow,
        id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        task=st.sampled_from(["asr", "aac"]),
        prompt=TEXT,
        reference=st.none() | TEXT,
        hypothesis=st.none() | TEXT,
        hypothesis_logp=st.none() | st.floats(-9, 0),
        hypothesis_wer=st.none() | st.floats(0, 2),
        hypothesis_ended=st.none() | st.booleans(),
        targets=st.dictionaries(st.sampled_from(["reference", "hypothesis"]), sparse_targets()),
        features=st.dictionaries(st.sampled_from(["encoder", "audio_tokens"]), FEATURE),
    ),
    max_size=8,
    unique_by=lambda row: row.id,
)


def assert_same(row, other):
    """Two rows; a reader hands out features apart from them."""
    other = replace(other, features=row.features)
    assert row.sha256() == other.sha256()
    for f in fields(CachedRow):
        if f.name not in ("targets", "features"):
            assert getattr(row, f.name) == getattr(other, f.name)
    assert row.targets.keys() == other.targets.keys()
    for name, targets in row.targets.items():
        assert targets.draws == other.targets[name].draws
        for part in ("token_ids", "ids", "logp", "counts", "tail"):
            ours, theirs = getattr(targets, part), getattr(other.targets[name], part)
            assert ours.dtype == theirs.dtype
            assert (ours == theirs).all()


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, shard_rows=st.integers(1, 5), world=st.integers(1, 3), order=st.randoms())
def test_round_trip_whatever_the_shards_and_ranks(rows, shard_rows, world, order):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        with CacheWriter(Path(one), IDENTITY, 0, 1) as writer:
            for row in rows:
                writer.add(row)
        shuffled = order.sample(rows, len(rows))
        for rank in range(world):
            with CacheWriter(Path(other), IDENTITY, rank, world, shard_rows) as writer:
                for row in shuffled[rank::world]:
                    writer.add(row)
        readers = [CacheReader(Path(folder), IDENTITY) for folder in (one, other)]
        for reader in readers:
            assert reader.ids() == sorted(row.id for row in rows)
            assert len(reader) == len(rows)
            for row in rows:
                assert_same(row, reader[row.id])
                features = reader.features(row.id)
                assert features.keys() == row.features.keys()
                assert all((features[name] == array).all() for name, array in row.features.items())
        assert readers[0].content_sha256() == readers[1].content_sha256()
        assert readers[0].stats().tokens == sum(len(t) for row in rows for t in row.targets.values())


def make_row(number, N=3):
    logits_NV = torch.randn(N, 60, generator=torch.Generator().manual_seed(number))
    return CachedRow(
        id=f"clip-{number:03d}",
        task="asr",
        prompt="What is said?",
        reference="one two",
        hypothesis="one too",
        hypothesis_logp=-0.25,
        hypothesis_wer=0.5,
        hypothesis_ended=True,
        targets={"reference": cut(logits_NV, 0.9, 16)},
    )


def fill(folder, numbers, shard_rows=4, rank=0, world=1, identity=IDENTITY):
    with CacheWriter(folder, identity, rank, world, shard_rows) as writer:
        for number in numbers:
            if make_row(number).id not in writer.before:
                writer.add(make_row(number))
    return CacheReader(folder, identity)


def test_the_hash_sees_every_part_of_a_row():
    row = make_row(0)
    targets = row.targets["reference"]
    others = [replace(row, **{name: None}) for name in ("reference", "hypothesis", "hypothesis_logp", "hypothesis_wer")]
    others.append(replace(row, hypothesis_ended=False))
    for draws in (25, 50):
        drawn = replace(targets, logp=np.log(np.ones_like(targets.logp) / 25), draws=draws)
        others.append(replace(row, targets={"reference": drawn}))
    fewer = replace(targets, counts=targets.counts + np.array([1, -1, 0], np.int32))
    others.append(replace(row, targets={"reference": fewer}))
    others += [replace(row, targets={"hypothesis": targets}), replace(row, prompt="?"), replace(row, targets={})]
    others.append(replace(row, features={"encoder": np.zeros((2, 3), np.float16)}))
    others.append(replace(row, features={"encoder": np.zeros((3, 2), np.float16)}))
    for name in ("token_ids", "ids", "logp"):
        others.append(replace(row, targets={"reference": replace(targets, **{name: getattr(targets, name) + 1})}))
    assert len({other.sha256() for other in [row, *others]}) == len(others) + 1


def test_random_access_over_many_row_groups(tmp_path):
    reader = fill(tmp_path, range(100), shard_rows=70)
    reader = pickle.loads(pickle.dumps(reader))  # as a data loader's worker gets it
    for number in (99, 0, 31, 32, 63, 64, 69, 70, 5):
        assert_same(make_row(number), reader[f"clip-{number:03d}"])
    assert "clip-100" not in reader
    with pytest.raises(KeyError):
        reader["clip-100"]
    assert [row.id for row in reader.rows()] == reader.ids()


def test_stats(tmp_path):
    reader = fill(tmp_path, range(10))
    targets = [make_row(number).targets["reference"] for number in range(10)]
    mass = 1 - np.concatenate([t.tail for t in targets])
    size = sum(path.stat().st_size for path in tmp_path.glob("*.parquet"))
    counts = np.concatenate([t.counts for t in targets])
    stats = reader.stats()
    assert (stats.rows, stats.tokens, stats.bytes, stats.bytes_per_token) == (10, 30, size, pytest.approx(size / 30))
    assert stats.kept_mass_mean == pytest.approx(mass.mean())
    assert stats.kept_mass_p01 == pytest.approx(np.percentile(mass, 1))
    assert stats.ids_per_token == pytest.approx(counts.mean())
    assert sum(stats.ids_histogram.values()) == 30
    for most, count in stats.ids_histogram.items():
        assert count == ((counts > most // 2) & (counts <= most)).sum()
    assert stats.content_sha256 == reader.content_sha256()
    assert fill(tmp_path / "empty", []).stats().rows == 0


# ---- killed, started again ----


def _write_until_killed(folder, shard_written):
    writer = CacheWriter(folder, IDENTITY, 0, 1, shard_rows=4)
    for number in range(10):
        writer.add(make_row(number))
    (folder / ".shard-00000-000002.parquet.1234.tmp").write_bytes(b"PAR1 half")
    with open(folder / "failed.jsonl", "w") as file:
        file.write('{"id": "bad", "reason": "no sound"}\n{"id": "wor')
    shard_written.set()
    signal.pause()


def test_killed_and_started_again(tmp_path):
    context = multiprocessing.get_context("spawn")
    shard_written = context.Event()
    process = context.Process(target=_write_until_killed, args=(tmp_path / "killed", shard_written))
    process.start()
    assert shard_written.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    writer = CacheWriter(tmp_path / "killed", IDENTITY, 0, 1, shard_rows=4)
    assert [f"clip-{number:03d}" in writer.before for number in range(9)] == [True] * 8 + [False]  # two whole shards
    assert not list((tmp_path / "killed").glob(".*"))
    assert writer.failures() == 0  # what an earlier start met does not count
    writer.fail("bad", "no sound")
    writer.fail("worse", "silence")
    writer.fail("clip-000", "of a row that is there")
    assert writer.failures() == 2
    reader = fill(tmp_path / "killed", range(20))
    assert reader.failed() == {"bad": "no sound", "worse": "silence"}
    assert reader.content_sha256() == fill(tmp_path / "whole", range(20), shard_rows=7).content_sha256()


def test_ranks_leave_each_other_alone(tmp_path):
    fill(tmp_path, range(0, 10), rank=1, world=3)
    theirs = [tmp_path / f".shard-0000{rank}-000009.parquet.77.tmp" for rank in (0, 1, 2)]
    for path in theirs:
        path.touch()
    reader = fill(tmp_path, range(20), rank=0, world=2)  # one machine fewer: rank 2 is gone
    assert [path.exists() for path in theirs] == [False, True, False]
    assert reader.content_sha256() == fill(tmp_path / "alone", range(20)).content_sha256()


def test_a_failed_row_that_came_good_is_not_listed(tmp_path):
    with CacheWriter(tmp_path, IDENTITY, 0, 1) as writer:
        writer.fail("clip-001", "truncated")
        writer.fail("clip-002", "truncated")
    assert fill(tmp_path, [0, 1]).failed() == {"clip-002": "truncated"}


def test_an_error_inside_writes_nothing_more(tmp_path):
    with pytest.raises(RuntimeError), CacheWriter(tmp_path, IDENTITY, 0, 1) as writer:
        writer.add(make_row(0))
        raise RuntimeError
    assert len(CacheReader(tmp_path)) == 0


# ---- what is refused ----


@pytest.mark.parametrize("part", ["teacher", "tokenizer", "prompts", "audio", "targets", "hypotheses"])
def test_another_identity_is_refused_by_name(tmp_path, part):
    fill(tmp_path, range(2))
    other = replace(IDENTITY, **{part: "changed"})
    for act in (lambda: CacheReader(tmp_path, other), lambda: CacheWriter(tmp_path, other, 0, 1)):
        with pytest.raises(InputError, match=rf"another {part} .*set another cache.folder"):
            act()
    assert CacheReader(tmp_path).identity == IDENTITY


def test_another_format_is_refused(tmp_path):
    fill(tmp_path, range(2))
    path = tmp_path / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 0}))
    with pytest.raises(InputError, match="format version 0"):
        CacheReader(tmp_path)


def test_a_shard_of_another_cache_is_refused(tmp_path):
    fill(tmp_path / "a", range(2))
    fill(tmp_path / "b", range(2, 4), rank=1, identity=replace(IDENTITY, teacher="u"))
    shard = tmp_path / "b" / "shard-00001-000000.parquet"
    shard.rename(tmp_path / "a" / shard.name)
    with pytest.raises(InputError, match=r"shard-00001-000000\.parquet.*delete"):
        CacheReader(tmp_path / "a")


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_truncated_shard_is_named(tmp_path, keep):
    fill(tmp_path, range(8))
    shard = tmp_path / "shard-00000-000001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    for act in (lambda: CacheReader(tmp_path), lambda: CacheWriter(tmp_path, IDENTITY, 0, 1)):
        with pytest.raises(InputError, match=r"shard-00000-000001\.parquet: truncated.*delete it") as error:
            act()
        assert "\n" not in str(error.value)
    shard.unlink()
    assert fill(tmp_path, range(8)).content_sha256() == fill(tmp_path / "whole", range(8)).content_sha256()


def test_a_damaged_page_is_named(tmp_path):
    fill(tmp_path, range(8), shard_rows=8)
    shard = tmp_path / "shard-00000-000000.parquet"
    content = bytearray(shard.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 8] = bytes(8)
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00000-000000\.parquet"):
        CacheReader(tmp_path).content_sha256()


def test_texts_are_read_without_what_lies_beside_them(tmp_path):
    cache = fill(tmp_path, range(8))
    found = list(cache.texts())
    assert [row.sha256() for row in found] == [replace(make_row(n), targets={}).sha256() for n in range(8)]
    shard = tmp_path / "shard-00000-000001.parquet"
    table = pq.read_table(shard)
    pq.write_table(replaced(table, prompt=["a", None, "b", "c"]), shard, row_group_size=64)
    with pytest.raises(InputError, match=r"shard-00000-000001\.parquet: .*row clip-005 was not asked"):
        list(CacheReader(tmp_path).texts())


def replaced(table, **columns):
    for name, values in columns.items():
        table = table.set_column(
            table.column_names.index(name), table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    return table


def of_targets(table, **parts):
    """The table, with other parts of the first row's targets."""
    rows = table.column("reference_targets").to_pylist()
    return replaced(table, reference_targets=[rows[0] | parts, *rows[1:]])


@pytest.mark.parametrize(
    ("change", "group_rows"),
    [
        (lambda table: table.drop_columns("id"), 64),
        (lambda table: table.drop_columns("prompt"), 64),
        (lambda table: table.drop_columns("hypothesis_targets"), 64),
        (
            lambda table: table.set_column(
                table.column_names.index("reference_targets"), "reference_targets", pa.array([1] * len(table))
            ),
            64,
        ),
        (lambda table: table, 1),
        (lambda table: table.slice(0, 0), 64),
        (lambda table: replaced(table, id=[None, "b"]), 64),
        (lambda table: replaced(table, id=["", "b"]), 64),
        (lambda table: replaced(table, task=[None, "asr"]), 64),
        (lambda table: of_targets(table, logp=[]), 64),
        (lambda table: of_targets(table, token_ids=[1]), 64),
        (lambda table: of_targets(table, ids=None), 64),
        (lambda table: of_targets(table, counts=[-1, 2, 2]), 64),
        (lambda table: of_targets(table, counts=[0, 3, 3]), 64),
        (lambda table: of_targets(table, token_ids=[-1, 1, 2]), 64),
        (lambda table: of_targets(table, ids=[0, 1, 2, 3, 4, -1]), 64),
        (lambda table: of_targets(table, logp=[np.float16("nan")] * 6), 64),
        (lambda table: of_targets(table, logp=[np.float16(1)] * 6), 64),
        (lambda table: of_targets(table, logp=[None] * 6), 64),
        (lambda table: of_targets(table, draws=0), 64),
    ],
)
def test_a_whole_file_that_is_no_shard_is_named(tmp_path, change, group_rows):
    fill(tmp_path, range(2))
    shard = tmp_path / "shard-00000-000000.parquet"
    table = change(pq.read_table(shard))
    pq.write_table(table, shard, row_group_size=group_rows)

    def read():
        cache = CacheReader(tmp_path)
        return [cache[row_id] for row_id in cache.ids()], cache.stats()

    with pytest.raises(InputError, match=r"shard-00000-000000\.parquet: .*delete it"):
        read()


def test_a_cache_of_before_sounds_were_known_is_read_and_goes_on(tmp_path):
    fill(tmp_path, range(4))
    (shard,) = tmp_path.glob("*.parquet")
    table = pq.read_table(shard)
    pq.write_table(table.drop_columns("sound").replace_schema_metadata(table.schema.metadata), shard)
    with CacheWriter(tmp_path, IDENTITY, rank=0, world=1) as writer:
        assert [make_row(number).id in writer.before for number in range(5)] == [True] * 4 + [False]
        writer.add(replace(make_row(4), sound="ab"))
    reader = CacheReader(tmp_path, IDENTITY)
    assert [reader[make_row(number).id].sound for number in range(5)] == ["", "", "", "", "ab"]
    for number in range(4):
        assert_same(reader[make_row(number).id], make_row(number))


@pytest.mark.parametrize("change", [{"teacher": 3}, {"audio": None}, {"targets": ["a"]}, {"more": "a"}])
def test_an_identity_of_another_form_is_refused(tmp_path, change):
    fill(tmp_path, range(2))
    path = tmp_path / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="parts missing or unknown"):
        CacheReader(tmp_path, IDENTITY)


def test_no_cache_there(tmp_path):
    with pytest.raises(InputError, match=r"no teacher cache here.*cache_teacher\.sh"):
        CacheReader(tmp_path / "nowhere")
    fill(tmp_path, range(2))
    (tmp_path / "identity.json").unlink()
    with pytest.raises(InputError, match="without identity"):
        CacheWriter(tmp_path, IDENTITY, 0, 1)


def test_an_id_twice_is_refused(tmp_path):
    writer = CacheWriter(tmp_path, IDENTITY, 0, 1)
    writer.add(make_row(0))
    with pytest.raises(InputError, match="'clip-000' is there already"):
        writer.add(make_row(0))
    writer.close()
    shard = tmp_path / "shard-00000-000000.parquet"
    (tmp_path / "shard-00001-000000.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(InputError, match="also in shard-00000-000000"):
        CacheReader(tmp_path)


def test_targets_have_known_names():
    with pytest.raises(ValueError, match="targets are for"):
        CachedRow(id="a", task="asr", prompt="", targets={"transcript": make_row(0).targets["reference"]})

    with pytest.raises(ValueError, match="features are for"):
        CachedRow(id="a", task="asr", prompt="", features={"hidden": np.zeros((1, 1))})


def with_features(number):
    array = np.random.default_rng(number).random((4, 3)).astype(np.float16)
    return replace(make_row(number), features={"encoder": array})


def test_damaged_features_are_named(tmp_path):
    with CacheWriter(tmp_path, IDENTITY, 0, 1) as writer:
        writer.add(with_features(0))
    assert (CacheReader(tmp_path).features("clip-000")["encoder"] == with_features(0).features["encoder"]).all()
    path = tmp_path / "shard-00000-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    for harm in (lambda: None, path.unlink):
        harm()
        with pytest.raises(
            InputError, match=r"shard-00000-000000\.safetensors: missing, trunc.*delete it and the shard"
        ):
            CacheReader(tmp_path).features("clip-000")


@pytest.mark.parametrize("name", ["shard-00000-000000.parquet", "shard-00000-000000.safetensors"])
def test_a_flipped_bit_is_told_or_changes_nothing(tmp_path, name):
    with CacheWriter(tmp_path, IDENTITY, 0, 1) as writer:
        for number in range(4):
            writer.add(with_features(number))
    whole, content = CacheReader(tmp_path).content_sha256(), (tmp_path / name).read_bytes()
    rng, told = np.random.default_rng(0), 0
    for at in rng.integers(0, len(content), 400).tolist():
        (tmp_path / name).unlink()  # what is mapped stays as it is
        (tmp_path / name).write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :])
        try:
            assert CacheReader(tmp_path).content_sha256() == whole, at
        except InputError as error:
            assert "shard-00000-000000" in str(error) and "delete" in str(error)
            told += 1
    assert told > 200


def test_features_of_before_checksums_are_read(tmp_path):
    with CacheWriter(tmp_path, IDENTITY, 0, 1) as writer:
        writer.add(with_features(0))
    path = tmp_path / "shard-00000-000000.safetensors"
    save_file(load_file(path), path)
    assert (CacheReader(tmp_path).features("clip-000")["encoder"] == with_features(0).features["encoder"]).all()


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(logit):
    logits_NV = torch.zeros(3, 9)
    logits_NV[1, 4] = logit
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        sparsify(logits_NV, [np.arange(3)], top_p=0.9, top_k=4)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        draw(logits_NV, [np.arange(3)], draws=3, seeds=[0])


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = CacheWriter(tmp_path, IDENTITY, 0, 1)
    writer.add(with_features(0))
    monkeypatch.setattr("data.cache.writer.write_features", full)
    with pytest.raises(InputError, match="disk full; free some space, start again"):
        writer.close()
    assert not [*tmp_path.glob("shard-*"), *tmp_path.glob(".*")]
    monkeypatch.undo()
    writer.close()
    assert CacheReader(tmp_path).ids() == ["clip-000"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_said_wherever_it_is_met(tmp_path, monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    reader = fill(tmp_path, range(8))
    writer = CacheWriter(tmp_path, IDENTITY, 0, 1)
    writer.add(make_row(8))
    for name, act in (("write_table", writer.close), ("open", lambda: writer.fail("x", "y"))):
        monkeypatch.setattr(f"data.cache.writer.{name}", full, raising=False)
        with pytest.raises(InputError, match="free some space, start again") as error:
            act()
        monkeypatch.undo()
        assert "\n" not in str(error.value)
    assert CacheReader(tmp_path).ids() == reader.ids() and not list(tmp_path.glob(".*"))


def test_a_file_larger_than_is_allowed_is_one_line(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from data.errors import run_cli\n"
        "from tests.data.cache.test_cache import IDENTITY, CacheWriter, make_row\n"
        "def main():\n"
        "    writer = CacheWriter(Path(sys.argv[1]), IDENTITY, 0, 1, shard_rows=4)\n"
        "    [writer.add(make_row(n)) for n in range(4)]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "    [writer.add(make_row(n)) for n in range(4, 8)]\n"
        "run_cli(main)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("file too large; free some space, start again: it goes on")
    assert len(CacheReader(tmp_path)) == 4


# ---- several at once ----


def _write(folder, numbers, begun, go):
    try:
        with CacheWriter(folder, IDENTITY, 0, 1, shard_rows=2) as writer:
            begun.set()
            assert go.wait(60)
            for number in numbers:
                writer.add(make_row(number))
    except InputError as error:
        (folder.parent / "said").write_text(str(error))
        raise SystemExit(2) from None


def test_a_second_caching_of_the_folder_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun, go, other = context.Event(), context.Event(), context.Event()
    first = context.Process(target=_write, args=(tmp_path / "cache", range(4), begun, go))
    first.start()
    assert begun.wait(60)
    second = context.Process(target=_write, args=(tmp_path / "cache", range(4, 8), other, go))
    second.start()
    second.join()
    assert second.exitcode == 2
    said = (tmp_path / "said").read_text()
    assert f"process {first.pid} on " in said and "is writing this cache (as rank 0); wait for it to end" in said
    go.set()
    first.join()
    assert first.exitcode == 0 and len(CacheReader(tmp_path / "cache")) == 4
    assert len(fill(tmp_path / "cache", range(8))) == 8


@pytest.mark.parametrize("features", [False, True])
def test_without_locks_no_shard_replaces_another(tmp_path, monkeypatch, features):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    writers = [CacheWriter(tmp_path, IDENTITY, 0, 1, shard_rows=2) for _ in range(2)]
    for number in range(8):
        writers[number % 2].add(with_features(number) if features else make_row(number))
    reader = CacheReader(tmp_path, IDENTITY)
    assert reader.ids() == [f"clip-{number:03d}" for number in range(8)]
    for number in range(8):
        given = with_features(number) if features else make_row(number)
        assert replace(reader[given.id], features=reader.features(given.id)).sha256() == given.sha256()


def test_the_first_rank_writes_the_identity(tmp_path):
    writer = CacheWriter(tmp_path, IDENTITY, 1, 2, shard_rows=2)
    assert not (tmp_path / "identity.json").exists()
    CacheWriter(tmp_path, IDENTITY, 0, 2)
    written = (tmp_path / "identity.json").stat()
    writer.add(make_row(0))
    writer.close()
    now = (tmp_path / "identity.json").stat()
    assert (now.st_ino, now.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_features_that_a_kill_left_alone_are_removed(tmp_path):
    fill(tmp_path, range(4))
    (tmp_path / "shard-00000-000001.safetensors").write_bytes(b"half")
    (tmp_path / "shard-00001-000001.safetensors").write_bytes(b"another rank's, about to be whole")
    with CacheWriter(tmp_path, IDENTITY, 0, 1) as writer:
        writer.add(with_features(4))
    assert (CacheReader(tmp_path).features("clip-004")["encoder"] == with_features(4).features["encoder"]).all()
    assert (tmp_path / "shard-00001-000001.safetensors").exists()


def test_texts_that_are_not_asked_for_may_be_there(tmp_path):
    with_texts, other = replace(IDENTITY, hypotheses="h"), replace(IDENTITY, hypotheses="i")
    fill(tmp_path / "with", range(2), identity=with_texts)
    fill(tmp_path / "without", range(2))
    assert len(CacheReader(tmp_path / "with", IDENTITY)) == 2
    for folder, identity in (("without", with_texts), ("with", other)):
        with pytest.raises(InputError, match=r"another hypotheses .*cache\.hypotheses"):
            CacheReader(tmp_path / folder, identity)
    with pytest.raises(InputError, match="another hypotheses"):
        CacheWriter(tmp_path / "with", IDENTITY, 0, 1)


def test_sounds_are_compared_where_both_are_known(tmp_path):
    known, other = replace(IDENTITY, sounds="a"), replace(IDENTITY, sounds="b")
    for name, first, second in (("known", known, IDENTITY), ("unknown", IDENTITY, known)):
        fill(tmp_path / name, range(2), identity=first)
        assert len(fill(tmp_path / name, range(4), identity=second)) == 4
        assert CacheReader(tmp_path / name).identity == first
        assert CacheReader(tmp_path / name, first).ids() == CacheReader(tmp_path / name, second).ids()
    for act in (CacheReader, lambda *given: CacheWriter(*given, 0, 1)):
        with pytest.raises(InputError, match=r"another sounds .the content of the sound files: a there, b now"):
            act(tmp_path / "known", other)


def test_failures_are_read_once(tmp_path):
    writer = CacheWriter(tmp_path, IDENTITY, 0, 2)
    other = CacheWriter(tmp_path, IDENTITY, 1, 2)
    for number in range(3):
        writer.fail(f"a{number}", "gone")
        other.fail(f"b{number}", "gone")
        assert writer.failures() == other.failures() == 2 * (number + 1)
    size = (tmp_path / "failed.jsonl").stat().st_size
    assert read_failed(tmp_path, size) == ({}, size)
    with open(tmp_path / "failed.jsonl", "a") as file:
        file.write('{"id": "c", "rea')
    assert read_failed(tmp_path, size) == ({}, size)
    assert CacheWriter(tmp_path, IDENTITY, 0, 2).failures() == 0


def test_a_shards_features_are_opened_once(tmp_path, monkeypatch):
    with CacheWriter(tmp_path, IDENTITY, 0, 1, shard_rows=4) as writer:
        for number in range(8):
            writer.add(with_features(number))
    opened = []
    plain = files.safe_open
    monkeypatch.setattr(files, "safe_open", lambda path, kind: opened.append(path) or plain(path, kind))
    reader = CacheReader(tmp_path)
    for number in (*range(8), *range(8)):
        assert (reader.features(f"clip-{number:03d}")["encoder"] == with_features(number).features["encoder"]).all()
    assert len(opened) == 2
    again = pickle.loads(pickle.dumps(reader))
    assert again.features("clip-000").keys() == {"encoder"} and len(opened) == 3


def test_features_are_a_safetensors_file(tmp_path):
    row = replace(make_row(0), features={"encoder": np.zeros((0, 3), np.float16), "beats": np.ones((5, 7), np.float16)})
    with open(tmp_path / "a.safetensors", "wb") as file:
        files.write_features([row, replace(with_features(1), id="ü/1")], file)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == {"clip-000/encoder", "clip-000/beats", "ü/1/encoder"}
    assert found["clip-000/encoder"].shape == (0, 3) and (found["clip-000/beats"] == 1).all()
    assert (found["ü/1/encoder"] == with_features(1).features["encoder"]).all()


def test_hash_of_is_of_the_value_not_of_its_order():
    assert hash_of({"a": 1, "b": [2.5, None]}) == hash_of({"b": [2.5, None], "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": "1"})
