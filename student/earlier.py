"""An earlier run's trained model that a student is cut from (`student.base`) or starts from (`student.weights`)."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from data.errors import InputError
from data.paths import resolve
from teacher.build import load_tokenizer
from teacher.config import SalmonnConfig
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.weights import load_pretrained, read_by_libraries


def model_folder(key: str, name: str) -> Path:
    """The folder that a key of the recipe names.

    Raises:
        InputError: It holds no model.
    """
    folder = resolve(name)
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}: {folder} holds no model; name the model folder of a finished run")
    return folder


def require_vocabulary(key: str, folder: Path, tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
    """Refuses a model of another vocabulary than the tokenizer's, which may be of the same size."""
    if load_tokenizer(str(folder)).get_vocab() != tokenizer.get_vocab():
        raise InputError(f"{key}: {folder} has another vocabulary than {whose}; name a model with the same one")


def base_config(name: str) -> SalmonnConfig:
    """The shape of the model that `student.base` names."""
    folder = model_folder("student.base", name)
    with read_by_libraries(folder, "not a model"):
        return SalmonnConfig.from_pretrained(folder, trust_remote_code=False)


def base_of(
    name: str, teacher: SalmonnForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> SalmonnForConditionalGeneration:
    """The model that `student.base` names, adapters folded in, in the teacher's precision.

    Args:
        name: Its folder.
        teacher: The teacher that is distilled from; on the meta device, the base is of sizes alone.
        tokenizer: The teacher's.

    Raises:
        InputError: There is no such model, or its vocabulary is another than the teacher's.
    """
    config, folder, key = base_config(name), model_folder("student.base", name), "student.base"
    if teacher.device.type == "meta":
        sizes = [of.llm_config.vocab_size for of in (config, teacher.config)]
        if sizes[0] != sizes[1]:
            raise InputError(f"{key}: {folder} has {sizes[0]} ids, the teacher {sizes[1]}; name another model")
        return SalmonnForConditionalGeneration(config)
    require_vocabulary(key, folder, tokenizer, "the teacher's LLM")
    for token in ("pad_token_id", "eos_token_id"):
        if getattr(config, token) != getattr(teacher.config, token):
            raise InputError(f"{key}: {folder} has another {token} than the teacher; name a model distilled from it")
    base = load_pretrained(SalmonnForConditionalGeneration, folder, teacher.dtype)
    merge_lora(base)
    return base
