"""Encoder and connector as one ONNX file: from the log-mel spectrogram of a clip, as long as it is, to audio tokens.

Letters: M mel bins, T mel frames, S encoder frames, D encoder width, W windows, F frames of a window, Q Q-Former width,
H LLM width.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import InputError
from teacher.encoder import SpeechEncoder
from teacher.model import SalmonnForConditionalGeneration

FILE = "audio.onnx"
INPUT, OUTPUT = "mel", "audio_tokens"
_OPSET = 20
_LEAST_FRAMES = 50
"""Encoder frames of the shortest clip that is heard, 1 s."""


class AudioPath(nn.Module):
    """From mel (1, M, T), all of it heard, to audio tokens (W, H).

    What `SpeechEncoder` and `Connector` compute of one clip; there masks depend on the batch, here there is none.
    """

    def __init__(self, model: SalmonnForConditionalGeneration) -> None:
        super().__init__()
        self.encoder, self.connector = model.encoder, model.connector

    def forward(self, mel: Tensor) -> Tensor:
        """Audio tokens of every window that lies in the clip."""
        connector = self.connector
        states_SD = connector.ln_speech(_encoded(self.encoder, mel))[0]
        # Not `len`: it makes a constant of a length.
        first_W = torch.arange((states_SD.shape[0] - connector.window_frames) // connector.window_stride + 1)
        place_WF = first_W[:, None] * connector.window_stride + torch.arange(connector.window_frames)
        windows_WFD = states_SD[place_WF]
        query_W1Q = connector.query.expand(windows_WFD.shape[0], -1, -1)
        out_W1Q = connector.qformer(query_embeds=query_W1Q, encoder_hidden_states=windows_WFD).last_hidden_state
        return connector.proj(out_W1Q[:, 0])


def _encoded(encoder: SpeechEncoder, mel: Tensor) -> Tensor:
    hidden_BTD = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(mel)))).transpose(1, 2)
    hidden_BTD = hidden_BTD + encoder.embed_positions.weight[: hidden_BTD.shape[1]]
    for layer in encoder.layers:
        hidden_BTD = layer(hidden_BTD, None)
    return encoder.layer_norm(hidden_BTD)


def require_installed() -> None:
    """Refuses to begin without what the exporter needs.

    Raises:
        InputError: A package is missing.
    """
    for name in ("onnx", "onnxscript"):
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


def write_audio(model: SalmonnForConditionalGeneration, folder: Path) -> Path:
    """Writes `audio.onnx`; the model is turned into fp32.

    Args:
        model: Its LoRA folded in.
        folder: Where.

    Raises:
        InputError: The exporter is not installed, or see `require_exportable`.
    """
    require_installed()
    require_exportable(model)
    path = AudioPath(model).float().eval()
    config = model.config.encoder_config
    example = torch.zeros(1, config.num_mel_bins, 2 * _LEAST_FRAMES + 100)
    most = config.max_source_positions  # T is even: the second convolution has stride 2
    frames = torch.export.Dim("half_frames", min=_LEAST_FRAMES, max=most)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            path,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"mel": {2: 2 * frames}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    file = folder / FILE
    program.save(str(file), external_data=False)
    return file


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on its own insides to itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
