"""How far the student's features are from the teacher's, and both brought to the same times.

Letters: B clips, T frames, C columns, N rows (frames, tokens or positions of all clips), D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from teacher.connector import windows_of

Distance = Literal["relative", "mse", "smooth_l1", "cosine"]


def distance(own_ND: Tensor, teacher_ND: Tensor, kind: Distance) -> Tensor:
    """Sum over rows of the distance of each, in float32.

    Args:
        own_ND: The student's rows.
        teacher_ND: The teacher's.
        kind: mse and smooth_l1 are means over the width, cosine is 1 minus the cosine. relative is the squared distance
            over the teacher's mean squared deviation from its mean row (of the micro-batch; a single row's from zero):
            1 is what the mean row would cost, whatever width and scale, so that a weight means about the same for every
            feature.
    """
    own_ND, teacher_ND = own_ND.float(), teacher_ND.float()
    if kind == "cosine":
        return (1 - nn.functional.cosine_similarity(own_ND, teacher_ND, dim=1)).sum()
    if kind == "smooth_l1":
        return nn.functional.smooth_l1_loss(own_ND, teacher_ND, reduction="none").mean(1).sum()
    squared_N = (own_ND - teacher_ND).square().sum(1)
    if kind == "mse":
        return squared_N.sum() / own_ND.shape[1]
    mean_D = teacher_ND.mean(0) if len(teacher_ND) > 1 else 0.0
    spread = (teacher_ND - mean_D).square().sum(1).mean().clamp(min=1e-6)
    return squared_N.sum() / spread


def between_windows(
    tokens_ND: Tensor, frames_B: Tensor, teacher_window: tuple[int, int], student_window: tuple[int, int]
) -> Tensor:
    """Tokens of the teacher's windows at the centres of the student's: linear between two, held at the ends.

    Args:
        tokens_ND: One for each of the teacher's windows, clip after clip.
        frames_B: Encoder frames of each clip.
        teacher_window: Length and stride of the teacher's windows, frames.
        student_window: Of the student's.

    Returns:
        One row for each of the student's windows, clip after clip; the same tokens where the windows are the same.
    """
    counts_B, wanted_B = windows_of(frames_B, *teacher_window), windows_of(frames_B, *student_window)
    clip_M = torch.arange(len(frames_B), device=frames_B.device).repeat_interleave(wanted_B)
    number_M = torch.arange(len(clip_M), device=frames_B.device) - (wanted_B.cumsum(0) - wanted_B)[clip_M]
    (length, stride), (own_length, own_stride) = teacher_window, student_window
    place_M = (number_M * own_stride + (own_length - length) / 2) / stride
    last_M = counts_B[clip_M] - 1
    place_M = place_M.clamp(min=0).minimum(last_M)
    before_M = place_M.floor().long()
    after_M = (before_M + 1).minimum(last_M)
    first_M = (counts_B.cumsum(0) - counts_B)[clip_M]
    share_M1 = (place_M - before_M)[:, None].to(tokens_ND.dtype)
    return torch.lerp(tokens_ND[first_M + before_M], tokens_ND[first_M + after_M], share_M1)


def column_frames(patch_side: int) -> int:
    """Encoder frames (20 ms) of a column of BEATs' patches, whose side is counted in frames of 10 ms."""
    return max(patch_side // 2, 1)


def mean_of_columns(states_BTD: Tensor, frames: int) -> Tensor:
    """The mean state (B, C, D) of every so many frames; what is left over at the end is dropped."""
    columns = states_BTD.shape[1] // frames
    return states_BTD[:, : columns * frames].unflatten(1, (columns, frames)).mean(2)
