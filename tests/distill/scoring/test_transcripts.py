import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer as TransformersNormalizer
from whisper_normalizer.english import EnglishSpellingNormalizer, EnglishTextNormalizer

from data.errors import InputError
from data.paths import REPOSITORY
from data.words import asr_words
from distill.scoring.transcripts import alignment, score_asr

PAIRS = REPOSITORY.parent / "shared" / "fixtures" / "scoring_pairs.json"

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


def load_metric(name: str, monkeypatch, folder: Path):
    """The project's own module of `evaluate`, which keeps what it makes in the test's folder."""
    import evaluate

    monkeypatch.chdir(REPOSITORY)
    return evaluate.load(f"distill/scoring/metrics/{name}.py", cache_dir=str(folder))


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
    wanted, written = ([" ".join(asr_words(text)) for text in side] for side in (references, hypotheses))
    assert score.char_errors == sum(edit_distance(*pair) for pair in zip(wanted, written, strict=True))
    assert score.cer == score.char_errors / sum(map(len, wanted))
    assert score_asr(references, references, bootstrap=20).wer == 0


@given(pairs)
@settings(deadline=None)
def test_words_beyond_the_reference_are_counted_apart(clips):
    references, hypotheses = zip(*clips, strict=True)
    assume(any(asr_words(text) for text in references))
    score = score_asr(references, hypotheses, bootstrap=20)
    beyond = [max(0, len(asr_words(h)) - len(asr_words(r))) for r, h in clips]
    assert score.overgenerated_clips == sum(map(bool, beyond)) and score.overgenerated_words == sum(beyond)
    assert score.overgeneration_rate == sum(beyond) / score.ref_words
    assert score.overgenerated_words <= score.insertions
    assert score.capped_errors == sum(
        min(edit_distance(asr_words(r), asr_words(h)), len(asr_words(r))) for r, h in clips
    )
    assert score.capped_wer == score.capped_errors / score.ref_words <= min(score.wer, 1)


def test_a_text_that_does_not_end_counts_no_more_than_its_clip_in_the_capped_rate():
    score = score_asr(["a dog barks", "rain falls", "[noise]"], ["a dog barks " * 21, "rain fall", "two cats"])
    assert (score.errors, score.ref_words) == (60 + 1 + 2, 5)
    assert (score.overgenerated_clips, score.overgenerated_words, score.overgeneration_rate) == (2, 62, 62 / 5)
    assert (score.capped_errors, score.capped_wer) == (3 + 1, 4 / 5)


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


def test_errors_by_class_and_by_length_add_up_and_the_worst_comes_first():
    references, hypotheses = ["a dog", "a cat barks", "[noise]", "rain"], ["a dog", "", "wind", "train"]
    score = score_asr(references, hypotheses)
    assert score.by(["x", "y", "x", "y"]) == {
        "x": {"clips": 2, "errors": 1, "ref_words": 2, "wer": 0.5},
        "y": {"clips": 2, "errors": 4, "ref_words": 4, "wer": 1.0},
    }
    lengths = score.by_duration([1.99, 30.0, 2.0, 30.1])
    assert list(lengths) == ["0 to 2 s", "2 to 5 s", "20 to 30 s", "over 30 s"]
    assert lengths["2 to 5 s"]["wer"] is None and lengths["20 to 30 s"]["errors"] == 3
    assert score.worst(2) == [1, 2] and score.worst(9) == [1, 2, 3]


def test_an_alignment_marks_each_wrong_word():
    assert alignment("Press one, now!", "press won").splitlines() == [
        "REF: press one now",
        "HYP: press won ***",
        "             S   D",
    ]
    assert alignment("[noise]", "a dog").endswith("I   I") and alignment("a", "a") == "REF: a\nHYP: a"


@pytest.mark.parametrize("text", ["\ud800 a", "a\u2028b", "\u0130 a", "a\x00b", "\U0001f415 a", "\ufeffa", "e\u0301 a"])
def test_unusual_signs_are_scored_like_any_other(text):
    score = score_asr([text, "a dog"], [text, "a dog"])
    assert score.errors == score.char_errors == 0 and score.ref_words >= 3
    assert score_asr([text], [""]).deletions == len(asr_words(text))


def test_the_metric_module_is_loaded_by_its_path(monkeypatch, tmp_path):
    metric = load_metric("asr", monkeypatch, tmp_path)
    told = metric.compute(predictions=["a cat", ""], references=["a dog", "[noise]"])
    assert told == score_asr(["a dog", "[noise]"], ["a cat", ""]).summary()
