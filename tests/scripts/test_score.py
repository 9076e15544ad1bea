import json

import pytest

from tests.distill.scoring.test_transcripts import PAIRS

SPEECH = {"refs": ["press one", "press two now"], "hyps": ["press one", "press too"]}
CAPTIONS = {"refs": [["a dog barks", "a dog"], "rain falls"], "hyps": ["a dog barks", "wind blows"]}


@pytest.fixture
def score(command, tmp_path):
    def run(pairs, *arguments):
        (tmp_path / "pairs.json").write_text(pairs if isinstance(pairs, str) else json.dumps(pairs))
        return command("scripts/score.py", "--pairs", tmp_path / "pairs.json", *arguments)

    return run


@pytest.mark.skipif(not PAIRS.is_file(), reason="the scoring pairs are not beside this checkout")
def test_the_references_figures(command):
    expected = json.loads(PAIRS.read_text())["expected"]
    _, out, _ = command("scripts/score.py", "--task", "asr", "--pairs", PAIRS, "--json")
    told = json.loads(out)
    assert (told["errors"], told["ref_words"]) == (expected["errors"], expected["ref_words"])
    assert told["wer"] == pytest.approx(expected["wer"], abs=1e-12)
    _, out, _ = command("scripts/score.py", "--task", "aac", "--protocol", "nota-v1.0", "--pairs", PAIRS, "--json")
    assert json.loads(out)["cider_d_split"] == pytest.approx(expected["cider_d_split"], abs=1e-9)


def test_words_and_captions(score):
    status, out, _ = score(SPEECH, "--task", "asr", "--json")
    assert status == 0 and json.loads(out)["wer"] == pytest.approx(2 / 5)
    status, out, _ = score(SPEECH, "--task", "asr")
    assert status == 0 and "wer                  0.4000" in out
    status, out, _ = score(CAPTIONS, "--task", "aac", "--json")
    assert status == 0 and json.loads(out)["cider_d"] > 0
    status, out, _ = score(CAPTIONS, "--task", "aac", "--protocol", "nota-v1.1")
    assert status == 0 and "cider_d_split" in out
    status, out, _ = score(SPEECH, "--task", "asr", "--worst", 1)
    assert "REF: press   2 now" in out and out.count("REF") == 1
    status, _, err = score(SPEECH, "--task", "asr", "--worst", -1)
    assert status == 2 and "--worst -1: give a number of clips" in err
    for kind, other in (("asr", ("--protocol", "literature")), ("aac", ("--worst", 1))):
        status, _, err = score(SPEECH, "--task", kind, *other)
        assert status == 2 and f"{other[0]} is not for --task {kind}" in err


@pytest.fixture
def by_id(command, own_data):
    """Scores lines of hypotheses against the tiny test set of a kind."""

    def run(kind, lines):
        (own_data / "hypotheses.jsonl").write_text(
            lines if isinstance(lines, str) else "\n".join(map(json.dumps, lines))
        )
        files = ["--hypotheses", own_data / "hypotheses.jsonl", "--annotation", own_data / f"test_{kind}.json"]
        protocol = ["--protocol", "nota-v1.0"] if kind == "aac" else []
        return command("scripts/score.py", "--task", kind, "--json", *protocol, *files)

    return run


def test_hypotheses_are_matched_to_a_test_set_by_their_ids(by_id, own_data):
    texts = [row["text"] for row in json.loads((own_data / "test_asr.json").read_text())["annotation"]]
    lines = [{"id": f"test_asr_{i}", "hypothesis": text} for i, text in enumerate(texts)]
    status, out, err = by_id("asr", lines[::-1])
    assert status == 0 and json.loads(out)["wer"] == 0, err
    status, out, _ = by_id("aac", [{"id": f"test_aac_{i}", "hypothesis": ""} for i in range(2)])
    assert status == 0 and json.loads(out)["cider_d_split"] == 0
    for bad, message in (
        ([*lines, lines[1]], 'line 5: id "test_asr_1" is in line 2 already'),
        ([*lines, lines[1] | {"kind": "asr"}], 'id "test_asr_1" is there with a kind and without one'),
        (lines[1:], '1 of 4 clips of the annotation are missing (the first: "test_asr_0"); finish it'),
        ([{"id": "valid_0", "hypothesis": ""}, *lines], 'are not in it (the first: "valid_0"); it is of another split'),
        ([{"id": "a"}, *lines], "line 1: must be"),
        ("no JSON\n" + json.dumps(lines[0]), "line 1: must be"),
        ('{"id": "a", "hypothesis": "b", "hypothesis": "c"}', 'line 1: the key "hypothesis" is there twice; mend it'),
        ('{"id": "a", "id": "b", "hypothesis": "c"}\n' + json.dumps(lines[0]), 'line 1: the key "id" is there twice'),
        ([lines[0] | {"kind": []}, *lines[1:]], "line 1: must be"),
        ([lines[0] | {"hypothesis": "\ud800"}, *lines[1:]], "line 1: it holds half a character"),
        ("[" * 10**5 + "\n" + json.dumps(lines[0]), "line 1: nested too deep"),
    ):
        status, _, err = by_id("asr", bad)
        assert status == 2 and message in err and err.count("\n") == 1


def test_of_several_sets_the_one_that_is_named_is_scored(command, own_data):
    texts = [row["text"] for row in json.loads((own_data / "test_asr.json").read_text())["annotation"]]
    lines = [{"id": f"test_asr_{i}", "kind": "asr", "hypothesis": text} for i, text in enumerate(texts)]
    lines += [line | {"set": "asr_voice", "hypothesis": ""} for line in lines]
    file = own_data / "hypotheses.jsonl"

    def score(task, lines):
        file.write_text("\n".join(map(json.dumps, lines)))
        files = ("--hypotheses", file, "--annotation", own_data / "test_asr.json")
        return command("scripts/score.py", "--task", task, "--json", *files)

    assert [json.loads(score(task, lines)[1])["wer"] for task in ("asr", "asr_voice")] == [0, 1]
    for task, some, message in (
        ("asr", lines[4:], "no texts of the set asr; give --task one that it has: asr_voice"),
        ("asr_speakers", lines, "no texts of the set asr_speakers; give --task one that it has: asr, asr_voice"),
        ("ser", lines, "--task ser: give asr or aac, or one of them with a name"),
        ("asr", [lines[0] | {"set": 3}], "line 1: must be"),
    ):
        status, _, err = score(task, some)
        assert status == 2 and message in err and err.count("\n") == 1


def test_several_rows_of_one_clip_are_its_references(by_id, own_data):
    file = own_data / "test_aac.json"
    rows = json.loads(file.read_text())["annotation"]
    again = [row | {"id": row["id"] + "b", "text": f"other {i}", "references": []} for i, row in enumerate(rows)]
    file.write_text(json.dumps({"annotation": rows + again}))
    status, out, err = by_id("aac", [{"id": f"test_aac_{i}", "hypothesis": f"other {i}"} for i in range(2)])
    assert status == 0, err
    told = json.loads(out)
    assert told["clips"] == 2 and told["cider_d_split"] > 0


@pytest.mark.parametrize(
    ("pairs", "task", "message"),
    [
        ("no JSON", "asr", "cannot be read as JSON"),
        ([], "asr", "must be"),
        ('{"refs": ["a"], "refs": ["b"], "hyps": ["b"]}', "asr", 'the key "refs" is there twice'),
        ({"refs": ["a"]}, "asr", "must be"),
        ({"refs": ["a"], "hyps": [3]}, "asr", "row 0: a hypothesis is a text"),
        ({"refs": ["a", "b"], "hyps": ["a"]}, "asr", "2 references but 1 hypotheses"),
        (CAPTIONS, "asr", "a clip of speech has one reference"),
        ({"refs": [], "hyps": []}, "asr", "no clips to score"),
        ({"refs": ["a", "b"], "hyps": ["a", "(" * 100_000]}, "asr", "row 1: a text of 100,000 characters; cut it"),
        ({"refs": ["b", "a"], "hyps": ["a", "9" * 5000]}, "asr", "scoring: row 1: "),
        ({"refs": ["b"], "hyps": ["\udcff"]}, "asr", "half a character"),
        ({"refs": ["<" * 20_001], "hyps": ["a"]}, "asr", "row 0: a text of 20,001 characters; cut it"),
        ({"refs": [[], "b"], "hyps": ["a", "b"]}, "aac", "at least one caption"),
    ],
)
def test_bad_pairs_are_named(score, pairs, task, message):
    status, _, err = score(pairs, "--task", task)
    assert status == 2 and message in err
