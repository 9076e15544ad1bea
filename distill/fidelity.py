"""How well cached targets stand for the teacher's full distribution: the gradient that a student gets from each.

All gradients are those of the forward KL, summed over positions, by the student's logits. Shapes: N supervised
positions, V vocabulary, K kept ids.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.cache import SparseTargets
from distill.signals import SparseSignal


@dataclass(frozen=True)
class Fidelity:
    """A gradient against the exact one, both flattened over positions and vocabulary.

    Attributes:
        cosine: Of the angle between them.
        error: Norm of their difference over the exact one's norm.
    """

    cosine: float
    error: float


def compare(gradient_NV: Tensor, exact_NV: Tensor) -> Fidelity:
    """How far a gradient is from the exact one."""
    norms = gradient_NV.norm() * exact_NV.norm()
    return Fidelity(
        float((gradient_NV * exact_NV).sum() / norms), float((gradient_NV - exact_NV).norm() / exact_NV.norm())
    )


def exact_gradient(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """From the whole distributions: q - p."""
    return student_NV.double().softmax(1) - teacher_NV.double().softmax(1)


def tail_gradient(targets: SparseTargets, student_NV: Tensor) -> Tensor:
    """From sparse targets as they are trained on: q - p on their ids, a tail spread as the student spreads it.

    Drawn ids (p their share of the draws) have no tail: elsewhere it is q.
    """
    signal, q_NV = SparseSignal.collate([targets]), student_NV.double().softmax(1)
    kept_NK = signal.logp_NK > -torch.inf
    q_NK = q_NV.gather(1, signal.ids_NK).where(kept_NK, 0)
    rest_N = (1 - q_NK.sum(1)).clamp(min=1e-12)
    gradient_NV = q_NV * (1 - signal.tail_N.double() / rest_N)[:, None]
    return _with(gradient_NV, signal, kept_NK, q_NK - signal.logp_NK.double().exp())


def renormalised_gradient(targets: SparseTargets, student_NV: Tensor) -> Tensor:
    """From kept ids alone, scaled up to sum to one, as truncated caches are often used: q - p / sum(p)."""
    signal, q_NV = SparseSignal.collate([targets]), student_NV.double().softmax(1)
    kept_NK = signal.logp_NK > -torch.inf
    p_NK = signal.logp_NK.double().exp()
    return _with(q_NV, signal, kept_NK, q_NV.gather(1, signal.ids_NK) - p_NK / p_NK.sum(1, keepdim=True))


def even_gradient(targets: SparseTargets, student_NV: Tensor) -> Tensor:
    """From kept ids, and the tail's mass spread evenly over the others: q - p, and q - tail / others."""
    signal, q_NV = SparseSignal.collate([targets]), student_NV.double().softmax(1)
    kept_NK = signal.logp_NK > -torch.inf
    others_N = (q_NV.shape[1] - kept_NK.sum(1)).clamp(min=1)
    gradient_NV = q_NV - (signal.tail_N.double() / others_N)[:, None]
    return _with(gradient_NV, signal, kept_NK, q_NV.gather(1, signal.ids_NK) - signal.logp_NK.double().exp())


def _with(gradient_NV: Tensor, signal: SparseSignal, kept_NK: Tensor, values_NK: Tensor) -> Tensor:
    """The gradient with these values at the kept ids."""
    rows_N = kept_NK.nonzero()[:, 0]
    gradient_NV[rows_N, signal.ids_NK[kept_NK]] = values_NK[kept_NK]
    return gradient_NV
