"""The head and the loss in one: cross-entropy and distillation from hidden states, a chunk of positions at a time.

Logits exist for one chunk only, in one buffer that all chunks share. Their gradient is known as soon as the loss is, so
it is computed in the forward pass, in that buffer, and carried at once to the hidden states and the head; nothing of
size V is kept for the backward pass, which only scales. The products are in the dtype of the training and take a whole
chunk, as they are the faster the more rows they have; what comes between, in float32, takes a few rows at a time.

Shapes: N supervised positions (a block of them in the functions that say so), V vocabulary, D width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.autograd.function import once_differentiable

from distill.losses.blocks import Block, BlockSettings, BlockSignal, block_loss
from distill.losses.divergences import DivergenceName, divergence_named
from distill.losses.signals import DenseSignal, HeadSignal, SparseSignal, TeacherSignal
from distill.losses.universal import SpanSignal


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
    settings = BlockSettings(ce_weight, kd_weight, named, temperature, tail == "even", kd_weight_N, top, union)
    how = settings, (chunk_rows, block_rows), torch.is_grad_enabled()
    loss, *sums = _FusedLoss.apply(hidden_ND, head_weight_VD, labels_N, signal, *how)
    return LossParts(loss, *sums)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, head_VD, labels_N, signal, settings, rows, with_gradient):
        chunk_rows, block_rows = rows
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
            buffer_NV = hidden_ND.new_empty(_longest(N, signal, chunk_rows), V, dtype=product_dtype)
            exact_NV = buffer_NV  # or a few rows of it at a time, in a dtype of their own
            if product_dtype != sum_dtype:
                exact_NV = hidden_ND.new_empty(_longest(N, signal, block_rows), V, dtype=sum_dtype)
            for start, end in _ranges(N, signal, chunk_rows):
                chunk_ND = hidden_ND[start:end].to(product_dtype)
                logits_NV = torch.mm(chunk_ND, cast_VD.T, out=buffer_NV[: end - start])
                chunk_signal = None if signal is None else signal.rows(start, end)
                here = settings.rows(start, end)
                _chunk_loss(logits_NV, labels_N[start:end], chunk_signal, here, block_rows, exact_NV, totals)
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
        return *scaled, None, None, None, None, None


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

    def add(self, block: Block, labels_N: torch.Tensor, signal: BlockSignal | None) -> None:
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
    settings: BlockSettings,
    block_rows: int,
    exact_NV: torch.Tensor,
    totals: _Totals,
) -> None:
    """The losses of a chunk, block by block, added to the totals; the gradient takes the logits' place.

    Args:
        logits_NV: In the dtype of the products; overwritten.
        labels_N: The supervised ids.
        signal: The teacher's, or None.
        settings: Weights and the rest.
        block_rows: Positions of a block.
        exact_NV: Room for the rows of a block in the dtype of the sums, where it is another one.
        totals: What is added to.
    """
    for start, end in _ranges(len(labels_N), signal, block_rows):
        rows_NV = block_NV = logits_NV[start:end]
        if exact_NV.dtype != logits_NV.dtype:
            block_NV = exact_NV[: end - start].copy_(rows_NV)
        block_signal = None if signal is None else signal.rows(start, end)
        block = block_loss(block_NV, labels_N[start:end], block_signal, settings.rows(start, end))
        totals.add(block, labels_N[start:end], block_signal)
        if block.grad_NV.data_ptr() != rows_NV.data_ptr():  # of another dtype, or made anew
            rows_NV.copy_(block.grad_NV)
