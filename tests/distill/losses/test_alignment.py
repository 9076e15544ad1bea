"""Spans of two tokenisations, over tokenizers of every common make and any text."""

import re
import string
from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data.errors import InputError
from data.paths import resolve
from distill.losses.alignment import Alignment, Span, spans
from teacher.build import load_tokenizer
from teacher.config import SalmonnConfig
from teacher.processor import MAX_TEXT_TOKENS, SalmonnProcessor
from tests.conftest import SENTENCES

SMOLLM2 = resolve("{cache}/weights/smollm2-135m-instruct")
HARD = [
    "naïve 😀",
    "a  b \n\n c ",
    "日本語 text",
    "e\u0301\u0301",
    "👩‍👩‍👧 family",
    " ",
    "ﬁ ½",
    "\u200b",
    "",
    "x\u2028y",
]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def byte_level(size, *, trims=False, regex=True):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES + HARD, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    if trims:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def sentencepiece():
    """As Llama 2's and Gemma's: "▁" for a space and before the text, byte fallback."""
    pieces = ["the", "▁the", "▁a", "▁is", "ing", "▁pass", "word", "▁call", "▁", "ou", "▁t", "▁y"]
    letters = [(chr(i), -6.0) for i in range(97, 123)]
    scores = [("<unk>", 0.0), *((piece, -3.0) for piece in pieces), *letters, *((byte, -12.0) for byte in BYTES)]
    tokenizer = Tokenizer(models.Unigram(scores, 0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def lossy():
    """As T5's: compatibility characters are replaced, white space is one, unknown characters are lost."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -3.0), *((chr(i), -5.0) for i in range(97, 123))], 0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def words():
    """As BERT's: white space belongs to no token."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, **{chr(i): i for i in range(97, 123)}, "the": 200}))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def letters():
    """A token for each."""
    tokenizer = Tokenizer(models.BPE({chr(i): i for i in range(97, 123)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


MAKES = {
    "bytes": lambda: byte_level(300),
    "trimmed": lambda: byte_level(360, trims=True, regex=False),
    "crossing": lambda: byte_level(400, regex=False),
    "sentencepiece": sentencepiece,
    "lossy": lossy,
    "words": words,
    "letters": letters,
    "SmolLM2": lambda: load_tokenizer(str(SMOLLM2)).backend_tokenizer,
}
WHOLE = [name for name in MAKES if name not in ("lossy", "words", "letters")]


@cache
def processor(name):
    if name == "SmolLM2" and not SMOLLM2.is_dir():
        pytest.skip("the mini weights are not on this machine")
    return SalmonnProcessor(PreTrainedTokenizerFast(tokenizer_object=MAKES[name]()), SalmonnConfig(eos_token_id=0))


@cache
def aligned(student, teacher):
    return Alignment(processor(student), processor(teacher))


def written(name, text):
    """The bytes that each token of a text writes, from the tokens' own spelling."""
    tokenizer = processor(name).tokenizer
    tokens = tokenizer.convert_ids_to_tokens(processor(name).text_ids(text)[:-1])
    if name != "sentencepiece":
        byte_of = {token: byte for byte, token in _byte_tokens().items()}
        return [bytes(byte_of[c] for c in token) for token in tokens]
    found = [
        bytes([int(token[1:-1], 16)]) if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else token.replace("▁", " ").encode()
        for token in tokens
    ]
    return [found[0].removeprefix(b" "), *found[1:]] if found else []


@cache
def _byte_tokens():
    """How byte-level tokenizers spell a byte: those that are printable as themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from([*SENTENCES, *HARD]), max_size=4).map(" ".join))
PAIRS = [("bytes", "trimmed"), ("crossing", "bytes"), ("sentencepiece", "trimmed"), ("crossing", "sentencepiece")]
PAIRS += [("SmolLM2", "bytes"), ("sentencepiece", "SmolLM2")]


@pytest.mark.parametrize(("student", "teacher"), [*PAIRS, ("lossy", "bytes"), ("words", "trimmed"), ("lossy", "words")])
@settings(max_examples=25)
@given(text=TEXTS)
@example(text=" ".join(HARD))
def test_spans_follow_on_each_other_and_end_in_the_end_symbols(student, teacher, text):
    found = aligned(student, teacher)(text)
    own, theirs = (len(processor(name).text_ids(text)) for name in (student, teacher))
    assert found[-1] == (own - 1, own, theirs - 1, theirs)
    assert all(a < b and c < d for a, b, c, d in found)
    assert [of[1::2] for of in found[:-1]] == [of[::2] for of in found[1:]]
    # A tokenizer that drops every character of a text leaves nothing to compare it with, but its end.
    assert len(found) == 1 if 1 in (own, theirs) else found[0][::2] == (0, 0)


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
@settings(max_examples=25)
@given(text=TEXTS.filter(lambda text: "▁" not in text))
@example(text=" ".join(HARD))
@example(text="😀" * 3)
def test_a_span_is_the_same_text_and_holds_no_common_boundary(student, teacher, text):
    own, theirs = written(student, text), written(teacher, text)
    # SmolLM2 has no token for some bytes.
    assume("SmolLM2" not in (student, teacher) or b"".join(own) == b"".join(theirs))
    assert b"".join(own) == b"".join(theirs) == text.encode()
    unknown = "sentencepiece" in (student, teacher) and not set(text) <= set(string.ascii_lowercase + " ")
    ends = {len(text[:at].encode()) for at in range(len(text) + 1)}
    start = 0
    for a, b, c, d in aligned(student, teacher)(text)[:-1]:
        assert b"".join(own[a:b]) == b"".join(theirs[c:d])
        inside = [{start + sum(map(len, of[:n])) for n in range(1, len(of))} for of in (own[a:b], theirs[c:d])]
        start += sum(map(len, own[a:b]))
        # A token that writes nothing, a lone "▁" before the text, ends where it begins; and characters that are
        # unknown to a Unigram model, one after the other, all have the place of the whole run.
        assert unknown or not (inside[0] & inside[1] & ends) - {0, start}


def test_the_same_tokenizer_gives_a_span_for_each_token():
    for name in WHOLE[:-1]:
        text = " ".join(SENTENCES)
        tokens = len(processor(name).text_ids(text))
        assert aligned(name, name)(text) == [Span(i, i + 1, i, i + 1) for i in range(tokens)]


def test_a_text_that_one_of_them_cuts_off_is_compared_up_to_there():
    text = "q" * (MAX_TEXT_TOKENS - 2) + " the password and more"
    long, short = processor("words"), processor("crossing")
    assert len(long.text_ids(text)) < MAX_TEXT_TOKENS == len(short.text_ids(text))
    found = aligned("words", "crossing")(text)
    assert found[-1].teacher_end <= MAX_TEXT_TOKENS
    assert (found[-1].student_end, found[-1].teacher_end) != tuple(len(of.text_ids(text)) for of in (long, short))


@pytest.mark.parametrize(("letters", "positions"), [(MAX_TEXT_TOKENS, MAX_TEXT_TOKENS + 1), (MAX_TEXT_TOKENS + 1, 0)])
def test_a_text_that_both_cut_off_has_no_end_symbols_to_compare(letters, positions):
    text = "q" * letters
    found = aligned("letters", "letters")(text)
    assert len(processor("letters").text_ids(text)) == (positions or MAX_TEXT_TOKENS)
    assert found == [Span(i, i + 1, i, i + 1) for i in range(positions or MAX_TEXT_TOKENS)]


def test_a_special_tokens_name_within_a_text_is_aligned_as_text(tiny_teacher):
    own = tiny_teacher[1]
    text = "press [PAD] one </s> then <s> two"
    found = Alignment(own, own)(text)
    assert found == [Span(i, i + 1, i, i + 1) for i in range(len(own.text_ids(text)))]
    assert Alignment(own, processor("bytes"))(text)[-1].student_end == len(own.text_ids(text))


def test_spans_of_offsets():
    # "hello you": a gap that one gives to no token; a character split over two tokens; white space at the end dropped.
    assert spans([(0, 5), (6, 9)], 2, [(0, 5), (5, 9)], 2) == [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]
    assert spans([(0, 5), (5, 6), (6, 9)], 3, [(0, 5), (6, 9)], 2)[:2] == [(0, 1, 0, 1), (1, 3, 1, 2)]
    assert spans([(0, 1), (0, 1), (1, 2)], 3, [(0, 1), (1, 2)], 2) == [(0, 2, 0, 1), (2, 3, 1, 2), (3, 4, 2, 3)]
    assert spans([(0, 2), (2, 3)], 2, [(0, 2)], 1) == [(0, 2, 0, 1), (2, 3, 1, 2)]
    assert spans([(0, 2), (1, 3)], 2, [(0, 1), (2, 3)], 2) == [(0, 2, 0, 2), (2, 3, 2, 3)]
    # Characters that a normalisation put into another order.
    plain = [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert spans([(0, 1), (2, 3), (1, 2), (3, 4)], 4, plain, 4)[:3] == [(0, 1, 0, 1), (1, 3, 1, 3), (3, 4, 3, 4)]
    assert spans([(0, 1), (1, 2), (3, 4), (2, 3)], 4, [(0, 1), (1, 3), (3, 4)], 3)[:2] == [(0, 1, 0, 1), (1, 4, 1, 3)]
    assert spans([(0, 1), (1, 4)], 2, [(0, 3), (3, 4)], 2) == [(0, 2, 0, 2), (2, 3, 2, 3)]
    # Cut off after the first token, and within a character.
    assert spans([(0, 1), (1, 2)], 1, [(0, 1), (1, 2)], 2) == [(0, 1, 0, 1)]
    assert spans([(0, 1), (0, 1)], 1, [(0, 1)], 1) == []
    assert spans([], 0, [], 0) == [(0, 1, 0, 1)]


def test_a_tokenizer_without_offsets_is_refused(monkeypatch):
    slow = SalmonnProcessor(PreTrainedTokenizerFast(tokenizer_object=words()), SalmonnConfig(eos_token_id=0))
    monkeypatch.setattr(type(slow.tokenizer), "is_fast", False)
    with pytest.raises(InputError, match=r"train\.kd\.vocabulary 'universal': the tokenizer .* tokenizer\.json"):
        Alignment(slow, slow)
