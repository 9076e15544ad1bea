"""What a person sees of the commands over annotation files when these, or the machine, are not as they should be."""

import json

import numpy as np
import pytest
import soundfile

SCRIPTS = ("make_manifest", "scan_data", "shard_data")


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A function that writes an annotation file over one sound, as JSON or as the text given."""
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "a.wav", np.full(24_000, 0.1), 16_000)

    def write(*changes, text=None):
        path = tmp_path / "rows.json"
        whole = {"path": "a.wav", "text": "x", "task": "asr"}
        path.write_text(text or json.dumps({"annotation": [whole | change for change in changes]}))
        return path

    return write


def one_line(status, err, ends=2):
    assert status == ends and "Traceback" not in err, err
    return [line for line in err.splitlines() if line.startswith("error: ")]


BAD_ROWS = [
    {"duration": 10**400},
    {"text": "\ud800"},
    {"id": "\udcff"},
    {"path": "a\0.wav"},
    {"path": "\udc80.wav"},
    {"expand_wav": ["a.wav"]},
    {"text": None},
]


@pytest.mark.parametrize("change", BAD_ROWS, ids=str)
def test_a_bad_row_is_one_line_and_a_scan_takes_it(command, rows, tmp_path, change):
    path = rows({}, {"id": "bad"} | change)
    if "text" not in change or change["text"] is not None:
        for script in ("make_manifest", "shard_data"):
            status, _, err = command(f"scripts/{script}.py", path, "--out", tmp_path / "out" / "rows.arrow")
            assert len(one_line(status, err)) == 1 and "row 1" in err
    for options in ((), ("--json",), ("--decode", "--out", tmp_path / "scan.json")):
        status, out, err = command("scripts/scan_data.py", path, *options)
        assert status == 0 and out, err


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"annotation": ' + "[" * 100_000, '{"annotation": [1' + "0" * 5_000 + "]}", "{"]
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_that_python_cannot_hold_is_one_line(command, rows, tmp_path, script, text):
    status, _, err = command(f"scripts/{script}.py", rows(text=text), "--out", tmp_path / "out.arrow")
    assert len(one_line(status, err)) == 1 and "not JSON" in err


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_where_a_folder_should_be_is_one_line(command, rows, tmp_path, script):
    (tmp_path / "file").write_text("")
    status, _, err = command(f"scripts/{script}.py", rows({}), "--out", tmp_path / "file" / "out.arrow")
    assert len(one_line(status, err)) == 1 and "file" in err
    status, _, err = command(f"scripts/{script}.py", rows({}), "--out", tmp_path / "file" / "out.arrow", "--debug")
    assert status == 2 and "Traceback" in err and "error: " in err


@pytest.mark.parametrize("script", ["make_manifest", "scan_data"])
def test_workers_are_counted_from_none(command, rows, tmp_path, script):
    status, _, err = command(f"scripts/{script}.py", rows({}), "--out", tmp_path / "o.arrow", "--workers", -1)
    assert len(one_line(status, err)) == 1 and "--workers -1: must be" in err


def test_corrected_lengths_are_told(command, rows, tmp_path):
    path = rows({"duration": 1500}, {"end": 100}, {}, {"start": 9, "end": 10})
    status, out, err = command("scripts/make_manifest.py", path, "--out", tmp_path / "o.arrow")
    assert status == 0 and "3 rows" in out, err
    assert "corrected: 2 rows stated another length" in out and "left out: 1 rows" in out
