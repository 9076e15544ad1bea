"""Annotation files, manifests and reports of scans."""

import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rows.faults import FaultPolicies, Lengths, Thresholds
from data.rows.manifest import SCHEMA, Manifest
from data.rows.manifest_reader import read_manifest
from data.rows.manifest_writer import write_manifest
from data.rows.policy import read_training_rows
from data.scan.report import report_of
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_bytes, spoilt_json

SOUND = {"path": "sounds/valid_0.wav", "text": "press one", "task": "asr", "id": "a"}
ROWS = {
    "root": ".",
    "annotation": [
        SOUND | {"corpus": "c", "duration": 1.2, "references": ["x", "y"], "start": 0.1, "end": 0.9},
        SOUND | {"id": "b", "Q": "what?", "testset_id": "test0001", "task": "QA"},
        {key: SOUND[key] for key in ("path", "text", "task")},
    ],
}
TOLERANT = FaultPolicies(missing_file="drop", unreadable="drop", duplicate_id="drop", long_text="drop", max_dropped=1)


def require_sensible(rows: Manifest, mapped: bool = False) -> None:
    ids = [row.id for row in rows]
    # Who writes a manifest sees to its ids: to look at all of them takes the memory that it saves.
    assert mapped or (all(ids) and len(set(ids)) == len(ids))
    for row in rows:
        assert row.path.is_absolute()
        "".join((row.id, str(row.path), row.text, row.task, row.corpus, row.question, *row.references)).encode()
        times = (row.duration_s, row.start_s, row.end_s)
        assert all(math.isfinite(seconds) and seconds >= 0 for seconds in times)
    assert len(rows.fingerprint()) == 64
    assert len(rows.durations_s) == len(rows.longest_first()) == len(rows.with_text) == len(rows)


@pytest.fixture(scope="module")
def folder(tiny_data, tmp_path_factory) -> Path:
    return shutil.copytree(tiny_data, tmp_path_factory.mktemp("rows") / "data")


@inputs()
@given(content=spoilt_json(ROWS), way=st.sampled_from(("heard", "unheard", "training", "scan")))
def test_annotation_files(folder, content, way):
    path = folder / "list.json"
    path.write_bytes(content)

    def read():
        if way == "scan":
            report = report_of(path, None, Thresholds(), decode=False, workers=1, quiet=True)
            return json.dumps(report.as_json()).encode()
        if way == "training":
            rows = read_training_rows(path, TOLERANT, Lengths())
        else:
            rows = read_manifest(path, texts=way == "heard", sounds=way == "heard")
        return require_sensible(rows)

    ends_well(read, path, folder, "--root")


@pytest.fixture(scope="module")
def manifests(folder) -> list[bytes]:
    """Manifests as they are written: of several rows and of one."""
    contents = []
    for name, entries in (("many", ROWS["annotation"]), ("one", [SOUND])):
        (folder / f"{name}.json").write_text(
            json.dumps({"annotation": [{**of, "duration": 1.2} | of for of in entries]})
        )
        write_manifest([folder / f"{name}.json"], folder / f"{name}.arrow", None, 1)
        contents.append((folder / f"{name}.arrow").read_bytes())
    return contents


@inputs(300)
@given(data=st.data())
def test_manifests_of_spoilt_bytes(folder, manifests, data):
    path = folder / "list.arrow"
    path.unlink(missing_ok=True)  # an earlier one may still be mapped
    path.write_bytes(data.draw(spoilt_bytes(manifests)))
    ends_well(lambda: require_sensible(read_manifest(path), mapped=True), path)


COLUMN = {
    pa.string(): ["a", "", "b", "\0", "x" * 300, None, "../b", "/"],
    pa.float64(): [0.0, 1.0, -1.0, float("nan"), float("inf"), 1e300, None],
    pa.list_(pa.string()): [[], ["a"], [None], ["a", "b"], None],
}


@inputs(300)
@given(data=st.data())
def test_manifests_of_odd_values(folder, data):
    """Whole Arrow files that others wrote: nulls, NaN, ids twice, other columns and types, another root."""
    rows, fields, arrays = data.draw(st.integers(0, 3)), [], []
    for field in SCHEMA:
        kind = field.type if data.draw(st.integers(0, 19)) else data.draw(st.sampled_from([pa.string(), pa.float64()]))
        if not data.draw(st.integers(0, 19)):
            continue
        usual = [f"{field.name}{n}" for n in range(3)] if kind == pa.string() else None
        plain = data.draw(st.integers(0, 4))
        values = (
            usual[:rows]
            if usual and plain
            else data.draw(
                st.lists(st.sampled_from(COLUMN[kind][: 2 if plain else None]), min_size=rows, max_size=rows)
            )
        )
        fields.append(pa.field(field.name, kind))
        arrays.append(pa.array(values, kind))
    schema = pa.schema(fields, SCHEMA.metadata)
    about = data.draw(
        st.sampled_from(
            (
                {"root": ".", "fingerprint": "0" * 64},
                {"root": b"\xff", "fingerprint": "0"},
                {"root": "."},
                {"root": "a\0b", "fingerprint": ""},
                None,
            )
        )
    )
    path = folder / "odd.arrow"
    path.unlink(missing_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        if about is not None:
            writer.write_batch(pa.RecordBatch.from_pylist([], schema), custom_metadata=about)
    ends_well(lambda: require_sensible(read_manifest(path), mapped=True), path)


@pytest.fixture(scope="module")
def report(folder) -> dict:
    (folder / "train.json").write_text(json.dumps(ROWS))
    return report_of(folder / "train.json", None, Thresholds(), decode=False, workers=1, quiet=True).as_json()


@inputs()
@given(data=st.data())
def test_reports_of_scans(folder, report, data):
    path = folder / "scan.json"
    path.write_bytes(data.draw(spoilt_json(report)))
    ends_well(lambda: require_sensible(read_training_rows(folder / "train.json", TOLERANT, Lengths(), scan=path)), path)
