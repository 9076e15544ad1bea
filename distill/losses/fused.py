"""The head and the loss in one: cross-entropy and distillation from hidden states, a chunk of positions at a time.

Logits exist for one chunk only, in one buffer that all chunks share. Their gradient is known as soon as the loss is, so
it is computed in the forward pass, in that buffer, and carried at once to the hidden states and the head; nothing of
size V is kept for the backward pass, which only scales. The products are in the dtype of the training and take a whole
chunk, as they are the faster the more rows they have; what comes between, in float32, takes a few rows at a time.

Shapes: N supervised positions (a block of them in the functions that say so), V vocabulary, D width, K kept ids,
B outcomes: K kept ids and the tail.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.autograd.function import once_differentiable

from distill.losses.divergences import Divergence, DivergenceName, divergence_named, forward_kl, logit_gradient
from distill.losses.signals import DenseSignal, HeadSignal, SparseSignal, TeacherSignal
from distill.losses.union import likeliest, overlap, union_signal
from distill.losses.universal import SpanSignal, span_loss

BlockSignal = DenseSignal | SparseSignal | SpanSignal
"""What the rows of a signal are."""


@dataclass(frozen=True)
class LossParts:
    """Sums over the supervised positions of a batch; the caller divides by the global number of tokens.

    Attributes:
        loss: ce_weight x ce + kd_weight x temperature^2 x kd; differentiable.
        ce: cross-entropy against the labels.
        kd: divergence from the teacher at the temperature, without the square, each position's by its weight; 0 without
            a signal. Of a teacher of another vocabulary the distances of its spans.
        agreement: positions where student and teacher hold the same id most probable; 0 without a signal, or of another
            vocabulary.
        correct: positions where the student holds the label most probable.
        overlap: the share of the student's likeliest ids that are among as many of the teacher's; 0 if not asked for.
    """

    loss: torch.Tensor
    ce: torch.Tensor
    kd: torch.Tensor
    agreement: torch.Tensor
    correct: torch.Tensor
    overlap: torch.Tensor


def fused_loss(
    hidden_ND: torch.Tensor,
    head_weight_VD: torch.Tensor,
    labels_N: torch.Tensor,
    signal: TeacherSignal | None,
    *,
    ce_weight: float,
    kd_weight: float,
    divergence: DivergenceName = "forward_kl",
    beta: float = 0.5,
    alpha: float = 0.1,
    tail: Literal["bucket", "even"] = "bucket",
    temperature: float = 1.0,
    kd_weight_N: torch.Tensor | None = None,
    top: int | None = None,
    union: bool = False,
    chunk_rows: int = 256,
    block_rows: int = 64,
) -> LossParts:
    """Cross-entropy and distillation of the supervised positions, head included.

    The products with the head run in autocast's dtype where autocast is on, else in that of `hidden_ND`; all else, and
    every sum, in float32 (float64 for float64 input).

    At a temperature other than 1, a dense signal is tempered exactly. What a sparse signal's tail bucket would weigh
    then is unknown (it depends on how the mass is spread in it), so the outcomes are tempered as they are, kept ids
    and tail bucket, for teacher and student alike: p_b^(1/T) over their sum. That is a divergence of its own, zero
    exactly where the outcomes agree, and equal to the dense one where the whole vocabulary is kept.

    A teacher of another vocabulary (`SpanSignal`) has its own distance, at temperature 1 (`universal.py`).

    Args:
        hidden_ND: the student's last hidden states at the supervised positions.
        head_weight_VD: the LM head's weight; without a gradient where it does not require one.
        labels_N: int64, the supervised ids; no ignored ones among them.
        signal: the teacher at the same positions, or None.
        ce_weight: weight of the cross-entropy.
        kd_weight: weight of the distillation.
        divergence: see `divergence_named`.
        beta: the teacher's share in the mixture of "js".
        alpha: the share of what the expectation is over in the mixture of the skew ones.
        tail: what a sparse signal says of ids that are not kept: each an even part of their sum, which makes it a
            distribution over the whole vocabulary, treated as a dense signal; or that sum alone ("bucket").
        temperature: T; the distillation is multiplied by T^2, so that its gradient keeps its size (Hinton et al. 2015).
        kd_weight_N: weight of each position's distillation beside the others'; None: all 1. Not for spans.
        top: of a dense signal, so many likeliest ids of each model are compared (`LossParts.overlap`); None: none.
        union: the divergence of a dense signal is over the union of these ids and one tail bucket, as a sparse one's,
            in place of the vocabulary.
        chunk_rows: positions whose logits exist at a time (more, where a single span has more).
        block_rows: positions that are worked on at a time between the products, in float32 (as `chunk_rows`).

    Returns:
        The sums; `loss` carries the gradient.
    """
    N, V = len(hidden_ND), len(head_weight_VD)
    if len(labels_N) != N or (signal is not None and len(signal) != N):
        raise ValueError(f"{N} hidden states, {len(labels_N)} labels, teacher: {signal and len(signal)}")
    if isinstance(signal, SparseSignal) and signal.largest_id >= V:
        raise ValueError(f"the teacher's vocabulary is not the student's: id {signal.largest_id} in {V} ids")
    if isinstance(signal, HeadSignal) and not len(signal.head_VD) <= signal.vocab_size == V:
        raise ValueError(f"the teacher's vocabulary is not the student's: {len(signal.head_VD)} ids, not {V}")
    if isinstance(signal, DenseSignal) and signal.logits_NV.shape[1] != V:
        raise ValueError(f"the teacher's vocabulary is not the student's: {signal.logits_NV.shape[1]} ids, not {V}")
    if isinstance(signal, SpanSignal) and (temperature != 1 or kd_weight_N is not None):
        raise ValueError(f"a teacher of another vocabulary is compared unweighted, at temperature 1, not {temperature}")
    if (top is not None and not isinstance(signal, DenseSignal | HeadSignal)) or (union and top is None):
        raise ValueError("the likeliest ids of both models are compared (top) where the whole of a teacher is known")
    named = divergence_named(divergence, beta=beta, alpha=alpha)
    settings = _Settings(
        *(ce_weight, kd_weight, named, temperature, chunk_rows, block_rows, tail == "even", kd_weight_N, top, union)
    )
    with_gradient = torch.is_grad_enabled()
    loss, *sums = _FusedLoss.apply(hidden_ND, head_weight_VD, labels_N, signal, settings, with_gradient)
    return LossParts(loss, *sums)


@dataclass(frozen=True)
class _Settings:
    ce_weight: float
    kd_weight: float
    of_outcomes: Divergence
    temperature: float
    chunk_rows: int
    block_rows: int
    even: bool
    kd_weight_N: torch.Tensor | None
    top: int | None
    union: bool

    @property
    def is_plain(self) -> bool:
        """Whether the distillation is the forward KL at temperature 1, of all positions alike."""
        return self.of_outcomes is forward_kl and self.temperature == 1 and self.kd_weight_N is None

    def rows(self, start: int, end: int) -> "_Settings":
        """The same for some positions."""
        return self if self.kd_weight_N is None else replace(self, kd_weight_N=self.kd_weight_N[start:end])

    def divergence(self, logp_NB: torch.Tensor, logq_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The divergence and its derivative, each position's by its weight."""
        kd_N, grad_NB = self.of_outcomes(logp_NB, logq_NB)
        if self.kd_weight_N is None:
            return kd_N, grad_NB
        return kd_N * self.kd_weight_N, grad_NB.mul_(self.kd_weight_N[:, None])


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, head_VD, labels_N, signal, settings, with_gradient):
        device = hidden_ND.device
        product_dtype = hidden_ND.dtype
        if torch.is_autocast_enabled(device.type):
            product_dtype = torch.get_autocast_dtype(device.type)
        sum_dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        wants_hidden, wants_head = (with_gradient and need for need in ctx.needs_input_grad[:2])
        grad_hidden_ND = hidden_ND.new_zeros(hidden_ND.shape, dtype=sum_dtype) if wants_hidden else None
        grad_head_VD = head_VD.new_zeros(head_VD.shape, dtype=sum_dtype) if wants_head else None
        totals = _Totals(sum_dtype, device)
        with torch.autocast(device.type, enabled=False):
            cast_VD = head_VD.to(product_dtype)
            N, V = len(hidden_ND), len(head_VD)
            # Allocated once: pieces of this size, freed and asked for again, would leave gaps in the heap.
            buffer_NV = hidden_ND.new_empty(_longest(N, signal, settings.chunk_rows), V, dtype=product_dtype)
            exact_NV = buffer_NV  # or a few rows of it at a time, in a dtype of their own
            if product_dtype != sum_dtype:
                exact_NV = hidden_ND.new_empty(_longest(N, signal, settings.block_rows), V, dtype=sum_dtype)
            for start, end in _ranges(N, signal, settings.chunk_rows):
                chunk_ND = hidden_ND[start:end].to(product_dtype)
                logits_NV = torch.mm(chunk_ND, cast_VD.T, out=buffer_NV[: end - start])
                chunk_signal = None if signal is None else signal.rows(start, end)
                here = settings.rows(start, end)
                _chunk_loss(logits_NV, labels_N[start:end], chunk_signal, here, exact_NV, totals)
                if wants_hidden:
                    grad_hidden_ND[start:end] = logits_NV @ cast_VD
                if wants_head:
                    _add_product(grad_head_VD, logits_NV.T, chunk_ND)
        ctx.gradients = [(grad_hidden_ND, hidden_ND.dtype), (grad_head_VD, head_VD.dtype)]
        loss = settings.ce_weight * totals.ce + settings.kd_weight * settings.temperature**2 * totals.kd
        counts = totals.ce, totals.kd, totals.agreement, totals.correct, totals.overlap
        ctx.mark_non_differentiable(*counts)
        return loss, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, *_):
        scaled = [None if grad is None else (grad * grad_loss).to(dtype) for grad, dtype in ctx.gradients]
        return *scaled, None, None, None, None


def _ranges(positions: int, signal: TeacherSignal | None, rows: int) -> Iterable[tuple[int, int]]:
    """Ranges of at most `rows` positions that cut no span."""
    if isinstance(signal, SpanSignal):
        return signal.chunks(rows)
    return ((start, min(start + rows, positions)) for start in range(0, positions, rows))


def _longest(positions: int, signal: TeacherSignal | None, rows: int) -> int:
    """No range of theirs is longer (a span may be longer than `rows`)."""
    return min(positions, max([rows, *(end - start for start, end in _ranges(positions, signal, rows))]))


def _add_product(sum_VD: torch.Tensor, left_VN: torch.Tensor, right_ND: torch.Tensor) -> None:
    if left_VN.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_VN, right_ND)
    else:
        sum_VD += left_VN @ right_ND


class _Totals:
    """Sums over all positions, on their device."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.ce, self.kd, self.overlap = torch.zeros(3, dtype=dtype, device=device)
        self.agreement, self.correct = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, block: "_Block", labels_N: torch.Tensor, signal: BlockSignal | None) -> None:
        """A block's losses and what it holds most probable."""
        self.ce += block.ce_N.sum()
        self.correct += (block.top1_N == labels_N).sum()
        if signal is not None:
            self.kd += block.kd_N.sum()
            self.overlap += block.overlap_N.sum() if block.overlap_N is not None else 0
            self.agreement += (block.top1_N == signal.top1_N()).sum()


def _chunk_loss(
    logits_NV: torch.Tensor,
    labels_N: torch.Tensor,
    signal: BlockSignal | None,
    settings: _Settings,
    exact_NV: torch.Tensor,
    totals: _Totals,
) -> None:
    """The losses of a chunk, block by block, added to the totals; the gradient takes the logits' place.

    Args:
        logits_NV: In the dtype of the products; overwritten.
        labels_N: The supervised ids.
        signal: The teacher's, or None.
        settings: Weights and the rest.
        exact_NV: Room for the rows of a block in the dtype of the sums, where it is another one.
        totals: What is added to.
    """
    for start, end in _ranges(len(labels_N), signal, settings.block_rows):
        rows_NV = block_NV = logits_NV[start:end]
        if exact_NV.dtype != logits_NV.dtype:
            block_NV = exact_NV[: end - start].copy_(rows_NV)
        block_signal = None if signal is None else signal.rows(start, end)
        block = _block_loss(block_NV, labels_N[start:end], block_signal, settings.rows(start, end))
        totals.add(block, labels_N[start:end], block_signal)
        if block.grad_NV.data_ptr() != rows_NV.data_ptr():  # of another dtype, or made anew
            rows_NV.copy_(block.grad_NV)


@dataclass(frozen=True)
class _Block:
    """A block's losses, the student's most probable ids, and the gradient of the weighted loss by the logits.

    (`kd_N` is of spans, not positions, where the teacher's vocabulary is another one.)
    """

    ce_N: torch.Tensor
    kd_N: torch.Tensor | None
    top1_N: torch.Tensor
    grad_NV: torch.Tensor
    overlap_N: torch.Tensor | None = None


def _block_loss(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: BlockSignal | None, settings: _Settings
) -> _Block:
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
            return _Block(*span_loss(logits_NV, labels_N, signal, **weights))
    raise TypeError(f"no loss for a teacher signal of type {type(signal).__name__}")


def _label_block(logits_NV: torch.Tensor, labels_N: torch.Tensor, settings: _Settings) -> _Block:
    """Cross-entropy: the gradient is q - 1[label]."""
    best_N1, top1_N1 = logits_NV.max(1, keepdim=True)
    label_N1 = logits_NV.gather(1, labels_N[:, None]) - best_N1
    weights_NV = logits_NV.sub_(best_N1).exp_()
    sum_N1 = weights_NV.sum(1, keepdim=True)
    grad_NV = weights_NV.mul_(settings.ce_weight / sum_N1)
    _subtract_label(grad_NV, labels_N, settings.ce_weight)
    return _Block((sum_N1.log() - label_N1).squeeze(1), None, top1_N1.squeeze(1), grad_NV)


def _dense_block(logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: DenseSignal, settings: _Settings) -> _Block:
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
    return _Block(ce_N, kd_N, top1_N, grad_NV)


def _even_block(logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: SparseSignal, settings: _Settings) -> _Block:
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
    return _Block((lse_N1 - label_N1).squeeze(1), kd_N1.squeeze(1), top1_N1.squeeze(1), grad_NV)


def _spread(signal: SparseSignal, like_NV: torch.Tensor) -> DenseSignal:
    """The whole distribution of a block: kept ids as they are, the tail's mass evenly over all others."""
    logp_NK = signal.logp_NK.to(like_NV.dtype)
    others_N1 = (like_NV.shape[1] - (logp_NK > -torch.inf).sum(1, keepdim=True)).clamp(min=1)
    even_N1 = (signal.tail_N.to(like_NV.dtype)[:, None] / others_N1).log()
    # A kept id is more probable than the mean of those that are not; padding is minus infinity.
    logp_NV = even_N1.expand_as(like_NV).clone().scatter_reduce_(1, signal.ids_NK, logp_NK, "amax")
    return DenseSignal(logp_NV)


def _sparse_block(logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: SparseSignal, settings: _Settings) -> _Block:
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
    return _Block((lse_N1 - label_N1).squeeze(1), kd_N, top1_N1.squeeze(1), grad_NV)


def _subtract_label(grad_NV: torch.Tensor, labels_N: torch.Tensor, ce_weight: float) -> None:
    minus_N1 = torch.full_like(labels_N, -1, dtype=grad_NV.dtype)[:, None].mul_(ce_weight)
    grad_NV.scatter_add_(1, labels_N[:, None], minus_N1)
