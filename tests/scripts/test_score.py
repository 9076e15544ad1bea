import json

import pytest

from tests.distill.test_scoring import PAIRS

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


@pytest.mark.parametrize(
    ("pairs", "task", "message"),
    [
        ("no JSON", "asr", "cannot be read as JSON"),
        ([], "asr", "must be"),
        ({"refs": ["a"]}, "asr", "must be"),
        ({"refs": ["a"], "hyps": [3]}, "asr", "row 0: a hypothesis is a text"),
        ({"refs": ["a", "b"], "hyps": ["a"]}, "asr", "2 references but 1 hypotheses"),
        (CAPTIONS, "asr", "a clip of speech has one reference"),
        ({"refs": [], "hyps": []}, "asr", "no clips to score"),
        ({"refs": [[], "b"], "hyps": ["a", "b"]}, "aac", "at least one caption"),
    ],
)
def test_bad_pairs_are_named(score, pairs, task, message):
    status, _, err = score(pairs, "--task", task)
    assert status == 2 and message in err
