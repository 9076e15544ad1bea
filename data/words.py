"""The words of a transcript as the field counts them, and how many of them are wrong."""

import unicodedata
from functools import cache

import jiwer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from whisper_normalizer.english import EnglishTextNormalizer


def asr_words(text: str) -> list[str]:
    """The words that WER counts: Whisper's English normaliser, sacreBLEU 13a, lower-case, no punctuation.

    A token is punctuation when all its characters are in a Unicode category P*.
    """
    tokens = _tokenizer_13a()(_normalizer()(text)).split()
    return [token.lower() for token in tokens if not all(unicodedata.category(sign)[0] == "P" for sign in token)]


def word_error_rate(reference: str | None, hypothesis: str) -> float | None:
    """Word errors of one text over the reference's words; None where the reference has none."""
    words = asr_words(reference or "")
    if not words:
        return None
    return jiwer.wer(" ".join(words), " ".join(asr_words(hypothesis)))


@cache
def _normalizer() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


@cache
def _tokenizer_13a() -> Tokenizer13a:
    return Tokenizer13a()
