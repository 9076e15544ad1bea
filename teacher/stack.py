"""From encoder states to the LLM's audio tokens without attention: some frames side by side, then a gated MLP.

Letters: B clips, T encoder frames, D encoder width, F frames of a token, N tokens of all clips, M width of the MLP,
H LLM width.
"""

from torch import Tensor, nn

from teacher.connector import AudioStates, real, windows_of, within

EPS = 1e-6
"""Of the norms; llama.cpp has this number in its code."""


class StackConnector(nn.Module):
    """Ultravox's projector (Fixie AI, v0.5), which llama.cpp has as the projector `ultravox`.

    What is not a whole token at a clip's end is dropped, as the Q-Former's windows are; a clip shorter than one token
    has one.

    Args:
        speech_width: Of the encoder.
        llm_width: Of the LLM.
        frames: Encoder frames of a token.
        width: Of the MLP, behind its gate.
    """

    def __init__(self, speech_width: int, llm_width: int, frames: int, width: int) -> None:
        super().__init__()
        self.window_frames = self.window_stride = frames
        self.norm_pre = nn.RMSNorm(frames * speech_width, eps=EPS)
        self.linear_1 = nn.Linear(frames * speech_width, 2 * width, bias=False)
        self.norm_mid = nn.RMSNorm(width, eps=EPS)
        self.linear_2 = nn.Linear(width, llm_width, bias=False)

    def windows(self, frames: Tensor | int) -> Tensor | int:
        """Audio tokens of a clip of so many encoder frames."""
        return windows_of(frames, self.window_frames, self.window_stride)

    def forward(self, states: AudioStates) -> Tensor:
        """Audio tokens (N, H) of all clips, one after the other; clip b has `windows(frames_B[b])` of them."""
        frames_B, device = states.frames_B, states.speech_BTD.device
        speech_BTD = states.speech_BTD.to(self.linear_1.weight.dtype)
        # A clip hears zeros after its end, in a batch as alone.
        speech_BTD = speech_BTD * within(frames_B, speech_BTD.shape[1]).to(device, non_blocking=True)[..., None]
        missing = max(self.window_frames - speech_BTD.shape[1], 0)
        speech_BTD = nn.functional.pad(speech_BTD, (0, 0, 0, missing))
        whole = windows_of(speech_BTD.shape[1], self.window_frames, self.window_stride)
        stacked_BWD = speech_BTD[:, : whole * self.window_frames].unflatten(1, (whole, -1)).flatten(2)
        return self.project(real(stacked_BWD, self.windows(frames_B)))

    def project(self, stacked_ND: Tensor) -> Tensor:
        """Audio tokens (N, H) of frames that stand side by side (N, F * D), the earliest first."""
        value_NM, gate_NM = self.linear_1(self.norm_pre(stacked_ND)).chunk(2, dim=-1)
        return self.linear_2(self.norm_mid(nn.functional.silu(gate_NM) * value_NM))
