"""From encoder states to the LLM's audio tokens: the window-level Q-Former.

Letters: B clips, T encoder frames, D encoder width (of both encoders side by side in the windows), W windows of a
clip, F frames of a window, N windows of all clips, Q Q-Former width, H LLM width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


def windows_of(frames: Tensor | int, window_frames: int, window_stride: int) -> Tensor | int:
    """Whole windows in so many encoder frames; a tail shorter than a window is dropped, but there is at least one."""
    whole = (frames - window_frames) // window_stride + 1
    return whole.clamp(min=1) if isinstance(whole, Tensor) else max(whole, 1)


@dataclass
class AudioStates:
    """What the encoders made of a batch of clips.

    Args:
        speech_BTD: Whisper's states, at 50 a second.
        frames_B: Those of each clip that become audio tokens; counts stay on the host, which reads them.
        sound_BTD: BEATs' states, where the model has them, at 50 a second too.
        sound_frames_B: Those of each clip that are real, on the host too.
    """

    speech_BTD: Tensor
    frames_B: Tensor
    sound_BTD: Tensor | None = None
    sound_frames_B: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "AudioStates":
        """The same states on another device, and in another precision; their counts where they are."""
        speech_BTD, sound_BTD = (None if x is None else x.to(device, dtype) for x in (self.speech_BTD, self.sound_BTD))
        return AudioStates(speech_BTD, self.frames_B, sound_BTD, self.sound_frames_B)

    def split(self) -> list["AudioStates"]:
        """The states of each clip, as a batch of one, without what is past its end."""
        clips = []
        for b, frames in enumerate(self.frames_B.tolist()):
            parts = [self.speech_BTD[b : b + 1, :frames].clone(), self.frames_B[b : b + 1]]
            if self.sound_BTD is not None:
                parts.append(self.sound_BTD[b : b + 1, : self.sound_frames_B[b]].clone())
                parts.append(self.sound_frames_B[b : b + 1])
            clips.append(AudioStates(*parts))
        return clips

    @classmethod
    def collate(cls, clips: list["AudioStates"]) -> "AudioStates":
        """One batch of batches of one, padded with zeros."""

        def states(name: str) -> Tensor:
            return nn.utils.rnn.pad_sequence([getattr(clip, name)[0] for clip in clips], batch_first=True)

        def frames(name: str) -> Tensor:
            return torch.cat([getattr(clip, name) for clip in clips])

        parts = [states("speech_BTD"), frames("frames_B")]
        if clips[0].sound_BTD is not None:
            parts += [states("sound_BTD"), frames("sound_frames_B")]
        return cls(*parts)


def within(frames_B: Tensor, length: int) -> Tensor:
    """Which of `length` places are among each clip's first `frames_B`: bool (B, length)."""
    return torch.arange(length, device=frames_B.device) < frames_B[:, None]


def real(states_BTD: Tensor, frames_B: Tensor) -> Tensor:
    """The states (N, ...) of all clips, clip after clip, without what is past each one's end.

    Where they lie is found on the host, which has the counts: an index by booleans, and its gradient, would make it
    wait for the device.
    """
    clip_N, place_N = within(frames_B, states_BTD.shape[1]).nonzero(as_tuple=True)
    device = states_BTD.device
    return states_BTD[clip_N.to(device, non_blocking=True), place_N.to(device, non_blocking=True)]


def _padded_to(states_BTD: Tensor, length: int) -> Tensor:
    return nn.functional.pad(states_BTD, (0, 0, 0, max(length - states_BTD.shape[1], 0)))


class Connector(nn.Module):
    """SALMONN's connector (Tang et al. 2024, section 3.1): one learned query hears one window of frames.

    Only windows that lie in the clip are computed: (windows, F, D) over all clips goes through the Q-Former as one
    batch, and nothing is spent on padding.
    """

    def __init__(
        self,
        speech_width: int,
        llm_width: int,
        qformer: dict,
        window_frames: int,
        window_stride: int,
        sound_width: int = 0,
    ) -> None:
        super().__init__()
        self.window_frames, self.window_stride = window_frames, window_stride
        self.ln_speech = nn.LayerNorm(speech_width)
        self.ln_audio = nn.LayerNorm(sound_width) if sound_width else None
        self.query = nn.Parameter(torch.empty(1, 1, qformer["width"]))
        nn.init.normal_(self.query, std=0.02)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=qformer["width"],
                num_hidden_layers=qformer["layers"],
                num_attention_heads=qformer["heads"],
                intermediate_size=qformer["feed_forward"],
                hidden_dropout_prob=qformer.get("dropout", 0.1),
                attention_probs_dropout_prob=qformer.get("dropout", 0.1),
                cross_attention_frequency=1,
                encoder_hidden_size=speech_width + sound_width,
            )
        )
        self.proj = nn.Linear(qformer["width"], llm_width)

    def windows(self, frames: Tensor | int) -> Tensor | int:
        """Audio tokens of a clip of so many encoder frames."""
        return windows_of(frames, self.window_frames, self.window_stride)

    def forward(self, states: AudioStates) -> Tensor:
        """Audio tokens (N, H) of all clips, one after the other; clip b has `windows(frames_B[b])` of them."""
        frames_B, device = states.frames_B, states.speech_BTD.device
        states = states.to(device, self.query.dtype)
        parts = [(self.ln_speech(states.speech_BTD), frames_B)]
        if self.ln_audio is not None:
            parts.append((self.ln_audio(states.sound_BTD), states.sound_frames_B))
        # A clip hears zeros after its end, in a batch as alone.
        length = max(self.window_frames, *(part.shape[1] for part, _ in parts))
        masks = [within(count_B, part.shape[1]).to(device, non_blocking=True) for part, count_B in parts]
        parts = [_padded_to(part * mask_BT[..., None], length) for (part, _), mask_BT in zip(parts, masks, strict=True)]
        states_BTD = torch.cat(parts, dim=-1)
        windows_BWFD = states_BTD.unfold(1, self.window_frames, self.window_stride).transpose(2, 3)
        windows_NFD = real(windows_BWFD, self.windows(frames_B))
        query_N1Q = self.query.expand(len(windows_NFD), -1, -1)
        out_N1Q = self.qformer(query_embeds=query_N1Q, encoder_hidden_states=windows_NFD).last_hidden_state
        return self.proj(out_N1Q[:, 0].to(self.proj.weight.dtype))
