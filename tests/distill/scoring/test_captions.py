import json

import pytest

import distill.scoring.captions
from data.errors import InputError
from data.rows.manifest_reader import read_manifest
from distill.recipe.test_sets import grouped
from distill.scoring.captions import caption_metrics, cider_d_split, score_captions
from tests.distill.scoring.test_transcripts import PAIRS, load_metric


@pytest.mark.skipif(not PAIRS.is_file(), reason="the scoring pairs are not beside this checkout")
def test_cider_d_split_equals_the_reference_implementation():
    fixture_pairs = json.loads(PAIRS.read_text(encoding="utf-8"))
    value = cider_d_split([[text] for text in fixture_pairs["refs"]], fixture_pairs["hyps"])
    assert value == pytest.approx(fixture_pairs["expected"]["cider_d_split"], rel=1e-12)


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "no clips"),
        ([["a"], ["b"]], ["a"], "2 references but 1 hypotheses"),
        ([["a dog"]], ["a dog"], "two clips or more"),
        ([["a dog"], [" "]], ["a", "b"], "reference 1 must be a list"),
        (["a dog", "a cat"], ["a", "b"], "reference 0 must be a list"),
    ],
)
def test_what_cannot_be_scored_as_captions(references, hypotheses, message):
    with pytest.raises(InputError, match=message):
        score_captions(references, hypotheses)


CAPTIONS = [["A dog barks, twice.", "the dog is barking"], ["rain falls on a roof"], ["birds sing"], ["a bell rings"]]


def test_captions_are_scored_on_ptb_tokens_with_a_chance_level(monkeypatch):
    for metric in ("spice", "fense"):
        monkeypatch.setattr(distill.scoring.caption_parts, f"has_{metric}", lambda: False)
    good = score_captions(CAPTIONS, ["a dog barks twice", "Rain falls on a roof!", "birds sing", "bell ringing"])
    assert good.cider_d > 10 * good.shuffled_cider_d
    assert good.cider_d_low <= good.cider_d <= good.cider_d_high
    assert 0 < good.meteor <= 1 and 0 < good.rouge_l <= 1 and 0 < good.bleu_4 <= 1
    assert all(0 < of <= 1 for of in (good.bleu_1, good.bleu_2, good.bleu_3))
    assert (good.vocabulary, good.reference_vocabulary) == (12, 15)
    assert good.spice is good.spider is good.fense is None
    assert good.not_computed == {
        "spice": "python -m distill.scoring.caption_parts spice",
        "spider": "python -m distill.scoring.caption_parts spice",
        "fense": "python -m distill.scoring.caption_parts fense",
    }
    assert good.clip_cider_d[0] > 0 and len(good.clip_cider_d) == good.summary()["clips"] == 4


EQUAL = [["a dog barks", "a dog barks", "the dog is loud"], ["rain falls on a roof", "it rains", "it rains"]]
WRITTEN = ["a dog barks loudly", "it rains on a roof"]


def test_equal_references_count_as_they_do_in_the_protocol():
    from aac_metrics.functional import bleu, cider_d, rouge_l

    _, by_clip = cider_d(WRITTEN, EQUAL)
    score = score_captions(EQUAL, WRITTEN)
    assert score.clip_cider_d == tuple(by_clip["cider_d"].tolist())
    assert score.rouge_l == pytest.approx(float(rouge_l(WRITTEN, EQUAL, False)))
    assert score.bleu_4 == pytest.approx(float(bleu(WRITTEN, EQUAL, False, n=4)))
    assert score.cider_d != score_captions([list(dict.fromkeys(clip)) for clip in EQUAL], WRITTEN).cider_d
    rows = [[text] for clip in EQUAL for text in clip]
    hypotheses = [text for text in WRITTEN for _ in range(3)]
    assert cider_d_split(EQUAL, WRITTEN) == float(cider_d(hypotheses, rows, False)) == cider_d_split(rows, hypotheses)


def test_rows_of_one_clip_are_scored_with_all_their_references(tmp_path):
    rows = [
        {"path": f"{number}.wav", "task": "audiocaption", "text": text, "id": f"{number}_{i}"}
        for number, clip in enumerate(EQUAL)
        for i, text in enumerate(clip)
    ]
    (tmp_path / "test.json").write_text(json.dumps({"annotation": rows}))
    found = grouped(read_manifest(tmp_path / "test.json", sounds=False), "aac")
    assert [list(row.references) for row in found] == EQUAL


def test_odd_hypotheses_score_zero_and_leave_the_others_in_their_places():
    score = score_captions(CAPTIONS, ["", "...", "birds\n\u2028 ||| sing", "\r"])
    assert [value > 0 for value in score.clip_cider_d] == [False, False, True, False]


def test_a_caption_of_punctuation_alone_is_no_reference():
    with pytest.raises(InputError, match="reference 1 has no words"):
        score_captions([["a dog"], ["..."]], ["a dog", "a cat"])


def test_with_its_parts_spider_is_the_mean_of_cider_d_and_spice(monkeypatch):
    import aac_metrics.functional
    import aac_metrics.utils.tokenization

    asked = {}

    def tokenise(texts, *_):
        return [text.lower().strip(".!") for text in texts]

    def stand_in(name):
        def metric(candidates, references, *_):
            asked[name] = (candidates, references)
            return 0.5

        return metric

    # Without Java: its own parts are in the other tests.
    monkeypatch.setattr(aac_metrics.utils.tokenization, "preprocess_mono_sents", tokenise)
    monkeypatch.setattr(aac_metrics.functional, "meteor", stand_in("meteor"))
    for metric in ("spice", "fense"):
        monkeypatch.setattr(distill.scoring.caption_parts, f"has_{metric}", lambda: True)
        monkeypatch.setattr(aac_metrics.functional, metric, stand_in(metric))
    hypotheses = ["A dog barks!", "rain", "birds", "bell"]
    score = score_captions(CAPTIONS, hypotheses)
    assert score.spider == (score.cider_d + 0.5) / 2 and score.fense == 0.5 and score.not_computed == {}
    assert asked["spice"][0][0] == "a dog barks" and asked["fense"] == (hypotheses, CAPTIONS)
    metrics = caption_metrics(CAPTIONS, hypotheses, "nota-v1.1")
    assert metrics["spider"] == (metrics["cider_d_split"] + 0.5) / 2
    assert caption_metrics(CAPTIONS, hypotheses, "nota-v1.0") == {
        "cider_d_split": metrics["cider_d_split"],
        "clips": 4,
        "protocol": "nota-v1.0",
    }
    # One reference a row, texts as they are.
    assert asked["spice"] == (["A dog barks!", *hypotheses], [[text] for clip in CAPTIONS for text in clip])
    rows = [[text] for clip in CAPTIONS for text in clip]
    assert metrics["cider_d_split"] == cider_d_split(rows, ["A dog barks!", *hypotheses])


def test_the_metric_module_is_loaded_by_its_path(monkeypatch, tmp_path):
    metric = load_metric("aac", monkeypatch, tmp_path)
    hypotheses = ["a dog barks", "rain", "birds", "bell"]
    computed = metric.compute(predictions=hypotheses, references=CAPTIONS, protocol="nota-v1.0")
    assert computed == caption_metrics(CAPTIONS, hypotheses, "nota-v1.0")
