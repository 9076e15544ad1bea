"""Weights in foreign formats, rewritten once as Hugging Face folders (config.json + safetensors)."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, WhisperConfig

from data.errors import InputError
from data.paths import written_whole
from teacher.weights import share_weights

_CT2_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(blob: bytes) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 `model.bin` (binary version 6, little-endian), aliases resolved.

    Raises:
        InputError: The bytes end early or are of another version.
    """
    offset = 0

    def take(pattern: str) -> tuple:
        nonlocal offset
        values = struct.unpack_from(f"<{pattern}", blob, offset)
        offset += struct.calcsize(f"<{pattern}")
        return values

    def name() -> str:
        (length,) = take("H")
        return take(f"{length}s")[0].rstrip(b"\0").decode()

    try:
        (version,) = take("I")
        if version != 6:
            raise InputError(f"CTranslate2 model.bin: version {version} is not supported, only 6 is")
        name()
        _revision, count = take("II")
        variables: dict[str, np.ndarray] = {}
        for _ in range(count):
            key = name()
            shape = take(f"{take('B')[0]}I")
            dtype = _CT2_DTYPES[take("B")[0]]
            (size,) = take("I")
            variables[key] = np.frombuffer(take(f"{size}s")[0], dtype).reshape(shape)
        for _ in range(take("I")[0]):
            alias, target = name(), name()
            variables[alias] = variables[target]
    except (struct.error, KeyError, ValueError) as error:
        raise InputError(f"CTranslate2 model.bin: broken at byte {offset} ({error}); fetch the file again") from error
    return variables


def _encoder_tensors(variables: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """CTranslate2's Whisper encoder variables under transformers' names."""
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            yield f"encoder.{conv}.{kind}", variables[f"encoder/{conv}/{kind}"]
    yield "encoder.embed_positions.weight", variables["encoder/position_encodings/encodings"]
    norms = {"encoder.layer_norm": "encoder/layer_norm"}
    layers = len({key.split("/")[1] for key in variables if key.startswith("encoder/layer_") and "/ffn/" in key})
    for index in range(layers):
        module, layer = f"encoder.layers.{index}", f"encoder/layer_{index}"
        norms[f"{module}.self_attn_layer_norm"] = f"{layer}/self_attention/layer_norm"
        norms[f"{module}.final_layer_norm"] = f"{layer}/ffn/layer_norm"
        for kind in ("weight", "bias"):
            # q, k and v are stacked; Whisper's k has no bias, which CTranslate2 stores as zeros.
            stacked = variables[f"{layer}/self_attention/linear_0/{kind}"]
            for projection, part in zip("qkv", np.split(stacked, 3), strict=True):
                if (projection, kind) != ("k", "bias"):
                    yield f"{module}.self_attn.{projection}_proj.{kind}", part
            yield f"{module}.self_attn.out_proj.{kind}", variables[f"{layer}/self_attention/linear_1/{kind}"]
            yield f"{module}.fc1.{kind}", variables[f"{layer}/ffn/linear_0/{kind}"]
            yield f"{module}.fc2.{kind}", variables[f"{layer}/ffn/linear_1/{kind}"]
    for module, layer in norms.items():
        yield f"{module}.weight", variables[f"{layer}/gamma"]
        yield f"{module}.bias", variables[f"{layer}/beta"]


def convert_whisper_encoder(blob: bytes, folder: Path) -> None:
    """Writes the encoder of a CTranslate2 Whisper as `folder/{config.json,model.safetensors}`.

    The decoder is left out: a SALMONN hears through the encoder and writes through its LLM.
    """
    variables = read_ctranslate2(blob)
    tensors = {key: torch.from_numpy(value.copy()) for key, value in _encoder_tensors(variables)}
    width, mels, _ = tensors["encoder.conv1.weight"].shape
    layers = sum(key.endswith("fc1.weight") for key in tensors)
    config = WhisperConfig(
        d_model=width,
        num_mel_bins=mels,
        encoder_layers=layers,
        # Every released Whisper has heads of 64 channels.
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=tensors["encoder.layers.0.fc1.weight"].shape[0],
    )
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "config.json") as path:
        path.write_text(json.dumps(config.to_dict(), indent=2))
    with written_whole(folder / "model.safetensors") as path:
        save_file(tensors, path)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes a GGUF language model and its tokenizer as a Hugging Face folder in bf16."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, trust_remote_code=False
    )
    # 4-bit weights times a 16-bit scale: bf16 keeps all that the file knew to within its own step.
    model = model.to(torch.bfloat16)
    # The dequantised model is an ordinary one; saved as such, it loads without the gguf package.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    share_weights(folder)
    AutoTokenizer.from_pretrained(**source, trust_remote_code=False).save_pretrained(folder)
