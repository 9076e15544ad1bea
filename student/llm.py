"""A student's language model that is not the teacher's own: another pretrained one of the same vocabulary."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InputError
from student.shrink import StudentSettings
from teacher.build import add_rows, load_tokenizer, untrained_llm
from teacher.weights import load_pretrained, locate, weight_files


def missing_llm(settings: StudentSettings) -> list[str]:
    """What `settings.llm` names and this machine lacks, with how to get it."""
    if settings.llm is None:
        return []
    place = locate(settings.llm)
    if (place / "config.json").is_file() and weight_files(place):
        return []
    how = settings.llm_source or "put it there, or name another place in the recipe"
    return [f"student's llm: {place} (config.json and *.safetensors)\n    {how.replace('{place}', str(place))}"]


def other_llm(
    settings: StudentSettings,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    dtype: torch.dtype,
    *,
    random_weights: bool = False,
) -> PreTrainedModel | None:
    """The language model that `settings.llm` names, with a row for each of the teacher's ids; None where it names none.

    Args:
        settings: The student's.
        tokenizer: The teacher's, with which the student reads and writes.
        rows: Ids of the teacher's vocabulary, `[PAD]` among them.
        dtype: Of its weights.
        random_weights: Build it untrained from `settings.llm_shapes`.

    Raises:
        InputError: Its vocabulary is another one, or it states no shapes.
    """
    if settings.llm is None:
        return None
    if random_weights:
        if settings.llm_shapes is None:
            raise InputError("--random-weights: the recipe states no student.llm_shapes, as configs/kd_1b.json does")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            llm = untrained_llm(settings.llm_shapes, dtype, "student.llm_shapes")
    else:
        theirs, own = load_tokenizer(settings.llm).get_vocab(), tokenizer.get_vocab()
        if theirs != own:
            different = len(theirs.items() ^ own.items())
            raise InputError(
                f"student.llm: {settings.llm} has another vocabulary than the teacher's LLM ({different} entries "
                "differ); distributions are matched by id: name a model with the same tokenizer"
            )
        llm = load_pretrained(AutoModelForCausalLM, locate(settings.llm), dtype)
    add_rows(llm, rows - llm.config.vocab_size)
    return llm
