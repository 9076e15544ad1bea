"""Encoder and a `StackConnector` as the `mmproj` file beside an LLM's, which llama.cpp reads: the projector `ultravox`.

llama.cpp hears sounds in pieces of 30 s, the last one filled up with silence, and makes audio tokens of all of it
(tools/mtmd: `mtmd_audio_preprocessor_whisper`, `clip_graph_whisper_enc`).

Letters: D encoder width, H LLM width, L mel frames.
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import torch
from gguf import MODEL_TENSOR, GGMLQuantizationType, GGUFWriter, LlamaFileType, VisionProjectorType
from torch import Tensor

from data.errors import InputError
from data.paths import written_whole
from student.device.audio_onnx import AudioFormat
from student.device.llm_gguf import stored_as
from teacher.model import SalmonnForConditionalGeneration
from teacher.stack import StackConnector

FILE = "mmproj.gguf"
POSITIONS = 1_500
"""Encoder frames of 30 s."""
_FORMS = {"q8": ("q8_0", LlamaFileType.MOSTLY_Q8_0), "f32": ("f32", LlamaFileType.ALL_F32)}
_LAYER = {
    "self_attn_layer_norm": MODEL_TENSOR.A_ENC_INPUT_NORM,
    "self_attn.q_proj": MODEL_TENSOR.A_ENC_ATTN_Q,
    "self_attn.k_proj": MODEL_TENSOR.A_ENC_ATTN_K,
    "self_attn.v_proj": MODEL_TENSOR.A_ENC_ATTN_V,
    "self_attn.out_proj": MODEL_TENSOR.A_ENC_OUTPUT,
    "final_layer_norm": MODEL_TENSOR.A_ENC_OUTPUT_NORM,
    "fc1": MODEL_TENSOR.A_ENC_FFN_UP,
    "fc2": MODEL_TENSOR.A_ENC_FFN_DOWN,
}
_OTHERS = {
    "encoder.embed_positions": (MODEL_TENSOR.A_ENC_EMBD_POS, None),
    "encoder.conv1": (MODEL_TENSOR.A_ENC_CONV1D, 1),
    "encoder.conv2": (MODEL_TENSOR.A_ENC_CONV1D, 2),
    "encoder.layer_norm": (MODEL_TENSOR.A_POST_NORM, None),
    "connector.norm_pre": (MODEL_TENSOR.A_MM_NORM_PRE, None),
    "connector.linear_1": (MODEL_TENSOR.A_MMPROJ, 1),
    "connector.norm_mid": (MODEL_TENSOR.A_MM_NORM_MID, None),
    "connector.linear_2": (MODEL_TENSOR.A_MMPROJ, 2),
}


def require_exportable(model: SalmonnForConditionalGeneration) -> None:
    """Refuses a model that llama.cpp could not hear with, or would hear otherwise than it was trained.

    Raises:
        InputError: It is such a one.
    """
    config = model.config
    if not isinstance(model.connector, StackConnector):
        raise InputError("llama.cpp has no Q-Former; export a student with connector 'stack', as kd_mini_stack_30s has")
    if config.margin_s is not None or not config.reference_padding:
        raise InputError(
            "llama.cpp hears 30 s of every sound, with the silence after it, and this model the sound alone; train it "
            "on with student.margin_s null and student.reference_padding true, as kd_mini_stack_30s does"
        )
    if config.encoder_ranks:
        raise InputError("llama.cpp has no encoder layers of low rank; leave student.encoder_rank out")
    if POSITIONS % model.connector.window_frames:
        raise InputError(
            f"student.stack.frames {model.connector.window_frames}: 30 s, {POSITIONS} frames, are no whole number of "
            "tokens, and llama.cpp ends where it makes another token than it counts; take 5, 6, 10 or 12"
        )


def write_mmproj(model: SalmonnForConditionalGeneration, form: AudioFormat, folder: Path) -> Path:
    """Writes `mmproj.gguf`.

    Args:
        model: Its LoRA folded in.
        form: Its matrices in 32 bits, or in 8 with a scale for each 32 weights; convolutions are in 16, in which
            llama.cpp computes them, and positions in 32.
        folder: Where.

    Raises:
        InputError: See `require_exportable`.
    """
    require_exportable(model)
    kind, file_type = _FORMS[form]
    with written_whole(path := folder / FILE) as temporary:
        writer = GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
        _add_shape(writer, model)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, tensor in _tensors(model):
            stored = stored_as(tensor.numpy(), kind)
            if ".conv1d." in name and name.endswith(".weight"):
                stored = GGMLQuantizationType.F16
            elif "position_embd" in name or tensor.shape[-1] == 1:
                stored = GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(tensor.numpy(), stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _add_shape(writer: GGUFWriter, model: SalmonnForConditionalGeneration) -> None:
    config = model.config.encoder_config
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name("salmonn-distill")
    writer.add_clip_has_audio_encoder(True)
    writer.add_clip_projector_type(VisionProjectorType.ULTRAVOX)
    writer.add_audio_projection_dim(model.config.llm_config.hidden_size)
    writer.add_audio_embedding_length(config.d_model)
    writer.add_audio_feed_forward_length(config.encoder_ffn_dim)
    writer.add_audio_block_count(len(model.encoder.layers))
    writer.add_audio_head_count(config.encoder_attention_heads)
    writer.add_audio_num_mel_bins(config.num_mel_bins)
    writer.add_audio_attention_layernorm_eps(model.encoder.layer_norm.eps)
    writer.add_audio_stack_factor(model.connector.window_frames)


def _tensors(model: SalmonnForConditionalGeneration) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of encoder and connector under GGUF's name, in fp32."""
    for name, parameter in model.named_parameters():
        if name.startswith("llm."):
            continue
        of, _, suffix = name.rpartition(".")
        if of in _OTHERS:
            known, number = _OTHERS[of]
        else:
            number, _, inner = of.removeprefix("encoder.layers.").partition(".")
            known = _LAYER[inner]
        tensor = parameter.detach().to("cpu", torch.float32)
        if known is MODEL_TENSOR.A_ENC_CONV1D and suffix == "bias":
            tensor = tensor[:, None]  # llama.cpp adds it to (D, L)
        yield f"{gguf.TENSOR_NAMES[known].format(bid=number)}.{suffix}", tensor
