"""Feature matching: the student's encoder states and audio tokens held against the teacher's.

Letters: B clips, T frames, N rows (frames, or windows, of all clips), D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.errors import InputError
from data.features import Features
from data.settings import Settings
from teacher.config import SalmonnConfig
from teacher.connector import AudioStates, windows_of, within
from teacher.model import SalmonnForConditionalGeneration

Distance = Literal["relative", "mse", "smooth_l1", "cosine"]
LAST = -1
"""What comes out of a stack of layers: behind its last norm."""


class MatchSettings(Settings):
    """How far the student's features are from the teacher's, and which of them are held against each other.

    relative: the squared distance of a row over the teacher's mean squared deviation from its mean row (of the
    micro-batch): 1 is what the mean row would cost, whatever the width and scale, so that weights of 1 mean about the
    same for every feature. mse and smooth_l1 are means over the width, cosine is 1 minus the cosine.
    """

    encoder: Distance = Field("relative", description="distance of encoder states")
    encoder_layers: tuple[tuple[int, int], ...] = Field(
        ((LAST, LAST),),
        min_length=1,
        description="pairs of a layer of the student's encoder and one of the teacher's, counted from 0, whose outputs "
        "are matched; -1: what the whole encoder gives; the loss is the mean over the pairs",
    )
    audio_tokens: Distance = Field("relative", description="distance of audio tokens")


def distance(own_ND: Tensor, teacher_ND: Tensor, kind: Distance) -> Tensor:
    """Sum over rows of the distance of each, in float32 (see `MatchSettings`)."""
    own_ND, teacher_ND = own_ND.float(), teacher_ND.float()
    if kind == "cosine":
        return (1 - nn.functional.cosine_similarity(own_ND, teacher_ND, dim=1)).sum()
    if kind == "smooth_l1":
        return nn.functional.smooth_l1_loss(own_ND, teacher_ND, reduction="none").mean(1).sum()
    squared_N = (own_ND - teacher_ND).square().sum(1)
    if kind == "mse":
        return squared_N.sum() / own_ND.shape[1]
    spread = (teacher_ND - teacher_ND.mean(0)).square().sum(1).mean().clamp(min=1e-6)
    return squared_N.sum() / spread


def between_windows(tokens_ND: Tensor, frames_B: Tensor, theirs: tuple[int, int], own: tuple[int, int]) -> Tensor:
    """Tokens of the teacher's windows at the centres of the student's: linear between two, held at the ends.

    Args:
        tokens_ND: One for each of the teacher's windows, clip after clip.
        frames_B: Encoder frames of each clip.
        theirs: Length and stride of the teacher's windows, frames.
        own: Of the student's.

    Returns:
        One row for each of the student's windows, clip after clip; the same tokens where the windows are the same.
    """
    counts_B, wanted_B = windows_of(frames_B, *theirs), windows_of(frames_B, *own)
    clip_M = torch.arange(len(frames_B), device=frames_B.device).repeat_interleave(wanted_B)
    number_M = torch.arange(len(clip_M), device=frames_B.device) - (wanted_B.cumsum(0) - wanted_B)[clip_M]
    (length, stride), (own_length, own_stride) = theirs, own
    place_M = (number_M * own_stride + (own_length - length) / 2) / stride
    last_M = counts_B[clip_M] - 1
    place_M = place_M.clamp(min=0).minimum(last_M)
    before_M = place_M.floor().long()
    after_M = (before_M + 1).minimum(last_M)
    first_M = (counts_B.cumsum(0) - counts_B)[clip_M]
    share_M1 = (place_M - before_M)[:, None].to(tokens_ND.dtype)
    return torch.lerp(tokens_ND[first_M + before_M], tokens_ND[first_M + after_M], share_M1)


@contextmanager
def outputs_of(layers: nn.ModuleList, wanted: tuple[int, ...]) -> Iterator[dict[int, Tensor]]:
    """Notes what the wanted layers give for as long as the context lasts."""
    seen: dict[int, Tensor] = {}

    def note(number: int, out: Tensor | tuple) -> None:
        seen[number] = out[0] if isinstance(out, tuple) else out

    hooks = [
        layers[number].register_forward_hook(lambda _, __, out, number=number: note(number, out))
        for number in set(wanted) - {LAST}
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class FeatureMatching(nn.Module):
    """The feature losses. Where widths differ, a learned projection takes the student's rows to the teacher's width.

    (As TinyBERT's, Jiao et al. 2020, equation 8.) Projections are trained beside the student, stand in its checkpoints
    and are no part of the model that is exported.

    Args:
        student: The model that is trained.
        theirs: The teacher's configuration.
        settings: What is matched how.
        names: The features that a stage matches.

    Raises:
        InputError: A layer is named that is not there.
    """

    def __init__(
        self,
        student: SalmonnForConditionalGeneration,
        theirs: SalmonnConfig,
        settings: MatchSettings,
        names: set[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.settings = settings
        self.windows = [(config.window_frames, config.window_stride) for config in (theirs, student.config)]
        self.own_layers, self.their_layers = (tuple(column) for column in zip(*settings.encoder_layers, strict=True))
        counts = student.config.encoder_config.encoder_layers, theirs.encoder_config.encoder_layers
        for whose, layers, there in zip(
            ("the student's", "the teacher's"), (self.own_layers, self.their_layers), counts, strict=True
        ):
            if wrong := [layer for layer in layers if not LAST <= layer < there]:
                raise InputError(
                    f"train.match.encoder_layers: {whose} encoder has no layer {wrong[0]}; name 0 to {there - 1}, or -1"
                )
        widths = {"audio_tokens": [config.llm_config.hidden_size for config in (student.config, theirs)]}
        self.project = nn.ModuleDict(
            {name: nn.Linear(*pair) for name, pair in widths.items() if name in names and pair[0] != pair[1]}
        )

    def encoded(
        self, model: SalmonnForConditionalGeneration, features: Features, layers: tuple[int, ...]
    ) -> tuple[AudioStates, list[Tensor]]:
        """The encoders' states, and the outputs (B, T, D) of these layers of the speech encoder."""
        with outputs_of(model.encoder.layers, layers) as seen:
            states = model.encode(features)
        seen[LAST] = states.speech_BTD
        return states, [seen[layer] for layer in layers]

    def encoder(self, own: list[Tensor], theirs: list[Tensor], frames_B: Tensor) -> Tensor:
        """Sum over the clips' frames, without padding, of the mean distance of the pairs' states (B, T, D)."""
        length = min(theirs[0].shape[1], own[0].shape[1])
        real_BT = within(frames_B, length)
        rows = [[states_BTD[:, :length][real_BT] for states_BTD in side] for side in (own, theirs)]
        return torch.stack([distance(*pair, self.settings.encoder) for pair in zip(*rows, strict=True)]).mean()

    def audio_tokens(self, own_ND: Tensor, tokens_ND: Tensor, frames_B: Tensor) -> Tensor:
        """Sum over the student's windows of the distance to the teacher's tokens, taken at the same times."""
        if self.windows[0] != self.windows[1]:
            tokens_ND = between_windows(tokens_ND, frames_B, *self.windows)
        return distance(self._projected("audio_tokens", own_ND), tokens_ND, self.settings.audio_tokens)

    def _projected(self, name: str, rows_ND: Tensor) -> Tensor:
        if name not in self.project:
            return rows_ND
        return self.project[name](rows_ND.to(self.project[name].weight.dtype))
