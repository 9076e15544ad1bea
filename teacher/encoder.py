"""Whisper's encoder on clips of any length, padding masked.

Letters: B clips, M mel bins, T frames of 20 ms, D width.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from teacher.low_rank import lower_ranks


def encoder_frames(mel_frames: Tensor | int) -> Tensor | int:
    """Encoder frames (20 ms) of so many mel frames (10 ms): the second convolution has stride 2."""
    return (mel_frames + 1) // 2


class SpeechEncoder(nn.Module):
    """The encoder of Whisper (Radford et al. 2022), with the parameter names of transformers' `WhisperEncoder`.

    transformers' own refuses anything but 3,000 mel frames. This one takes what it is given: positions are sliced,
    and padding is masked after the first convolution and in attention, so a clip's states do not depend on the batch.
    """

    def __init__(
        self, config: WhisperConfig, *, masked: bool = True, ranks: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Makes an untrained encoder.

        Args:
            config: Its shape.
            masked: Whether what follows a clip is masked; Whisper itself hears the silence up to 30 s.
            ranks: Of the linear layers that are of low rank, by name.
        """
        super().__init__()
        self.masked = masked
        # Standing alone, a layer does not learn from a parent model which attention it runs; masks here are boolean.
        config._attn_implementation = "sdpa"
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.layers = nn.ModuleList([WhisperEncoderLayer(config) for _ in range(config.encoder_layers)])
        self.layer_norm = nn.LayerNorm(width)
        lower_ranks(self, ranks)

    def forward(self, mel_BMT: Tensor, mel_frames_B: Tensor) -> Tensor:
        """Encodes log-mel spectrograms.

        Args:
            mel_BMT: Log-mel features at 100 frames a second, zeros after each clip's end.
            mel_frames_B: Real mel frames of each clip, at most twice the encoder's positions; on the host.

        Returns:
            States (B, T, D) at 50 frames a second; those past `encoder_frames(mel_frames)` mean nothing.
        """
        device = mel_BMT.device
        if not self.masked:
            mel_frames_B = torch.full_like(mel_frames_B, mel_BMT.shape[-1])
        # Counts are on the host, and so are the questions about them: none of them waits for the device.
        within_BT = (torch.arange(mel_BMT.shape[-1]) < mel_frames_B[:, None]).to(device, non_blocking=True)
        hidden = nn.functional.gelu(self.conv1(mel_BMT.to(self.conv1.weight.dtype)))
        # Alone, the second convolution sees zeros beyond the clip; in a batch it must see the same.
        hidden = nn.functional.gelu(self.conv2(hidden * within_BT[:, None]))
        hidden_BTD = hidden.transpose(1, 2)
        length = hidden_BTD.shape[1]
        hidden_BTD = hidden_BTD + self.embed_positions(torch.arange(length, device=device))
        frames_B = encoder_frames(mel_frames_B)
        mask = None
        if not bool((frames_B == length).all()):
            mask_BT = (torch.arange(length) < frames_B[:, None]).to(device, non_blocking=True)
            mask = mask_BT[:, None, None, :].expand(-1, 1, length, -1)
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, mask)
        return self.layer_norm(hidden_BTD)
