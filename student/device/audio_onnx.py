"""Encoder and connector as one ONNX file: from the log-mel spectrogram of a clip, as long as it is, to audio tokens.

Letters: M mel bins, T mel frames, S encoder frames, D encoder width, W windows, F frames of a window, Q Q-Former width,
H LLM width.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from data.errors import InputError
from data.paths import written_whole
from teacher.connector import Connector
from teacher.encoder import SpeechEncoder
from teacher.model import SalmonnForConditionalGeneration
from teacher.stack import StackConnector

FILE, WEIGHTS = "audio.onnx", "audio.onnx.data"
AudioFormat = Literal["q8", "f32"]
INPUT, OUTPUT = "mel", "audio_tokens"
_OPSET = 20
_IN_8_BITS = 4
"""What onnxruntime calls it that what is multiplied with 8-bit weights is rounded to 8 bits too."""
_LEAST_FRAMES = 50
"""Encoder frames of the shortest clip that is heard, 1 s."""


def fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Attention without a mask as one operation of onnxruntime's, asked for as transformers asks for it.

    Written out, the scores of 30 s take 72 MB a layer and copy.
    """
    query_BSD, key_BSD, value_BSD = (of.transpose(1, 2).flatten(2) for of in (query, key, value))
    out_BSD = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query_BSD, key_BSD, value_BSD),
        attrs={"num_heads": query.shape[1], "scale": scaling},
        dtype=query.dtype,
        shape=query_BSD.shape,
        version=1,
    )
    return out_BSD, None


AttentionInterface.register("onnxruntime", fused_attention)


class AudioPath(nn.Module):
    """From mel (1, M, T), all of it heard, to audio tokens (W, H).

    What `SpeechEncoder` and `Connector` compute of one clip; there masks depend on the batch, here there is none.
    """

    def __init__(self, model: SalmonnForConditionalGeneration) -> None:
        super().__init__()
        self.encoder, self.connector = model.encoder, model.connector

    def forward(self, mel: Tensor) -> Tensor:
        """Audio tokens of every window that lies in the clip."""
        connector, states_SD = self.connector, _encoded(self.encoder, mel)[0]
        if isinstance(connector, StackConnector):
            return connector.project(_windows(states_SD, connector).flatten(1))
        windows_WFD = _windows(connector.ln_speech(states_SD), connector)
        query_W1Q = connector.query.expand(windows_WFD.shape[0], -1, -1)
        out_W1Q = connector.qformer(query_embeds=query_W1Q, encoder_hidden_states=windows_WFD).last_hidden_state
        return connector.proj(out_W1Q[:, 0])


def _windows(states_SD: Tensor, connector: Connector | StackConnector) -> Tensor:
    """Frames of each window (W, F, D) that lies in the clip."""
    # Not `len`: it makes a constant of a length.
    first_W = torch.arange((states_SD.shape[0] - connector.window_frames) // connector.window_stride + 1)
    return states_SD[first_W[:, None] * connector.window_stride + torch.arange(connector.window_frames)]


def _encoded(encoder: SpeechEncoder, mel: Tensor) -> Tensor:
    hidden_BTD = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(mel)))).transpose(1, 2)
    hidden_BTD = hidden_BTD + encoder.embed_positions.weight[: hidden_BTD.shape[1]]
    for layer in encoder.layers:
        hidden_BTD = layer(hidden_BTD, None)
    return encoder.layer_norm(hidden_BTD)


def require_installed(names: Sequence[str] = ("onnx", "onnxscript")) -> None:
    """Refuses to begin without what is needed: by the exporter, if nothing else is said.

    Raises:
        InputError: A package is missing.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(f"{name}: not installed; pip install -r requirements-device.txt")


def require_exportable(model: SalmonnForConditionalGeneration) -> None:
    """Refuses a model whose hearing has no form here.

    Raises:
        InputError: It has BEATs, or other windows than clips of a second have room for.
    """
    if model.beats is not None:
        raise InputError("a device package has no BEATs; export a student without it (student.beats: false)")
    if model.connector.window_frames > _LEAST_FRAMES:
        raise InputError(f"windows of {model.connector.window_frames} frames: a clip of 1 s has {_LEAST_FRAMES}")


def write_audio(model: SalmonnForConditionalGeneration, form: AudioFormat, folder: Path) -> None:
    """Writes `audio.onnx` and its weights beside it, which onnxruntime then maps; the model is turned into fp32.

    Args:
        model: Its LoRA folded in.
        form: Its matrices in 32 bits, or in 8 with a scale for each 32 weights, as llama.cpp's q8_0 has them.
        folder: Where.

    Raises:
        InputError: The exporter is not installed, or see `require_exportable`.
    """
    require_installed()
    require_exportable(model)
    import onnx  # only here: the rest of the repository does without
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quiet():
        made = _program(model).model_proto
        if form == "q8":
            quantiser = MatMulNBitsQuantizer(made, bits=8, block_size=32, is_symmetric=True, accuracy_level=_IN_8_BITS)
            quantiser.process()
            made = quantiser.model.model
    with TemporaryDirectory(prefix=f".{FILE}.", dir=folder) as aside:
        beside = {"location": WEIGHTS, "save_as_external_data": True, "all_tensors_to_one_file": True}
        onnx.save_model(made, str(Path(aside, FILE)), **beside)
        for name in (WEIGHTS, FILE):
            with written_whole(folder / name) as temporary:
                shutil.copymode(temporary, Path(aside, name))
                os.replace(Path(aside, name), temporary)


def _program(model: SalmonnForConditionalGeneration) -> torch.onnx.ONNXProgram:
    path = AudioPath(model).float().eval()
    config = model.config.encoder_config
    example = torch.zeros(1, config.num_mel_bins, 2 * _LEAST_FRAMES + 100)
    # The number of mel frames is even: the second convolution has stride 2.
    half = torch.export.Dim("half_frames", min=_LEAST_FRAMES, max=config.max_source_positions)
    with torch.no_grad(), _attending(path.encoder):
        return torch.onnx.export(
            path,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"mel": {2: 2 * half}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )


@contextmanager
def _attending(encoder: SpeechEncoder) -> Iterator[None]:
    """Lets the encoder's layers attend by the operation of onnxruntime's, which PyTorch cannot compute."""
    configs = [layer.self_attn.config for layer in encoder.layers]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "onnxruntime"
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on its own insides to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
