"""Checkpoints as others released them: SALMONN's `.pth` and BEATs' `.pt`, with their keys turned into ours."""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from data.errors import InputError
from teacher.beats import BeatsSettings

# Of a SALMONN checkpoint: what a key begins with there, and here.
_PREFIXES = (
    ("speech_query_tokens", "connector.query"),
    ("ln_speech.", "connector.ln_speech."),
    ("ln_audio.", "connector.ln_audio."),
    ("speech_Qformer.bert.embeddings.LayerNorm.", "connector.qformer.layernorm."),
    ("speech_Qformer.bert.encoder.", "connector.qformer.encoder."),
    ("speech_llama_proj.", "connector.proj."),
    ("llama_model.base_model.model.", "llm."),
)
# Buffers: positions of BERT's text input, which a Q-Former has not; rotary frequencies, which follow from the sizes.
_UNUSED = ("speech_Qformer.bert.embeddings.position_ids", ".rotary_emb.inv_freq")
_SHARED_BIAS = re.compile(r"(beats\.)?encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight")
# What a BEATs may be in its published code but never was in a released checkpoint.
_BEATS_FIXED = {
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "activation_fn": "gelu",
}


def read_checkpoint(path: Path) -> dict:
    """Reads a PyTorch file of tensors and plain containers; code in it is never run.

    Raises:
        InputError: The file is missing, broken, or holds anything else.
    """
    try:
        # Files of before 2020 are no zip archives, and cannot be mapped.
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path) and path.read_bytes()[:1] != b"\x80":
            raise InputError(f"{path}: not a PyTorch file at all; fetch it again") from error
        raise InputError(
            f"{path}: refused, because it holds more than tensors and plain containers, which could run code when it "
            "is read; take the file from its publisher, or save its tensors alone"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a readable PyTorch file ({reason}); fetch it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, no dictionary of weights; check what the file is")
    return values


def _model_of(path: Path) -> dict[str, Tensor]:
    tensors = read_checkpoint(path).get("model")
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{path}: holds no weights under 'model', as released checkpoints do; check what the file is")
    return tensors


def salmonn_tensors(path: Path) -> dict[str, Tensor]:
    """The trained part of a released SALMONN (3B, 7B, 13B) under this project's names.

    Beside connector and LoRA there may be second names of shared weights: the LLM's head, and BEATs' position bias.

    Raises:
        InputError: The file cannot be read, or holds a key that no SALMONN has.
    """
    tensors = {}
    for key, tensor in _model_of(path).items():
        if key.endswith(_UNUSED):
            continue
        if key.startswith("beats.") and _SHARED_BIAS.fullmatch(key):
            tensors["beats.relative_bias.weight"] = tensor
            continue
        ours = next((new + key.removeprefix(old) for old, new in _PREFIXES if key.startswith(old)), None)
        if ours is None:
            raise InputError(f"{path}: holds '{key}', which is no part of a SALMONN; check what the file is")
        if ours.startswith("connector.qformer.encoder."):
            ours = ours.replace(".self.", ".attention.")
        tensors[ours] = tensor
    return tensors


def beats_settings(path: Path) -> BeatsSettings:
    """The sizes that a BEATs checkpoint states.

    Raises:
        InputError: The file cannot be read, or is of a kind that was never released.
    """
    stated = read_checkpoint(path).get("cfg")
    if not isinstance(stated, dict):
        raise InputError(f"{path}: states no sizes under 'cfg'; it is no BEATs checkpoint")
    for name, value in _BEATS_FIXED.items():
        if stated.get(name, value) != value:
            raise InputError(f"{path}: a BEATs of {name} {stated[name]}; only {value} is known here")
    try:
        return BeatsSettings(**{name: stated[name] for name in BeatsSettings.model_fields})
    except (KeyError, ValidationError) as error:
        raise InputError(f"{path}: 'cfg' does not state the sizes of a BEATs ({str(error).splitlines()[0]})") from error


def beats_tensors(path: Path) -> dict[str, Tensor]:
    """A BEATs encoder's weights under this project's names; the classifier of a fine-tuned one is left out.

    Raises:
        InputError: The file cannot be read, or its layers do not share one position bias.
    """
    tensors = {}
    for key, tensor in _model_of(path).items():
        if key.startswith("predictor."):
            continue
        if _SHARED_BIAS.fullmatch(key):
            first = tensors.setdefault("relative_bias.weight", tensor)
            if not torch.equal(first, tensor):
                raise InputError(f"{path}: '{key}' is not the position bias that the layers share; fetch it again")
            continue
        ours = key.removeprefix("encoder.")
        if key.startswith("encoder.layer_norm."):
            ours = key.replace("encoder.layer_norm.", "input_norm.")
        tensors[ours.replace("pos_conv.0.", "pos_conv.")] = tensor
    if {"pos_conv.weight_g", "pos_conv.weight_v"} <= tensors.keys():
        # Weight normalisation over the kernel's places (Salimans & Kingma 2016): frozen, it is a plain weight.
        scale, direction = tensors.pop("pos_conv.weight_g"), tensors.pop("pos_conv.weight_v")
        tensors["pos_conv.weight"] = scale * direction / direction.norm(dim=(0, 1), keepdim=True)
    return tensors
