import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer as TransformersNormalizer
from whisper_normalizer.english import EnglishSpellingNormalizer, EnglishTextNormalizer

from data.errors import InputError
from data.words import asr_words
from distill.scoring import cider_d_split, score_asr, score_captions

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "scoring_pairs.json"

WORDS = ["a", "dog", "barks", "colour", "twenty", "one", "hundred", "and", "a half", "$5", "3.5", "it's", "won't"]
WORDS += [
    "mr.",
    "uh",
    "[noise]",
    "(cough)",
    "--",
    "\u00e9t\u00e9",
    "1,000",
    "2nd",
    "oh",
    "point",
    "cents",
    "&amp;",
    "don\u2019t",
    "percent",
]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def fixture_pairs() -> dict:
    if not PAIRS.is_file():
        pytest.skip("the scoring pairs of ../shared are not here")
    return json.loads(PAIRS.read_text(encoding="utf-8"))


def edit_distance(left: list[str], right: list[str]) -> int:
    """Levenshtein's recurrence, a row at a time: the definition, to check the library against."""
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, start=1):
        above, row = row, [i]
        for j, other in enumerate(right, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def test_wer_equals_the_reference_implementation(fixture_pairs):
    expected = fixture_pairs["expected"]
    score = score_asr(fixture_pairs["refs"], fixture_pairs["hyps"])
    assert (score.errors, score.ref_words, score.wer) == (expected["errors"], expected["ref_words"], expected["wer"])
    assert score.wer_low < score.wer < score.wer_high


def test_cider_d_split_equals_the_reference_implementation(fixture_pairs):
    value = cider_d_split([[text] for text in fixture_pairs["refs"]], fixture_pairs["hyps"])
    assert value == pytest.approx(fixture_pairs["expected"]["cider_d_split"], rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The colour, please!", ["the", "color", "please"]),
        ("twenty-one dollars and a half", ["$", "21", "and", "a", "half"]),
        ("It's Mr. O'Neil's", ["it", "is", "mister", "0", "neil", "is"]),
        ("[noise] (10 seconds of silence)", []),
        ("uh \u2013 press * or #", ["press", "or"]),
        ("one 3.5% 1,000", ["one", "3.5", "1000"]),
    ],
)
def test_words_follow_normaliser_tokeniser_and_punctuation_rule(text, words):
    assert asr_words(text) == words


@given(texts)
def test_both_packagings_of_whispers_normaliser_agree(text):
    mapping = EnglishSpellingNormalizer().mapping
    assert EnglishTextNormalizer()(text) == TransformersNormalizer(mapping)(text)


@given(pairs)
@settings(deadline=None)
def test_errors_are_the_edit_distance_clip_by_clip(clips):
    references, hypotheses = zip(*clips, strict=True)
    if not any(asr_words(text) for text in references):
        with pytest.raises(InputError, match="no reference has a word"):
            score_asr(references, hypotheses)
        return
    score = score_asr(references, hypotheses, bootstrap=20)
    assert list(score.clip_errors) == [edit_distance(asr_words(r), asr_words(h)) for r, h in clips]
    assert list(score.clip_words) == [len(asr_words(r)) for r in references]
    assert score.errors == score.substitutions + score.deletions + score.insertions == sum(score.clip_errors)
    assert score.wer == score.errors / score.ref_words
    assert score_asr(references, references, bootstrap=20).wer == 0


def test_an_empty_hypothesis_is_all_deletions_and_an_empty_reference_all_insertions():
    score = score_asr(["a dog barks", "[noise]"], ["", "two cats"])
    assert (score.deletions, score.insertions, score.substitutions) == (3, 2, 0)
    assert score.wer == 5 / 3


def test_the_interval_is_seeded_and_narrows_with_more_clips():
    references, hypotheses = ["a dog barks"] * 4, ["a dog barks", "a cat barks", "dogs", "a dog"]
    few, many = score_asr(references, hypotheses), score_asr(references * 20, hypotheses * 20)
    assert few == score_asr(references, hypotheses)
    assert few.wer_low <= few.wer <= few.wer_high
    assert many.wer_high - many.wer_low < few.wer_high - few.wer_low


def test_the_summary_is_the_block_of_metrics_json():
    summary = score_asr(["a dog"], ["a cat"]).summary()
    assert summary["wer"] == 0.5 and summary["clips"] == 1
    assert "clip_errors" not in summary and json.dumps(summary)


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [([], [], "no clips"), (["a"], [], "1 references but 0 hypotheses"), (["[x]"], ["a"], "no reference has a word")],
)
def test_what_cannot_be_scored_as_speech(references, hypotheses, message):
    with pytest.raises(InputError, match=message):
        score_asr(references, hypotheses)


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


def test_captions_are_scored_on_ptb_tokens_with_a_chance_level():
    good = score_captions(CAPTIONS, ["a dog barks twice", "Rain falls on a roof!", "birds sing", "bell ringing"])
    assert good.cider_d > 10 * good.shuffled_cider_d
    assert good.cider_d_low <= good.cider_d <= good.cider_d_high
    assert 0 < good.meteor <= 1 and 0 < good.rouge_l <= 1 and 0 < good.bleu_4 <= 1
    assert good.clip_cider_d[0] > 0 and len(good.clip_cider_d) == good.summary()["clips"] == 4


def test_odd_hypotheses_score_zero_and_leave_the_others_in_their_places():
    score = score_captions(CAPTIONS, ["", "...", "birds\n\u2028 ||| sing", "\r"])
    assert [value > 0 for value in score.clip_cider_d] == [False, False, True, False]


def test_a_caption_of_punctuation_alone_is_no_reference():
    with pytest.raises(InputError, match="reference 1 has no words"):
        score_captions([["a dog"], ["..."]], ["a dog", "a cat"])
