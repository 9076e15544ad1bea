import pytest

from data.cache.row import CachedRow
from distill.recipe.recipe import HypothesisSettings
from distill.training.texts import compression, fault_of_hypothesis

GOOD = {"hypothesis": "your call is important to us", "hypothesis_logp": -0.1, "hypothesis_ended": True}
LOOP = "please hold the line " * 9


@pytest.mark.parametrize(
    ("changes", "seconds", "fault"),
    [
        ({}, 2.0, ""),
        ({"hypothesis": ""}, 2.0, "empty"),
        ({"hypothesis": None}, 2.0, "empty"),
        ({"hypothesis_ended": False}, 2.0, "cut at the cap"),
        ({"hypothesis_logp": -0.5}, 2.0, ""),
        ({"hypothesis_logp": -0.51}, 2.0, "min_logp"),
        ({"hypothesis_logp": float("nan")}, 2.0, "min_logp"),
        ({}, 0.9, "characters_per_second"),
        ({"hypothesis": "yes"}, 7.0, "characters_per_second"),
        ({"hypothesis": "yes"}, 6.0, ""),
        ({"hypothesis": "yes", "task": "audiocaption"}, 30.0, ""),
        ({"hypothesis": LOOP}, 12.0, "max_compression"),
        ({"hypothesis": LOOP, "task": "audiocaption"}, 1.0, "max_compression"),
        # There is no reference that this could be of: a row whose text was taken out after it was cached.
        ({"hypothesis_wer": 1.0}, 2.0, ""),
    ],
)
def test_without_a_reference_a_text_is_judged_by_itself(changes, seconds, fault):
    row = CachedRow(**{"id": "a", "task": "asr", "prompt": "write"} | GOOD | changes)
    assert fault_of_hypothesis(row, seconds, False, HypothesisSettings()) == fault


@pytest.mark.parametrize(("wer", "fault"), [(0.1, ""), (0.11, "max_wer")])
def test_where_there_is_a_reference_its_errors_alone_count(wer, fault):
    unsure = GOOD | {"hypothesis": LOOP, "hypothesis_logp": -9.0}
    row = CachedRow(id="a", task="asr", prompt="write", hypothesis_wer=wer, **unsure)
    assert fault_of_hypothesis(row, 1.0, True, HypothesisSettings()) == fault


def test_a_text_in_circles_is_compressed_more_than_whisper_allows():
    assert compression(LOOP) > 2.4 > compression("press one to leave a message, or hold the line")
