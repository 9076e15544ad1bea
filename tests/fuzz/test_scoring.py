"""Hypotheses, pairs of texts, and submissions, by the commands that take them."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.kinds import set_of
from data.paths import REPOSITORY
from data.rows.manifest_reader import read_manifest
from distill.scoring.hypothesis_file import hypotheses_for, read_hypotheses
from distill.scoring.submission import COLUMNS, check_submission, write_submission
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import as_json, spoilt_bytes, spoilt_json, spoilt_lines, spoilt_tree

ROWS = [{"path": f"{n}.wav", "text": f"text {n}", "task": "asr", "id": f"c{n}"} for n in range(3)]
LINES = [{"id": row["id"], "kind": "asr", "hypothesis": f"{row['text']}!", "logp": -0.1} for row in ROWS]
LINES += [LINES[0] | {"set": "asr_voice"}]
PAIRS = {"refs": ["press one", "a cow"], "hyps": ["press won", "a cow then"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    (folder / "list.json").write_text(json.dumps({"annotation": ROWS}))
    return folder


@pytest.fixture(scope="module")
def score():
    """scripts/score.py, with its arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        main = runpy.run_path(str(REPOSITORY / "scripts/score.py"))["main"]

        def run(*arguments):
            patch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
            main()

        yield run


@inputs()
@given(content=spoilt_lines(LINES))
def test_hypotheses(folder, content):
    path = folder / "hypotheses.jsonl"
    path.write_bytes(content)
    rows = read_manifest(folder / "list.json", sounds=False)

    def read():
        lines = read_hypotheses(path)
        assert len({(set_of(line), line["id"]) for line in lines}) == len(lines)
        texts = hypotheses_for(path, rows, "asr")
        assert len(texts) == len(rows)
        "".join(texts).encode()

    ends_well(read, path)


@inputs(100)
@given(content=spoilt_lines(LINES))
def test_hypotheses_are_scored(folder, score, content):
    path = folder / "scored.jsonl"
    path.write_bytes(content)
    ends_well(
        lambda: score("--task", "asr", "--hypotheses", path, "--annotation", folder / "list.json", "--worst", 2),
        path,
        "scoring: ",
    )


@inputs(100)
@given(content=spoilt_json(PAIRS), json=st.booleans())
def test_pairs(folder, score, content, json):
    path = folder / "pairs.json"
    path.write_bytes(content)
    ends_well(lambda: score("--task", "asr", "--pairs", path, "--worst", 2, *["--json"][:json]), path, "scoring: ")


@st.composite
def submission(draw: st.DrawFn) -> bytes:
    lines = [COLUMNS, *([f"test{n:04}", text] for n, text in enumerate(("a", "b, c", ".")))]
    if draw(st.booleans()):
        lines = draw(spoilt_tree(lines))
    lines = lines if isinstance(lines, list) else [[lines]]
    cells = (
        [as_json(cell).decode().strip('"') for cell in (line if isinstance(line, list) else [line])] for line in lines
    )
    content = "".join(",".join(line) + "\n" for line in cells).encode()
    return draw(spoilt_bytes([content])) if draw(st.booleans()) else content


@inputs()
@given(content=submission(), whole=st.booleans())
def test_submissions(folder, content, whole):
    path = folder / "submission.csv"
    path.write_bytes(content)
    rows = read_manifest(folder / "list.json", sounds=False) if whole else None

    def read():
        count = check_submission(path, rows)
        assert count == 3 or (count and not whole)

    ends_well(read, path)


@inputs()
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_what_is_submitted_is_taken(folder, texts):
    path = folder / "own.csv"
    write_submission(path, [f"test{n:04}" for n in range(len(texts))], texts)
    assert check_submission(path) == len(texts)
