"""How far the student's features are from the teacher's, and both brought to the same times.

Letters: B clips, T frames, C columns, N rows (frames, tokens or positions of all clips), D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from teacher.connector import windows_of

Distance = Literal["relative", "mse", "smooth_l1", "cosine"]


def distance(own_ND: Tensor, teacher_ND: Tensor, kind: Distance, spread: float | None = None) -> Tensor:
    """Sum over rows of the distance of each, in float32.

    Args:
        own_ND: The student's rows.
        teacher_ND: The teacher's.
        kind: mse and smooth_l1 are means over the width, cosine is 1 minus the cosine. relative is the squared distance
            over `spread`: 1 is what the teacher's mean row would cost, whatever width and scale, so that a weight means
            about the same for every feature.
        spread: The teacher's mean squared deviation from its mean row, measured once (`Spread`): one of the rows at
            hand would make a row's cost depend on the others of its micro-batch.
    """
    own_ND, teacher_ND = own_ND.float(), teacher_ND.float()
    if kind == "cosine":
        return (1 - nn.functional.cosine_similarity(own_ND, teacher_ND, dim=1)).sum()
    if kind == "smooth_l1":
        return nn.functional.smooth_l1_loss(own_ND, teacher_ND, reduction="none").mean(1).sum()
    squared = (own_ND - teacher_ND).square().sum()
    return squared / (own_ND.shape[1] if kind == "mse" else spread)


class Spread:
    """The mean squared deviation of rows from their mean row: their variance, summed over the width."""

    def __init__(self) -> None:
        self._rows, self._sum_D, self._squares = 0, torch.zeros(()), 0.0

    def add(self, rows_ND: Tensor) -> None:
        """Takes further rows into account."""
        rows_ND = rows_ND.double().cpu()
        self._rows += len(rows_ND)
        self._sum_D = self._sum_D + rows_ND.sum(0)
        self._squares += float(rows_ND.square().sum())

    def value(self) -> float:
        """Of all rows so far; never 0, as it is divided by."""
        rows = max(self._rows, 1)
        return max(self._squares / rows - float((self._sum_D / rows).square().sum()), 1e-6)


def between_windows(
    tokens_ND: Tensor, frames_B: Tensor, teacher_window: tuple[int, int], student_window: tuple[int, int]
) -> Tensor:
    """Tokens of the teacher's windows at the centres of the student's: linear between two, held at the ends.

    Args:
        tokens_ND: One for each of the teacher's windows, clip after clip.
        frames_B: Encoder frames of each clip, on the host.
        teacher_window: Length and stride of the teacher's windows, frames.
        student_window: Of the student's.

    Returns:
        One row for each of the student's windows, clip after clip; the same tokens where the windows are the same.
    """
    counts_B, wanted_B = windows_of(frames_B, *teacher_window), windows_of(frames_B, *student_window)
    clip_M = torch.arange(len(frames_B)).repeat_interleave(wanted_B)
    number_M = torch.arange(len(clip_M)) - (wanted_B.cumsum(0) - wanted_B)[clip_M]
    (length, stride), (own_length, own_stride) = teacher_window, student_window
    place_M = (number_M * own_stride + (own_length - length) / 2) / stride
    last_M = counts_B[clip_M] - 1
    place_M = place_M.clamp(min=0).minimum(last_M)
    before_M = place_M.floor().long()
    after_M = (before_M + 1).minimum(last_M)
    first_M = (counts_B.cumsum(0) - counts_B)[clip_M]
    share_M1 = (place_M - before_M)[:, None].to(tokens_ND.device, tokens_ND.dtype)
    earlier_M, later_M = ((first_M + at_M).to(tokens_ND.device) for at_M in (before_M, after_M))
    return torch.lerp(tokens_ND[earlier_M], tokens_ND[later_M], share_M1)


def column_frames(patch_side: int) -> int:
    """Encoder frames (20 ms) of a column of BEATs' patches, whose side is counted in frames of 10 ms."""
    return max(patch_side // 2, 1)


def mean_of_columns(states_BTD: Tensor, frames: int) -> Tensor:
    """The mean state (B, C, D) of every so many frames; what is left over at the end is dropped."""
    columns = states_BTD.shape[1] // frames
    return states_BTD[:, : columns * frames].unflatten(1, (columns, frames)).mean(2)
