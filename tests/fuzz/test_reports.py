"""What models scored and how they were measured, as pages of results are made of it."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from distill.report import write_report
from tests.distill.report.conftest import TEACHER, student
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_json, spoilt_lines

HOW = {"protocol": "scoring", "at": "2026-01-01T00:00:00", "seconds": 10.0, "batch": 1, "tokens": 64, "sound": "noise"}
STUDENT = {key: value for key, value in student().items() if key != "checkpoint"}  # so that the logs are its own
NAMED = {"asr_voice": {"kind": "asr", "overgenerated_clips": 1, "capped_wer": 0.1, "wer": 0.5} | TEACHER["asr"]}
EXAMPLE = {"id": "0", "kind": "asr", "set": "asr_voice", "task": "asr", "reference": "a", "hypothesis": "b"}
FILES = {
    "teacher/metrics.json": TEACHER | NAMED | {"measured": HOW, "examples": [*TEACHER["examples"], EXAMPLE]},
    "student/metrics.json": STUDENT | NAMED | {"measured": HOW, "examples": [*STUDENT["examples"], EXAMPLE]},
    "efficiency.json": {
        "protocol": {"name": "default", "tokens": 64, "sound": "noise", "counts_features": True},
        "at": "2026-01-02T00:00:00",
        "teacher": TEACHER | {"seconds": 10.0, "batch": 1},
        "student": STUDENT | {"seconds": 10.0, "batch": 1},
    },
    "report.json": {"runs": {"a": {"teacher": TEACHER}, "b": {"student": STUDENT, "ratio": {}, "notes": []}}},
    "recipe.json": {"name": "run", "runs": "runs"},
}
STEPS = [{"step": n, "stage": "distil", "loss": 2.5 - n, "ce": 1.5, "seconds": 1.0} for n in range(3)]
LOOKS = [{"step": n, "set": "valid", "wer": 0.5, "ce": 2.0} for n in (2, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where pictures are not drawn, and nothing is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b"a picture"))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield tmp_path_factory.mktemp("reports") / "run"


@inputs(60, share=0.05)
@given(data=st.data(), name=st.sampled_from([*FILES, "steps.jsonl", "validation.jsonl"]))
def test_reports(folder, data, name):
    files = {other: json.dumps(tree).encode() for other, tree in FILES.items()}
    files |= {
        other: "".join(json.dumps(row) + "\n" for row in rows).encode()
        for other, rows in (("steps.jsonl", STEPS), ("validation.jsonl", LOOKS))
    }
    if name.endswith("jsonl"):
        files[name] = data.draw(spoilt_lines({"steps.jsonl": STEPS, "validation.jsonl": LOOKS}[name]))
    else:
        files[name] = data.draw(spoilt_json(FILES[name]))
    if name == "report.json":
        files = {other: content for other, content in files.items() if not other.endswith("metrics.json")}
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    for other, content in files.items():
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_bytes(content)
    ends_well(lambda: write_report([folder]), folder)
