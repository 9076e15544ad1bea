"""The words of a transcript as the field counts them, and how many of them are wrong."""

import re
import unicodedata
from functools import cache

import jiwer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from whisper_normalizer.english import EnglishTextNormalizer

from data.errors import InputError

_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]")
_SPACES = re.compile(r"\s+")
_NO_OPENING = str.maketrans("<[(", "***")
"""A bracket that nothing closes is one more symbol to Whisper's normaliser."""


def asr_words(text: str) -> list[str]:
    """The words that WER counts: Whisper's English normaliser, sacreBLEU 13a, lower-case, no punctuation.

    A token is punctuation when all its characters are in a Unicode category P*.

    Raises:
        InputError: Whisper's normaliser cannot take it: a number of thousands of digits.
    """
    try:
        normalised = _normalizer()(unbracketed(text))
    except (AssertionError, ValueError):
        raise InputError(f'"{text[:40]}...": a number too long for Whisper\'s normaliser; mend the text') from None
    tokens = _tokenizer_13a()(normalised).split()
    return [token.lower() for token in tokens if not all(unicodedata.category(sign)[0] == "P" for sign in token)]


def word_error_rate(reference: str | None, hypothesis: str) -> float | None:
    """Word errors of one text over the reference's words; None where the reference has none."""
    words = asr_words(reference or "")
    if not words:
        return None
    return jiwer.wer(" ".join(words), " ".join(asr_words(hypothesis)))


def unbracketed(text: str) -> str:
    """What Whisper's normaliser begins with, in linear time: it takes seconds for a run of opening brackets or spaces.

    What is in brackets goes, and no bracket is left that its own patterns would look for the end of.
    """
    text = _SPACES.sub(" ", text.lower())
    # Beyond the last closing bracket there is nothing to be found.
    end = max(text.rfind(">"), text.rfind("]")) + 1
    text = _BRACKETED.sub("", text[:end]) + text[end:]
    kept, at = [], 0
    while (opening := text.find("(", at)) >= 0:
        closing = text.find(")", opening + 1)
        if closing < 0:
            break
        kept.append(text[at:opening])
        if closing == opening + 1:  # what is empty stays
            kept.append("*")
            at = closing
        else:
            at = closing + 1
    return "".join([*kept, text[at:]]).translate(_NO_OPENING)


@cache
def _normalizer() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


@cache
def _tokenizer_13a() -> Tokenizer13a:
    return Tokenizer13a()
