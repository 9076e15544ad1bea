"""Cache folders: identity, shards, features and failures."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.cache.reader import CacheReader
from data.cache.row import CachedRow, CacheIdentity
from data.cache.targets import SparseTargets
from data.cache.writer import CacheWriter
from distill.recipe.recipe import HypothesisSettings
from distill.training.texts import fault_of_hypothesis
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_bytes, spoilt_json, spoilt_lines

IDENTITY = CacheIdentity(
    **{name: name[0] * 64 for name in CacheIdentity.__dataclass_fields__ if name != "format_version"}
)
SHARD = "shard-00000-000000"


def cached_row(number: int) -> CachedRow:
    N = 3 + number
    targets = SparseTargets(
        token_ids=np.arange(N, dtype=np.int32),
        ids=np.arange(2 * N, dtype=np.int32),
        logp=np.log(np.full(2 * N, 0.25, np.float16)).astype(np.float16).astype(np.float32),
        counts=np.full(N, 2, np.int32),
    )
    features = {"audio_tokens": np.ones((4, 8), np.float16)}
    row = CachedRow(
        f"row{number}", "asr", "transcribe", "a text", "a tax", -0.5, True, 0.5, {"reference": targets}, features
    )
    return replace(row, targets={"reference": targets, "hypothesis": targets}) if number else row


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, bytes]:
    """The files of a whole one."""
    folder = tmp_path_factory.mktemp("whole")
    with CacheWriter(folder, IDENTITY, rank=0, world=1) as writer:
        for number in range(3):
            writer.add(cached_row(number))
    (folder / "failed.jsonl").write_text('{"id": "lost", "reason": "silent"}\n')
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def require_read(folder: Path) -> None:
    """All that training and inspecting ask of a cache."""
    cache = CacheReader(folder, IDENTITY)
    assert all(cache.ids()) and len(cache) == len(set(cache.ids()))
    for row_id in cache.ids():
        row = cache[row_id]
        assert row.id == row_id
        "".join((row.id, row.task, row.prompt, row.reference or "", row.hypothesis or "")).encode()
        for targets in row.targets.values():
            assert len(targets.counts) == len(targets) and (targets.counts >= 1).all()
            assert (targets.logp <= 0).all() and (targets.ids >= 0).all() and (targets.token_ids >= 0).all()
            assert ((targets.tail >= 0) & (targets.tail <= 1)).all()
        for feature in cache.features(row_id).values():
            assert feature.dtype == np.float16 and feature.ndim == 2
    for row in cache.texts():
        fault_of_hypothesis(row, 1.0, bool(row.reference), HypothesisSettings())
    stats = cache.stats()
    assert stats.rows == len(cache) and 0 <= stats.kept_mass_mean <= 1
    json.dumps([asdict(stats), cache.failed()]).encode()


def write(folder: Path, cache: dict[str, bytes], **spoilt: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()  # an earlier one may still be mapped
    for name, content in (cache | spoilt).items():
        (folder / name).write_bytes(content)


@inputs(300)
@given(data=st.data(), which=st.sampled_from(("parquet", "parquet", "safetensors")))
def test_shards_of_spoilt_bytes(folder, cache, data, which):
    name = f"{SHARD}.{which}"
    write(folder, cache, **{name: data.draw(spoilt_bytes([cache[name]]))})
    ends_well(lambda: require_read(folder), folder)


ODD = {
    "string": ["row0", "a", "", None, "\0"],
    "double": [0.0, -1.0, float("nan"), float("inf"), None],
    "bool": [True, None],
    "int32": [0, 1, -1, 2**31 - 1, None],
    "halffloat": [np.float16(x) for x in (0, -1, 1, np.nan, -np.inf)],
}


@inputs(300)
@given(data=st.data())
def test_shards_of_odd_values(folder, cache, data):
    """Whole Parquet files with columns, types and values of which no writer knows."""
    table = pq.read_table(io.BytesIO(cache[f"{SHARD}.parquet"]))
    for name in data.draw(st.lists(st.sampled_from(table.column_names), min_size=1, max_size=2, unique=True)):
        at, column = table.column_names.index(name), table.column(name)
        kind = data.draw(st.sampled_from(("drop", "values", "type", "values")))
        if kind == "drop":
            table = table.remove_column(at)
        elif kind == "type":
            table = table.set_column(at, name, pa.array([data.draw(st.integers(0, 3))] * len(table)))
        elif pa.types.is_struct(column.type):
            rows = column.to_pylist()
            part = data.draw(st.sampled_from(("token_ids", "ids", "logp", "counts", "draws")))
            row = next(row for row in rows if row)
            odd = data.draw(st.sampled_from(ODD["halffloat" if part == "logp" else "int32"]))
            if part == "draws":
                row[part] = odd
            else:
                row[part] = data.draw(
                    st.sampled_from(([], None, row[part][1:], [odd, *row[part][1:]], [*row[part], odd]))
                )
            table = table.set_column(at, name, pa.array(rows, column.type))
        else:
            values = data.draw(
                st.lists(st.sampled_from(ODD[str(column.type)]), min_size=len(table), max_size=len(table))
            )
            table = table.set_column(at, name, pa.array(values, column.type))
    if data.draw(st.booleans()):
        table = table.slice(0, data.draw(st.integers(0, 3)))
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=data.draw(st.sampled_from((64, 64, 1))))
    write(folder, cache, **{f"{SHARD}.parquet": out.getvalue()})
    ends_well(lambda: require_read(folder), folder)


@inputs()
@given(identity=spoilt_json(asdict(IDENTITY)))
def test_identities(folder, cache, identity):
    write(folder, cache, **{"identity.json": identity})
    ends_well(lambda: require_read(folder), folder)


@inputs(100)
@example(failed=b"[" * 100_000 + b"\n")
@given(failed=spoilt_lines([{"id": "lost", "reason": "silent"}, {"id": "row0", "reason": "x"}]))
def test_failures(folder, cache, failed):
    write(folder, cache, **{"failed.jsonl": failed})
    assert ends_well(
        lambda: require_read(folder), folder
    )  # a line that nobody can read is of a row that is tried again
