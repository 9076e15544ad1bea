"""Cross-entropy and distillation of a block of positions from its logits: their values and their gradient at once.

Shapes: N positions of the block, V vocabulary, K kept ids, B outcomes: K kept ids and the tail.
"""

from dataclasses import dataclass, replace

import torch

from distill.losses.divergences import Divergence, forward_kl, logit_gradient
from distill.losses.signals import DenseSignal, SparseSignal
from distill.losses.union import likeliest, overlap, union_signal
from distill.losses.universal import SpanSignal, span_loss

BlockSignal = DenseSignal | SparseSignal | SpanSignal
"""What the rows of a signal are."""


@dataclass(frozen=True)
class BlockSettings:
    """How a block is weighed and compared; see `distill.losses.fused.fused_loss`."""

    ce_weight: float
    kd_weight: float
    of_outcomes: Divergence
    temperature: float
    even: bool
    kd_weight_N: torch.Tensor | None
    top: int | None
    union: bool

    @property
    def is_plain(self) -> bool:
        """Whether the distillation is the forward KL at temperature 1, of all positions alike."""
        return self.of_outcomes is forward_kl and self.temperature == 1 and self.kd_weight_N is None

    def rows(self, start: int, end: int) -> "BlockSettings":
        """The same for some positions."""
        return self if self.kd_weight_N is None else replace(self, kd_weight_N=self.kd_weight_N[start:end])

    def divergence(self, logp_NB: torch.Tensor, logq_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The divergence and its derivative, each position's by its weight."""
        kd_N, grad_NB = self.of_outcomes(logp_NB, logq_NB)
        if self.kd_weight_N is None:
            return kd_N, grad_NB
        return kd_N * self.kd_weight_N, grad_NB.mul_(self.kd_weight_N[:, None])


@dataclass(frozen=True)
class Block:
    """A block's losses, the student's most probable ids, and the gradient of the weighted loss by the logits.

    (`kd_N` is of spans, not positions, where the teacher's vocabulary is another one.)
    """

    ce_N: torch.Tensor
    kd_N: torch.Tensor | None
    top1_N: torch.Tensor
    grad_NV: torch.Tensor
    overlap_N: torch.Tensor | None = None


def block_loss(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: BlockSignal | None, settings: BlockSettings
) -> Block:
    """The loss of a block; the logits are overwritten, mostly by the gradient."""
    match signal:
        case None:
            return _label_block(logits_NV, labels_N, settings)
        case DenseSignal() if settings.top:
            ids_NK, there_NK = likeliest(logits_NV, signal.logits_NV, settings.top)
            if settings.union:
                kept = union_signal(signal, ids_NK, there_NK, logits_NV.dtype)
                block = _sparse_block(logits_NV, labels_N, kept, settings)
            else:
                block = _dense_block(logits_NV, labels_N, signal, settings)
            return replace(block, overlap_N=overlap(there_NK))
        case DenseSignal():
            return _dense_block(logits_NV, labels_N, signal, settings)
        case SparseSignal() if settings.even and settings.is_plain:
            return _even_block(logits_NV, labels_N, signal, settings)
        case SparseSignal() if settings.even:
            return _dense_block(logits_NV, labels_N, _spread(signal, logits_NV), settings)
        case SparseSignal():
            return _sparse_block(logits_NV, labels_N, signal, settings)
        case SpanSignal():
            weights = {"ce_weight": settings.ce_weight, "kd_weight": settings.kd_weight}
            return Block(*span_loss(logits_NV, labels_N, signal, **weights))
    raise TypeError(f"no loss for a teacher signal of type {type(signal).__name__}")


def _label_block(logits_NV: torch.Tensor, labels_N: torch.Tensor, settings: BlockSettings) -> Block:
    """Cross-entropy: the gradient is q - 1[label]."""
    best_N1, top1_N1 = logits_NV.max(1, keepdim=True)
    label_N1 = logits_NV.gather(1, labels_N[:, None]) - best_N1
    weights_NV = logits_NV.sub_(best_N1).exp_()
    sum_N1 = weights_NV.sum(1, keepdim=True)
    grad_NV = weights_NV.mul_(settings.ce_weight / sum_N1)
    _subtract_label(grad_NV, labels_N, settings.ce_weight)
    return Block((sum_N1.log() - label_N1).squeeze(1), None, top1_N1.squeeze(1), grad_NV)


def _dense_block(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: DenseSignal, settings: BlockSettings
) -> Block:
    """Cross-entropy and the divergence over the whole vocabulary."""
    T, top1_N = settings.temperature, logits_NV.argmax(1)
    logp_NV = (signal.logits_NV.to(logits_NV.dtype) / T).log_softmax(1)
    logq_NV = logits_NV - logits_NV.logsumexp(1, keepdim=True)
    ce_N = -logq_NV.gather(1, labels_N[:, None]).squeeze(1)
    tempered_NV = logq_NV if T == 1 else (logits_NV / T).log_softmax(1)
    kd_N, grad_NV = settings.divergence(logp_NV, tempered_NV)
    # T^2 of the loss, 1/T of the chain rule.
    grad_NV = logit_gradient(grad_NV, tempered_NV).mul_(settings.kd_weight * T)
    grad_NV.add_(logq_NV.exp_(), alpha=settings.ce_weight)
    _subtract_label(grad_NV, labels_N, settings.ce_weight)
    return Block(ce_N, kd_N, top1_N, grad_NV)


def _even_block(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: SparseSignal, settings: BlockSettings
) -> Block:
    """Cross-entropy and the forward KL from the distribution that `_spread` makes, which is not made here.

    Of the ids that are not kept, each of probability e, the divergence takes their number and the sum of their logits
    alone: sum p (log p - log q) over the kept ids, and tail log e - e sum (log q) over the others. Its gradient is
    q - p, as that of the cross-entropy is q - 1[label].
    """
    real_NK = signal.logp_NK > -torch.inf
    p_NK = signal.logp_NK.to(logits_NV.dtype).exp()  # 0 at padding
    others_N1 = logits_NV.shape[1] - real_NK.sum(1, keepdim=True)
    tail_N1 = signal.tail_N.to(logits_NV.dtype)[:, None].where(others_N1 > 0, 0)
    even_N1 = tail_N1 / others_N1.clamp(min=1)

    best_N1, top1_N1 = logits_NV.max(1, keepdim=True)
    weights_NV = logits_NV.sub_(best_N1)
    kept_NK = weights_NV.gather(1, signal.ids_NK).masked_fill_(~real_NK, 0)
    rest_N1 = weights_NV.sum(1, keepdim=True) - kept_NK.sum(1, keepdim=True)
    label_N1 = weights_NV.gather(1, labels_N[:, None])
    sum_N1 = weights_NV.exp_().sum(1, keepdim=True)
    lse_N1 = sum_N1.log()

    known_N1 = torch.xlogy(p_NK, p_NK).sum(1, keepdim=True) + torch.xlogy(tail_N1, even_N1)
    said_N1 = (p_NK * kept_NK).sum(1, keepdim=True) + even_N1 * rest_N1
    kd_N1 = known_N1 - said_N1 + (p_NK.sum(1, keepdim=True) + tail_N1) * lse_N1

    grad_NV = weights_NV.mul_((settings.ce_weight + settings.kd_weight) / sum_N1).sub_(settings.kd_weight * even_N1)
    more_NK = (even_N1 - p_NK).masked_fill_(~real_NK, 0)
    grad_NV.scatter_add_(1, signal.ids_NK, more_NK.mul_(settings.kd_weight))
    _subtract_label(grad_NV, labels_N, settings.ce_weight)
    return Block((lse_N1 - label_N1).squeeze(1), kd_N1.squeeze(1), top1_N1.squeeze(1), grad_NV)


def _spread(signal: SparseSignal, like_NV: torch.Tensor) -> DenseSignal:
    """The whole distribution of a block: kept ids as they are, the tail's mass evenly over all others."""
    logp_NK = signal.logp_NK.to(like_NV.dtype)
    others_N1 = (like_NV.shape[1] - (logp_NK > -torch.inf).sum(1, keepdim=True)).clamp(min=1)
    even_N1 = (signal.tail_N.to(like_NV.dtype)[:, None] / others_N1).log()
    # A kept id is more probable than the mean of those that are not; padding is minus infinity.
    logp_NV = even_N1.expand_as(like_NV).clone().scatter_reduce_(1, signal.ids_NK, logp_NK, "amax")
    return DenseSignal(logp_NV)


def _sparse_block(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: SparseSignal, settings: BlockSettings
) -> Block:
    """Cross-entropy and the divergence over the kept ids and the tail.

    The logits of all other ids ("rest") enter as one: their log-sum-exp r. With it, the kept logits and r are the
    logits of B outcomes, whose log-sum-exp is that of the whole vocabulary; and the derivative of r by a logit is its
    share in the rest. The rest has an exponential of its own scale, so a tail far below the kept ids is exact too.
    """
    T = settings.temperature
    logp_NK = signal.logp_NK.to(logits_NV.dtype)
    real_NK = logp_NK > -torch.inf
    kept_NK = logits_NV.gather(1, signal.ids_NK).masked_fill_(~real_NK, -torch.inf)
    label_N1 = logits_NV.gather(1, labels_N[:, None])

    # 1. What is not kept: minus infinity at the kept ids (plus nothing at padding), one maximum, one exponential.
    minus_NK = torch.zeros_like(logp_NK).masked_fill_(real_NK, -torch.inf)
    rest_NV = logits_NV.scatter_add_(1, signal.ids_NK, minus_NK)
    rest_best_N1, rest_top1_N1 = rest_NV.max(1, keepdim=True)
    rest_best_N1.clamp_(min=torch.finfo(rest_NV.dtype).min)  # finite where the whole vocabulary is kept
    rest_NV.sub_(rest_best_N1).exp_()
    rest_sum_N1 = rest_NV.sum(1, keepdim=True)
    outcomes_NB = torch.cat([kept_NK, rest_best_N1 + rest_sum_N1.log()], 1)
    lse_N1 = outcomes_NB.logsumexp(1, keepdim=True)

    # 2. The divergence over the outcomes, and its gradient by their logits.
    tail_N1 = signal.tail_N.to(logits_NV.dtype)[:, None]
    tail_N1 = tail_N1.where(rest_sum_N1 > 0, 0)  # nothing is left but rounding where the whole vocabulary is kept
    logp_NB = torch.cat([logp_NK, tail_N1.log()], 1)
    if T != 1:
        logp_NB = (logp_NB / T).log_softmax(1)
    logq_NB = outcomes_NB - lse_N1 if T == 1 else (outcomes_NB / T).log_softmax(1)
    kd_N, grad_NB = settings.divergence(logp_NB, logq_NB)
    grad_NB = logit_gradient(grad_NB, logq_NB).mul_(settings.kd_weight * T)  # T^2 of the loss, 1/T of the chain rule

    # 3. The gradient by all logits: each of the rest has its share of the tail's, and the softmax of cross-entropy.
    share_N1 = grad_NB[:, -1:] / rest_sum_N1.clamp(min=1)
    grad_NV = rest_NV.mul_(share_N1 + settings.ce_weight * (rest_best_N1 - lse_N1).exp())
    grad_NK = grad_NB[:, :-1] + settings.ce_weight * (kept_NK - lse_N1).exp()
    grad_NV.scatter_add_(1, signal.ids_NK, grad_NK)
    _subtract_label(grad_NV, labels_N, settings.ce_weight)

    kept_best_N1, at_N1 = kept_NK.max(1, keepdim=True)
    top1_N1 = torch.where(kept_best_N1 >= rest_best_N1, signal.ids_NK.gather(1, at_N1), rest_top1_N1)
    return Block((lse_N1 - label_N1).squeeze(1), kd_N, top1_N1.squeeze(1), grad_NV)


def _subtract_label(grad_NV: torch.Tensor, labels_N: torch.Tensor, ce_weight: float) -> None:
    minus_N1 = torch.full_like(labels_N, -1, dtype=grad_NV.dtype)[:, None].mul_(ce_weight)
    grad_NV.scatter_add_(1, labels_N[:, None], minus_N1)
