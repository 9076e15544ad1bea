import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_normalizer.english import EnglishTextNormalizer

from data.errors import InputError
from data.words import asr_words, unbracketed, word_error_rate

WHISPERS = EnglishTextNormalizer()
SIGNS = st.text(alphabet="ab 1.,'$%<>[]()\n\u00a0\u0338İΣ", max_size=40)


def test_words_are_counted_after_normalisation():
    assert asr_words("Mr. Neill has 2 dogs!") == ["mister", "neill", "has", "2", "dogs"]
    assert word_error_rate("The colour.", "the color") == 0
    assert word_error_rate("press one now", "press two") == pytest.approx(2 / 3)
    assert word_error_rate("press one", "") == 1


def test_without_reference_words_there_is_no_rate():
    assert word_error_rate(None, "words") is None
    assert word_error_rate("[noise]", "words") is None


@settings(max_examples=1000)
@given(
    SIGNS | st.text() | st.lists(st.sampled_from(["(", ")", "()", "<", "]", "uh", " '", "one", "2", "\t"])).map("".join)
)
def test_brackets_and_spaces_taken_out_in_linear_time_change_nothing(text):
    assert WHISPERS(unbracketed(text)).split() == WHISPERS(text).split()


@pytest.mark.parametrize("sign", ["<", "[", "(", "(a", "<(", " ", " '", "()", ")", "a "])
def test_long_runs_take_no_time(sign):
    text = (sign * 20_000)[:20_000]
    start = time.process_time()  # a busy machine is no failure
    asr_words(f"yes {text} no")
    assert time.process_time() - start < 1.0  # Whisper's own patterns take some seconds for brackets


@pytest.mark.parametrize("text", ["9" * 5000, "one " * 4290 + "decillion"])
def test_numbers_beyond_pythons_own_limit(text):
    with pytest.raises(InputError, match="a number too long for Whisper's normaliser"):
        asr_words(text)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$5.20", "five dollars and twenty cents"),
        ("$0.50", "fifty cents"),
        ("$20 million", "twenty million dollars"),
        ("€5", "five euros"),
        ("50%", "fifty percent"),
        ("<COMMA> hello", "hello [UNK] (noise)"),
    ],
)
def test_what_is_written_counts_as_what_is_said(written, said):
    assert word_error_rate(written, said) == 0
