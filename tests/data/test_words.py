import pytest

from data.words import asr_words, word_error_rate


def test_words_are_counted_after_normalisation():
    assert asr_words("Mr. Neill has 2 dogs!") == ["mister", "neill", "has", "2", "dogs"]
    assert word_error_rate("The colour.", "the color") == 0
    assert word_error_rate("press one now", "press two") == pytest.approx(2 / 3)
    assert word_error_rate("press one", "") == 1


def test_without_reference_words_there_is_no_rate():
    assert word_error_rate(None, "words") is None
    assert word_error_rate("[noise]", "words") is None
