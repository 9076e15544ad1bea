"""A file that a command is given may be none, or of no such kind: one line, status 2, and --debug shows where."""

import json

import numpy as np
import pytest

NO_FILES = ("garbage", "empty", "folder", "none", "loop", "rows.json/below", "x" * 300)
COMMANDS = {
    "score, pairs": ["scripts/score.py", "--task", "asr", "--pairs", "BAD"],
    "score, hypotheses": ["scripts/score.py", "--task", "asr", "--hypotheses", "BAD", "--annotation", "rows.json"],
    "score, annotation": ["scripts/score.py", "--task", "asr", "--hypotheses", "texts.jsonl", "--annotation", "BAD"],
    "submission": ["scripts/validate_submission.py", "BAD"],
    "submission, annotation": ["scripts/validate_submission.py", "submission.csv", "--annotation", "BAD"],
    "scan": ["scripts/scan_data.py", "BAD"],
    "eda": ["scripts/eda.py", "BAD", "--out", "made"],
    "manifest": ["scripts/make_manifest.py", "BAD", "--out", "made.arrow"],
    "shards": ["scripts/shard_data.py", "BAD", "--out", "made"],
    "corpus": ["scripts/prepare_data.py", "table", "--root", "BAD", "--out", "made"],
    "cache": ["scripts/inspect_cache.py", "BAD"],
    "report": ["scripts/report.py", "BAD", "--out", "made"],
    "curves": ["scripts/report.py", "--curves", "a=BAD", "--out", "made.md"],
    "grid": ["scripts/explore.py", "--grid", "BAD"],
    "parity": ["scripts/check_parity.py", "BAD"],
    "caching": ["scripts/cache_teacher.py", "--config", "BAD"],
    "training": ["distill/train.py", "--config", "BAD"],
    "evaluation": ["scripts/evaluate.py", "--model", "teacher", "--config", "BAD"],
    "efficiency": ["scripts/efficiency.py", "--config", "BAD"],
}
OUT = {
    "scan": ["scripts/scan_data.py", "rows.json", "--out", "BAD"],
    "eda": ["scripts/eda.py", "rows.json", "--out", "BAD"],
    "manifest": ["scripts/make_manifest.py", "rows.json", "--workers", "1", "--out", "BAD.arrow"],
    "shards": ["scripts/shard_data.py", "rows.json", "--out", "BAD"],
    "corpus": ["scripts/prepare_data.py", "annotation", "--root", ".", "--lists", "rows.json", "--out", "BAD"],
    "report": ["scripts/report.py", "results/published/kd_mini", "--out", "BAD"],
}


@pytest.fixture
def refused(command, tiny_data, tmp_path):
    """A function that runs a command on what is no file, and gives its line."""
    (tmp_path / "garbage").write_bytes(np.random.default_rng(0).bytes(2000))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    row = {"path": "sounds/valid_0.wav", "text": "press one", "task": "asr", "id": "a"}
    (tmp_path / "rows.json").write_text(json.dumps({"root": str(tiny_data), "annotation": [row]}))
    (tmp_path / "texts.jsonl").write_text('{"id": "a", "hypothesis": "press won"}\n')
    (tmp_path / "submission.csv").write_text("testset_id,text\ntest0000,press won\n")

    def refused(words, bad):
        def place(word):
            known = word in ("rows.json", "texts.jsonl", "submission.csv", ".") or word.startswith("made")
            return str(tmp_path / word) if known else word.replace("BAD", f"{tmp_path}/{bad}")

        arguments = [words[0], *map(place, words[1:])]
        status, _, err = command(*arguments)
        *notes, line = err.splitlines()
        assert status == 2 and line.startswith("error: ") and len(line) < 600, err
        assert all(note.startswith(("note: ", "warning: ", "scan: ")) for note in notes), err
        status, _, err = command(*arguments, "--debug")
        assert status == 2 and "Traceback (most recent call last)" in err and err.splitlines()[-1].startswith("error: ")
        return line

    return refused


@pytest.mark.parametrize("bad", NO_FILES, ids=["garbage", "empty", "folder", "none", "loop", "below", "long"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_file_is_one_line(refused, name, bad):
    assert bad.partition("/")[0][:20] in refused(COMMANDS[name], bad)


@pytest.mark.parametrize("bad", ["rows.json/below", "x" * 300], ids=["below", "long"])
@pytest.mark.parametrize("name", OUT)
def test_where_nothing_can_be_written_is_one_line(refused, name, bad):
    assert bad.partition("/")[0][:20] in refused(OUT[name], bad)
