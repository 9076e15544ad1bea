"""Universal logit distillation: a teacher whose vocabulary is of another kind than the student's.

Ids of two vocabularies have nothing to do with each other, so probabilities are compared in falling order, whatever
they are of: the sum over ranks of |p - q|, the shorter of the two filled up with zeros (Boizard et al. 2024, arXiv
2402.12030: a Wasserstein distance in closed form). Where the two tokenise a text differently, positions are not
comparable either: each span that both cut alike (`distill/losses/alignment.py`) has one distribution of each.

What stands for a span of tokens a_1 ... a_n: the distribution of its first token, in which the outcome a_1 is split
into "the span is written", of probability p(a_1) c with c = p(a_2 | a_1) ... p(a_n | a_1 ... a_n-1), and "it begins so
and goes on otherwise", p(a_1) (1 - c). It sums to one, the outcome that both models share, the span's text, has its
own probability, and for a single token it is the distribution as it is. (TRL's GOLD multiplies the whole first
distribution by c instead, which is then no distribution: a student that needs two tokens where the teacher needs one
could come near it only by being certain of its second.) The end symbols are a span of their own.

What the cache left out: ids that are not kept are known by their sum and by the least kept one, which none of them
exceeds. The ranks above are compared one by one, the rest as one outcome, student's and teacher's: by the triangle
inequality never more than the exact distance, and equal to it where the whole vocabulary is kept. (Spread evenly, the
tail would claim a shape that nobody saw, and cost a sort of the vocabulary.) A later token of a span that is not kept
counts as impossible, c = 0: its probability is at most that of the least kept id.

Shapes: N supervised positions (of a chunk, in the function that says so), S spans, V student's vocabulary, K ranks.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.cache.targets import SparseTargets
from distill.losses.alignment import Span


@dataclass(frozen=True)
class SpanSignal:
    """A teacher of another vocabulary at N of the student's positions; a `CachedSignal` (`distill/losses/signals.py`).

    Attributes:
        p_SK: float, the most probable outcomes of each span in falling order; 0 at padding.
        tail_S: float, the probability of all other outcomes.
        spans: the student's positions of each span, from the first to before the last; in order.
        positions: N.
    """

    p_SK: torch.Tensor
    tail_S: torch.Tensor
    spans: tuple[tuple[int, int], ...]
    positions: int

    @classmethod
    def collate(
        cls, samples: Sequence[SparseTargets], aligned: Sequence[list[Span]], lengths: Sequence[int]
    ) -> "SpanSignal":
        """The cached targets of a batch's texts as one signal on the CPU.

        Args:
            samples: the teacher's targets of each text.
            aligned: the spans of each text.
            lengths: the student's tokens of each text, end symbol included.
        """
        outcomes, places, start = [], [], 0
        for targets, of_text, length in zip(samples, aligned, lengths, strict=True):
            offsets = np.concatenate([[0], np.cumsum(targets.counts)])
            for span in of_text:
                outcomes.append(span_outcomes(targets, offsets, span.teacher_start, span.teacher_end))
                places.append((start + span.student_start, start + span.student_end))
            start += length
        p_SK = np.zeros((len(outcomes), max((len(p_K) for p_K, _ in outcomes), default=1) or 1), np.float32)
        for row_K, (p_K, _) in zip(p_SK, outcomes, strict=True):
            row_K[: len(p_K)] = p_K
        tail_S = np.array([tail for _, tail in outcomes], np.float32)
        return cls(torch.from_numpy(p_SK), torch.from_numpy(tail_S), tuple(places), start)

    def __len__(self) -> int:
        return self.positions

    def kept_mass(self) -> float:
        """What the tails leave, summed over spans."""
        return len(self.spans) - float(self.tail_S.double().sum())

    def rows(self, start: int, end: int) -> "SpanSignal":
        """The signal of some positions, which cut no span (see `chunks`)."""
        end = min(end, self.positions)
        first, last = bisect_left(self.spans, (start,)), bisect_left(self.spans, (end,))
        spans = tuple((a - start, b - start) for a, b in self.spans[first:last])
        return SpanSignal(self.p_SK[first:last], self.tail_S[first:last], spans, end - start)

    def chunks(self, limit: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `limit` positions that cut no span; a longer span is a range of its own."""
        inside = {at for start, end in self.spans for at in range(start + 1, end)}
        start = 0
        while start < self.positions:
            end = min(start + limit, self.positions)
            while end in inside and end > start:
                end -= 1
            if end == start:
                end = next(at for at in range(start + 1, self.positions + 1) if at not in inside)
            yield start, end
            start = end

    def to(self, device: torch.device | str) -> "SpanSignal":
        """The signal on a device."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.p_SK, self.tail_S))
        return SpanSignal(*moved, self.spans, self.positions)

    def top1_N(self) -> torch.Tensor:
        """int64 [N], all -1: the teacher's ids are none of the student's."""
        return torch.full((self.positions,), -1, device=self.p_SK.device)


def span_outcomes(targets: SparseTargets, offsets: np.ndarray, start: int, end: int) -> tuple[np.ndarray, float]:
    """The teacher's probabilities over a span's outcomes, the most probable first, and the rest (see the file's top).

    Args:
        targets: The text's.
        offsets: Of the ids that each position keeps, N + 1.
        start: First token of the span.
        end: The one after its last.

    Returns:
        Probabilities in falling order (float64, none of them 0), and the probability of all other outcomes.
    """

    def kept(position: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities kept at a position; and which of them, one or none, is the text's own token's."""
        of = slice(offsets[position], offsets[position + 1])
        return np.exp(targets.logp[of].astype(np.float64)), targets.ids[of] == targets.token_ids[position]

    p_K, own_K = kept(start)
    tail = float(targets.tail[start])
    least = p_K.min(initial=1.0) if tail > 0 else 0.0
    if end - start > 1 and own_K.any():
        later = 1.0
        for position in range(start + 1, end):
            q_K, is_own_K = kept(position)
            later *= float(q_K[is_own_K].sum())
        p_K = np.concatenate([p_K[~own_K], p_K[own_K] * later, p_K[own_K] * (1 - min(later, 1.0))])
    # An id that is not kept may be more probable than an outcome below the least kept one: that has no rank.
    ranked_K = (p_K >= least) & (p_K > 0)
    return np.sort(p_K[ranked_K])[::-1], tail + float(p_K[~ranked_K].sum())


def span_loss(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, signal: SpanSignal, *, ce_weight: float, kd_weight: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy and sorted distance of a chunk's spans; their gradient takes the logits' buffer.

    Args:
        logits_NV: the student's; overwritten.
        labels_N: int64, the supervised ids.
        signal: the teacher's, of whole spans.
        ce_weight: weight of the cross-entropy.
        kd_weight: weight of the distance.

    Returns:
        Cross-entropy [N], distance of each span [S], the student's most probable ids [N], and the gradient of the
        weighted loss by the logits [N, V].
    """
    V = logits_NV.shape[1]
    best_N1, top1_N1 = logits_NV.max(1, keepdim=True)
    label_N1 = logits_NV.gather(1, labels_N[:, None]) - best_N1
    q_NV = logits_NV.sub_(best_N1).exp_()
    sum_N1 = q_NV.sum(1, keepdim=True)
    q_NV.div_(sum_N1)
    label_logq_N = (label_N1 - sum_N1.log()).squeeze(1)
    first_S, later_M, span_M = _places(signal, q_NV.device)

    # 1. The student's outcomes: its first token's, the text's own split by what comes after it; the K largest.
    log_later_S = label_logq_N.new_zeros(len(first_S)).index_add_(0, span_M, label_logq_N[later_M])
    later_S1, label_S1 = log_later_S.exp()[:, None], labels_N[first_S][:, None]
    q_SV = q_NV[first_S]
    own_S1 = q_SV.gather(1, label_S1)
    q_SV.scatter_(1, label_S1, own_S1 * later_S1)
    p_SK = signal.p_SK.to(q_NV.dtype)
    q_SK, id_SK = _largest(q_SV, own_S1 * -log_later_S.expm1()[:, None], p_SK.shape[1])
    ranked_SK = p_SK > 0
    q_SK = q_SK.masked_fill(~ranked_SK, 0)
    rest_S = (1 - q_SK.sum(1)).clamp(min=0)

    # 2. The distance, and its derivative by each outcome: a sign, the rest's or another one.
    over_SK, over_S = q_SK - p_SK, rest_S - signal.tail_S.to(q_NV.dtype)
    kd_S = over_SK.abs().sum(1) + over_S.abs()
    sign_SK, sign_S1 = over_SK.sign(), over_S.sign()[:, None]
    mean_S1 = (q_SK * sign_SK).sum(1, keepdim=True) + rest_S[:, None] * sign_S1
    other_SK = (sign_SK - sign_S1).masked_fill(~ranked_SK, 0)
    is_own_SK, departs_SK = id_SK == label_S1, id_SK == V
    by_span_S1, by_departing_S1 = (
        (other_SK * which_SK).sum(1, keepdim=True) + sign_S1 for which_SK in (is_own_SK, departs_SK)
    )
    by_own_S1 = by_span_S1 * later_S1 + by_departing_S1 * (1 - later_S1)
    by_later_S1 = own_S1 * later_S1 * (by_span_S1 - by_departing_S1)

    # 3. By the logits: of a first token through its softmax; later ones through the log-probability of their label.
    label_weight_N = label_logq_N.new_full((len(labels_N),), ce_weight)
    label_weight_N[later_M] -= kd_weight * by_later_S1.squeeze(1)[span_M]
    weight_N = label_weight_N.index_add(0, first_S, kd_weight * (sign_S1 - mean_S1).squeeze(1))
    grad_NV = q_NV.mul_(weight_N[:, None])
    plain_SK = is_own_SK | (id_SK >= V)
    by_id_SK = (kd_weight * q_SK * other_SK).masked_fill(plain_SK, 0)
    rows_SK = first_S[:, None].expand_as(id_SK)
    grad_NV.index_put_((rows_SK, id_SK.masked_fill(plain_SK, 0)), by_id_SK, accumulate=True)
    at_label_N = (-label_weight_N).index_add_(0, first_S, (kd_weight * own_S1 * (by_own_S1 - sign_S1)).squeeze(1))
    grad_NV.scatter_add_(1, labels_N[:, None], at_label_N[:, None])
    return -label_logq_N, kd_S, top1_N1.squeeze(1), grad_NV


def _places(signal: SpanSignal, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions: each span's first [S]; all spans' later ones [M], and their spans [M]."""
    first = [start for start, _ in signal.spans]
    later = [(at, span) for span, (start, end) in enumerate(signal.spans) for at in range(start + 1, end)]
    later_2M = torch.tensor(later, dtype=torch.int64).reshape(-1, 2).T.to(device)
    return torch.tensor(first, dtype=torch.int64, device=device), later_2M[0], later_2M[1]


def _largest(q_SV: torch.Tensor, departs_S1: torch.Tensor, K: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The K largest outcomes and their ids; "goes on otherwise" has id V, and V + 1 is what fills up to K."""
    S, V = q_SV.shape
    q_SK, id_SK = q_SV.topk(min(K, V), dim=1)
    q_SK, at_SK = torch.cat([q_SK, departs_S1], 1).topk(min(K, V + 1), dim=1)
    id_SK = torch.cat([id_SK, id_SK.new_full((S, 1), V)], 1).gather(1, at_SK)
    missing = K - q_SK.shape[1]
    pad = torch.nn.functional.pad
    return (pad(q_SK, (0, missing)), pad(id_SK, (0, missing), value=V + 1)) if missing else (q_SK, id_SK)
