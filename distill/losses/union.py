"""The likeliest ids of student and teacher: how many of them both have, and the outcomes that a divergence is over.

Shapes: N positions, V vocabulary, K ids.
"""

import torch

from distill.losses.signals import DenseSignal, SparseSignal


def likeliest(student_NV: torch.Tensor, teacher_NV: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest ids of the teacher and, beside them, those of the student: int64 [N, 2K], and which are there.

    Of the student's those that are among the teacher's are marked as not there (bool [N, 2K]), so that what is there is
    the union, each id once.

    Args:
        student_NV: Logits.
        teacher_NV: Logits.
        k: How many of each; all where the vocabulary has fewer.
    """
    k = min(k, student_NV.shape[1])
    of_teacher_NK, of_student_NK = (logits_NV.topk(k, 1).indices for logits_NV in (teacher_NV, student_NV))
    both_NK = (of_student_NK[:, :, None] == of_teacher_NK[:, None]).any(2)
    there_NK = torch.cat([torch.ones_like(both_NK), ~both_NK], 1)
    return torch.cat([of_teacher_NK, of_student_NK], 1), there_NK


def overlap(there_NK: torch.Tensor) -> torch.Tensor:
    """The share [N] of the student's likeliest ids that are among the teacher's, of what `likeliest` says is there."""
    return (~there_NK).sum(1) / (there_NK.shape[1] / 2)


def union_signal(signal: DenseSignal, ids_NK: torch.Tensor, there_NK: torch.Tensor, dtype: torch.dtype) -> SparseSignal:
    """The teacher's whole distribution as its ids of a union, and one tail bucket for all others: what the cache has.

    Nothing is renormalised: the divergence over these outcomes is never above that over the vocabulary, and zero where
    that is. What the student holds likely and the teacher does not, which a cut by the teacher alone would leave to the
    bucket, is told apart. Which ids are in the union is taken as given: no gradient goes through the choice.

    Args:
        signal: The teacher's logits.
        ids_NK: Ids.
        there_NK: Which of them count, each id once.
        dtype: Of the sums.
    """
    p_NV = signal.logits_NV.to(dtype).softmax(1)
    p_NK = p_NV.gather(1, ids_NK).masked_fill_(~there_NK, 0)
    # The rest by its own sum: one less the others would have their rounding.
    rest_NV = p_NV.scatter_reduce_(1, ids_NK, torch.zeros_like(p_NK), "prod")
    return SparseSignal(ids_NK, p_NK.log(), rest_NV.sum(1), p_NV.shape[1] - 1)
