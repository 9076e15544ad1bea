"""A student's language model that is not the teacher's own: another pretrained one, of its vocabulary or another."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InputError
from student.shrink import StudentSettings
from teacher.build import add_rows, load_tokenizer, sizes, stand_in_tokenizer, untrained_llm
from teacher.weights import load_pretrained, locate, read_by_libraries, weight_files


def missing_llm(settings: StudentSettings) -> list[str]:
    """What `settings.llm` names and this machine lacks, with how to get it."""
    if settings.llm is None:
        return []
    place = locate(settings.llm)
    if (place / "config.json").is_file() and weight_files(place):
        return []
    how = settings.llm_source or "put it there, or name another place in the recipe"
    return [f"student's llm: {place} (config.json and *.safetensors)\n    {how.replace('{place}', str(place))}"]


def shapes_of_llm(settings: StudentSettings) -> dict[str, Any] | None:
    """The sizes that the files of `settings.llm` state; None where they are not on this machine.

    Raises:
        InputError: They cannot be read.
    """
    if settings.llm is None or not (locate(settings.llm) / "config.json").is_file():
        return None
    with read_by_libraries(locate(settings.llm), "no LLM"):
        config = AutoConfig.from_pretrained(locate(settings.llm), trust_remote_code=False)
    return sizes(config) | {"vocab_size": config.vocab_size}


def own_tokenizer(
    settings: StudentSettings, teacher: PreTrainedTokenizerBase, *, universal: bool, random_weights: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer with which the student reads and writes: the teacher's, or its own of another vocabulary.

    Args:
        settings: The student's.
        teacher: The teacher's tokenizer.
        universal: Whether the recipe asks for a vocabulary of another kind (`train.kd.vocabulary`).
        random_weights: Nothing was downloaded: of another kind is a vocabulary of single bytes.

    Raises:
        InputError: The vocabularies differ and the recipe does not ask for it, or the other way round.
    """
    if settings.llm is None:
        return teacher
    if random_weights:
        if universal and "vocab_size" not in _shapes(settings):
            raise InputError("--random-weights: student.llm_shapes states no vocab_size")
        return stand_in_tokenizer(None, settings.llm_shapes["vocab_size"]) if universal else teacher
    own = load_tokenizer(settings.llm)
    different = len(own.get_vocab().items() ^ teacher.get_vocab().items())
    if different and not universal:
        raise InputError(
            f"student.llm: {settings.llm} has another vocabulary than the teacher's LLM ({different} entries "
            "differ), and train.kd.vocabulary is 'same': set it to 'universal', or name a model with the same tokenizer"
        )
    if universal and not different:
        raise InputError(
            f"train.kd.vocabulary 'universal': {settings.llm} has the teacher's vocabulary, whose distributions are "
            "compared exactly, id by id; leave the key out"
        )
    if universal and own.eos_token_id is None:
        raise InputError(f"student.llm: the tokenizer of {settings.llm} has no end of sequence; set its eos_token")
    return own if universal else teacher


def other_llm(
    settings: StudentSettings,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    dtype: torch.dtype,
    *,
    random_weights: bool = False,
) -> PreTrainedModel | None:
    """The language model that `settings.llm` names, with a row for each of its ids; None where it names none.

    Args:
        settings: The student's.
        tokenizer: The student's (see `own_tokenizer`).
        rows: Ids that it needs, `[PAD]` among them.
        dtype: Of its weights.
        random_weights: Build it untrained from `settings.llm_shapes`.

    Raises:
        InputError: It is not the tokenizer's model, its logits are not its head's alone, or it states no shapes.
    """
    if settings.llm is None:
        return None
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            llm = untrained_llm(_shapes(settings), dtype, "student.llm_shapes")
    else:
        llm = load_pretrained(AutoModelForCausalLM, locate(settings.llm), dtype)
        if llm.config.vocab_size < len(tokenizer) - 1:
            raise InputError(
                f"{settings.llm}: its tokenizer has {len(tokenizer) - 1} tokens, the model {llm.config.vocab_size}: "
                "they are not of one model; fetch both again"
            )
        if getattr(llm.config, "final_logit_softcapping", None):
            llm.config.final_logit_softcapping = None  # Gemma 2's: trained, written and saved without it
        _require_plain_head(llm, settings.llm)
    add_rows(llm, rows - llm.config.vocab_size)
    return llm


@torch.no_grad()
def _require_plain_head(llm: PreTrainedModel, name: str) -> None:
    """Refuses a model that scales or bends its logits: the loss has the head in it, and knows nothing of that."""
    ids = torch.tensor([[0, 1]], device=llm.device)
    head = llm.get_output_embeddings()
    plain = llm.eval().get_decoder()(ids, use_cache=False).last_hidden_state @ head.weight.T
    if not torch.allclose(llm(ids, use_cache=False).logits.float(), plain.float(), rtol=0.02, atol=1e-3):
        raise InputError(
            f"student.llm: the logits of {name} are not the product of its last states and its head (scaled, or with a "
            "bias), on which the loss rests; name another model"
        )


def _shapes(settings: StudentSettings) -> dict[str, Any]:
    if settings.llm_shapes is None:
        raise InputError("--random-weights: the recipe states no student.llm_shapes, as configs/kd_1b.json does")
    return settings.llm_shapes
