"""A byte-level BPE tokenizer in GGUF's terms, for llama.cpp to tokenise and to write text with."""

import json
from dataclasses import dataclass

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from data.errors import InputError

_LLAMA_3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
"""How the pattern begins by which Llama 3 splits words."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF has it: for each row of the embeddings a token and its kind; merges; how words are split."""

    tokens: list[str]
    kinds: list[TokenType]
    merges: list[str]
    pre_tokenizer: str


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Reads it.

    Args:
        tokenizer: A fast one.
        size: Rows of the token embeddings; those that no token has are unused.

    Raises:
        InputError: It is of another kind than llama.cpp could be told of here.
    """
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    model = made["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or made["normalizer"]:
        raise InputError(
            "the tokenizer is no byte-level BPE, the only kind that a device package takes; "
            "give the student an LLM with one (SmolLM, Llama 3)"
        )
    texts = {place: text for text, place in model["vocab"].items()}
    kinds = dict.fromkeys(texts, TokenType.NORMAL)
    for place, token in tokenizer.added_tokens_decoder.items():
        texts[place] = token.content
        kinds[place] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    if texts and max(texts) >= size:
        raise InputError(f"the tokenizer has {max(texts) + 1} tokens, the LLM only {size}; export a whole model folder")
    return Vocabulary(
        tokens=[texts.get(place, f"[UNUSED{place}]") for place in range(size)],
        kinds=[kinds.get(place, TokenType.UNUSED) for place in range(size)],
        merges=[" ".join(of) if isinstance(of, list) else of for of in model["merges"]],
        pre_tokenizer=_pre_tokenizer(made["pre_tokenizer"]),
    )


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Writes it."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    # The prompt's own ids have the beginning that they need.
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _pre_tokenizer(made: dict | None) -> str:
    """What llama.cpp calls the way that words are split before the merges."""
    steps = made["pretokenizers"] if made and made["type"] == "Sequence" else [made or {"type": "none"}]
    kinds = [step["type"] for step in steps]
    splits_words = steps[-1].get("use_regex", True) and not steps[-1].get("add_prefix_space")
    if kinds == ["ByteLevel"] and splits_words:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and splits_words and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex", "").startswith(_LLAMA_3):
        return "llama-bpe"
    raise InputError(f"the tokenizer splits words by {' and '.join(kinds)} in a way that has no name in llama.cpp here")
