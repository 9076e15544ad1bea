"""The language model as a GGUF file, which llama.cpp reads: of Llama's architecture, LoRA folded in.

Letters: H hidden width, K heads of queries or of keys, D width of a head.
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InputError
from data.paths import written_whole
from student.device.quantiser import quantise
from student.device.vocabulary import add_vocabulary, vocabulary_of

logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells of each file under its temporary name

FILE = "llm.gguf"
LLMFormat = Literal["q8_0", "q4_0", "q4_k_m", "f16"]
_TYPES = {name: GGMLQuantizationType[name.upper()] for name in ("q8_0", "q4_0", "f16", "f32")}
_FILE_TYPES = {
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "f16": LlamaFileType.MOSTLY_F16,
}
_MORE_BITS = ("token_embd.weight", "output.weight")
"""In a file of 4 bits these have 8, as in llama.cpp's own: what a token is and which comes next is lost first."""


def require_exportable(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: LLMFormat) -> None:
    """Refuses an LLM of which the weights would be read as those of another.

    Raises:
        InputError: It is no plain Llama, llama.cpp has no name for its tokenizer, or llama-cpp-python is missing, which
            q4_k_m needs.
    """
    config = llm.config
    odd = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if config.model_type != "llama" or odd:
        what = f"with {' and '.join(odd)}" if odd else f"of the kind '{config.model_type}'"
        raise InputError(f"an LLM {what} cannot be exported; only Llama's kind can (SmolLM2, Llama 3)")
    vocabulary_of(tokenizer, _rows(llm))
    _rope_factors(llm)
    if form == "q4_k_m" and find_spec("llama_cpp") is None:
        raise InputError("--llm q4_k_m: llama.cpp quantises; pip install -r requirements-device.txt, or take q8_0")


def write_llm(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    eos_token_id: int,
    form: LLMFormat,
    folder: Path,
    template: str | None = None,
) -> Path:
    """Writes `llm.gguf`.

    Args:
        llm: Its LoRA folded in.
        tokenizer: Its own.
        eos_token_id: Which closes every text.
        form: How its matrices are stored; what that is not made for (see `stored_as`) stays in 16 bits.
        folder: Where.
        template: How a chat is laid out, in Jinja; None: the file does not say.

    Raises:
        InputError: See `require_exportable`.
    """
    require_exportable(llm, tokenizer, form)
    path = folder / FILE
    with written_whole(path) as temporary:
        if form != "q4_k_m":
            _write(llm, tokenizer, eos_token_id, form, temporary, template)
            return path
        whole = temporary.with_suffix(".f16")
        try:
            _write(llm, tokenizer, eos_token_id, "f16", whole, template)
            quantise(whole, temporary)
        finally:
            whole.unlink(missing_ok=True)
    return path


def stored_as(tensor: np.ndarray, form: str) -> GGMLQuantizationType:
    """The type of a tensor in a file: vectors in 32 bits; matrices whose rows are not whole blocks of 32 in 16."""
    if tensor.ndim < 2:
        return GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[_TYPES[form]]
    return _TYPES[form] if tensor.shape[-1] % block == 0 else GGMLQuantizationType.F16


def _write(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    eos_token_id: int,
    form: str,
    path: Path,
    template: str | None,
) -> None:
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    _add_shape(writer, llm)
    writer.add_file_type(_FILE_TYPES[form])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, vocabulary_of(tokenizer, _rows(llm)))
    writer.add_eos_token_id(eos_token_id)
    if template:
        writer.add_chat_template(template)
    for name, tensor in _tensors(llm):
        kind = stored_as(tensor, "q8_0" if form == "q4_0" and name in _MORE_BITS else form)
        writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: GGUFWriter, llm: PreTrainedModel) -> None:
    config = llm.config
    writer.add_name("salmonn-distill")
    writer.add_vocab_size(_rows(llm))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _rows(llm: PreTrainedModel) -> int:
    return llm.get_input_embeddings().weight.shape[0]


def _tensors(llm: PreTrainedModel):
    """Each tensor under GGUF's name, in fp32; a head that shares the embeddings has none of its own."""
    config = llm.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    if (factors_D := _rope_factors(llm)) is not None:
        yield "rope_freqs.weight", factors_D
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    for name, parameter in llm.named_parameters():  # which names shared weights once
        known = names.get_name(name, try_suffixes=(".weight",))
        if known is None:
            raise InputError(f"{name}: no weight of a Llama; this LLM cannot be exported")
        tensor = parameter.detach().to("cpu", torch.float32)
        count = next((of for end, of in heads.items() if name.endswith(end)), None)
        yield known, (tensor if count is None else _interleaved(tensor, count)).numpy()


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection of queries or keys as llama.cpp turns them: neighbours in pairs, not half a head apart."""
    by_head = weight.unflatten(0, (heads, 2, -1))  # (K, 2, D / 2, H)
    return by_head.transpose(1, 2).reshape(weight.shape).contiguous()


def _rope_factors(llm: PreTrainedModel) -> np.ndarray | None:
    """By what each rotary frequency is divided (Llama 3 stretches the low ones); None where all stay as they are.

    Raises:
        InputError: They are scaled in a way that is not only this.
    """
    rope = llm.config.rope_parameters
    if rope["rope_type"] not in ("default", "llama3"):
        raise InputError(f"rotary positions of the kind '{rope['rope_type']}' cannot be exported")
    if rope["rope_type"] == "default":
        return None
    width = llm.config.head_dim
    plain_D = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return (plain_D / llm.get_decoder().rotary_emb.inv_freq.float().cpu()).numpy()
