"""What the teacher cache holds of a text: sparse targets, the most probable ids or drawn ones.

A cache folder is described in `data/cache/files.py`, written by `data/cache/writer.py`, read by `data/cache/reader.py`.

Shapes: N supervised positions, V vocabulary, K kept ids (padded), S kept ids of all positions, one after the other.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch

MAX_DRAWS = 1000
"""Of many more, float16 could not tell the counts apart."""
Target = Literal["reference", "hypothesis"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""The texts a teacher can be asked about: the annotation's own, and what the teacher itself wrote."""
Feature = Literal["encoder", "audio_tokens", "beats"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
"""What can be kept of the way there: the speech encoder's states, the tokens that the LLM hears."""

_ROWS_AT_ONCE = 256
_PROBABILITY_WITHIN, _LOGARITHM_WITHIN = 2e-4, 1 / 16


@dataclass(frozen=True, eq=False)
class SparseTargets:
    """The teacher's distribution over the next token at each supervised position of one text.

    Either its most probable ids, whose probabilities are never renormalised: what they leave is one tail bucket. Or
    ids drawn at random, each with its share of the draws: there is no tail then, and the mean over draws is exact.

    Attributes:
        token_ids: int32 [N], the supervised text, its end symbol included.
        ids: int32 [S], the kept ids of all positions in order, the most probable first within a position.
        logp: float32 [S], their log-probabilities at temperature 1, each a float16 number (as it is stored); of
            drawn ids, the logarithm of their share.
        counts: int32 [N], how many ids each position keeps; sums to S.
        draws: How many ids were drawn at each position; None where the most probable are kept.
    """

    token_ids: np.ndarray
    ids: np.ndarray
    logp: np.ndarray
    counts: np.ndarray
    draws: int | None = None

    def __post_init__(self):
        N, S = len(self.token_ids), len(self.ids)
        if not (len(self.counts) == N and len(self.logp) == S == int(self.counts.sum())):
            raise ValueError(
                f"sparse targets do not fit together: {N} token ids, {len(self.counts)} counts that sum to "
                f"{int(self.counts.sum())}, {S} ids, {len(self.logp)} log-probabilities"
            )

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def tail(self) -> np.ndarray:
        """float32 [N], the probability of everything not kept: what the ids as stored leave."""
        if self.draws is not None:
            return np.zeros(len(self), np.float32)
        positions_S = np.repeat(np.arange(len(self)), self.counts)
        mass_N = np.bincount(positions_S, np.exp(self.logp.astype(np.float64)), minlength=len(self))
        return np.clip(1 - mass_N, 0, 1).astype(np.float32)

    @property
    def half(self) -> np.ndarray:
        """float16 [S], the log-probabilities as they are stored."""
        return self.logp.astype(np.float16)

    @classmethod
    def from_logits(
        cls, logits_NV: torch.Tensor, token_ids_N: torch.Tensor | np.ndarray, **cut: float
    ) -> "SparseTargets":
        """The targets of one text: `sparsify` of the logits at the positions that predict `token_ids_N`."""
        (targets,) = sparsify(logits_NV, [np.asarray(torch.as_tensor(token_ids_N).cpu())], **cut)
        return targets


@torch.no_grad()
def sparsify(
    logits_NV: torch.Tensor, token_ids: list[np.ndarray], *, top_p: float, top_k: int, min_p: float = 0.0
) -> list[SparseTargets]:
    """Cuts teacher logits to sparse targets: the smallest set of ids whose mass reaches `top_p`, at most `top_k`, and
    of these the most probable one and those of at least `min_p`.

    Runs on the device of the logits; nothing but the kept ids leaves it.

    Args:
        logits_NV: the logits of several texts' supervised positions, one text after the other; any float dtype.
        token_ids: the supervised ids of each text; their lengths sum to N.
        top_p: cumulative mass to keep, in (0, 1]; at 1 every id of non-zero probability under the cap is kept.
        top_k: the cap on kept ids a position.
        min_p: the least probability worth keeping; for as many ids, a cut here costs the gradient least.

    Returns:
        One `SparseTargets` a text.
    """
    if not (0 < top_p <= 1 and top_k >= 1 and 0 <= min_p < 1):
        raise ValueError(
            f"top_p must be in (0, 1], top_k at least 1 and min_p in [0, 1), not {top_p}, {top_k} and {min_p}"
        )
    _require_fit(logits_NV, token_ids)
    parts = [_cut(rows_NV, top_p, min(top_k, logits_NV.shape[1]), min_p) for rows_NV in logits_NV.split(_ROWS_AT_ONCE)]
    return _by_text(token_ids, parts)


@torch.no_grad()
def draw(logits_NV: torch.Tensor, token_ids: list[np.ndarray], *, draws: int, seeds: list[int]) -> list[SparseTargets]:
    """Sparse targets of ids drawn with replacement: an unbiased estimate (Anshumann et al. 2025, "Sparse Logit
    Sampling").

    Args:
        logits_NV: the logits of several texts' supervised positions, one text after the other; any float dtype.
        token_ids: the supervised ids of each text; their lengths sum to N.
        draws: ids drawn at each position, at most 1,000.
        seeds: one for each text, of which alone its draws depend.

    Returns:
        One `SparseTargets` a text.
    """
    if not 1 <= draws <= MAX_DRAWS:
        raise ValueError(f"draws must be in 1 to {MAX_DRAWS}, not {draws}")
    _require_fit(logits_NV, token_ids)
    uniform = [
        torch.rand(len(text), draws, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for text, seed in zip(token_ids, seeds, strict=True)
    ]
    uniform_ND = torch.cat([torch.zeros(0, draws, dtype=torch.float64), *uniform])
    chunks = zip(logits_NV.split(_ROWS_AT_ONCE), uniform_ND.split(_ROWS_AT_ONCE), strict=True)
    return _by_text(token_ids, [_draw(rows_NV, of_ND) for rows_NV, of_ND in chunks], draws)


def counted(logp_S: np.ndarray, draws: int) -> np.ndarray:
    """Logarithms of shares of the draws, exact again after they were rounded to float16."""
    return np.log(np.rint(np.exp(logp_S.astype(np.float64)) * draws) / draws).astype(np.float32)


def _require_fit(logits_NV: torch.Tensor, token_ids: list[np.ndarray]) -> None:
    tokens = sum(map(len, token_ids))
    if tokens != len(logits_NV):
        raise ValueError(f"{len(logits_NV)} rows of logits for texts of {tokens} tokens")
    # Of impossible ids the logits may be minus infinity; NaN and plus infinity say nothing of any id.
    if not torch.isfinite(logits_NV.amax(1)).all():
        raise FloatingPointError("logits are NaN or infinite")


def _by_text(
    token_ids: list[np.ndarray], parts: list[tuple[np.ndarray, ...]], draws: int | None = None
) -> list[SparseTargets]:
    """Ids [S], log-probabilities [S] and counts [N] of all positions, dealt out to the texts."""
    lengths = [len(text) for text in token_ids]
    ids, logp, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    ends = np.cumsum(lengths)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return [
        SparseTargets(
            token_ids=np.asarray(text, dtype=np.int32),
            ids=ids[offsets[start] : offsets[end]],
            logp=logp[offsets[start] : offsets[end]],
            counts=counts[start:end],
            draws=draws,
        )
        for text, start, end in zip(token_ids, ends - lengths, ends, strict=True)
    ]


def _cut(logits_NV: torch.Tensor, top_p: float, k: int, min_p: float) -> tuple[np.ndarray, ...]:
    """Kept ids [S], their log-probabilities [S] and counts [N] of a few positions."""
    logits_NV = logits_NV.float()
    top_NK, ids_NK = logits_NV.topk(k, dim=1)
    logp_NK = top_NK - logits_NV.logsumexp(1, keepdim=True)
    mass_NK = logp_NK.double().exp()
    stored_NK = _stored(logp_NK)
    keep_NK = torch.isfinite(stored_NK)
    if top_p < 1:
        keep_NK &= mass_NK.cumsum(1) - mass_NK < top_p
    keep_NK[:, 1:] &= mass_NK[:, 1:] >= min_p
    return ids_NK[keep_NK].int().cpu().numpy(), stored_NK[keep_NK].cpu().numpy(), keep_NK.sum(1).int().cpu().numpy()


def _draw(logits_NV: torch.Tensor, uniform_ND: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Drawn ids [S], the logarithms of their shares [S] and counts [N] of a few positions."""
    V, draws = logits_NV.shape[1], uniform_ND.shape[1]
    cumulative_NV = logits_NV.double().softmax(1).cumsum(1)
    drawn_ND = torch.searchsorted(
        cumulative_NV, uniform_ND.to(logits_NV.device) * cumulative_NV[:, -1:], right=True
    ).clamp(max=V - 1)
    position_and_id = (torch.arange(len(logits_NV), device=logits_NV.device)[:, None] * V + drawn_ND).cpu().numpy()
    keys, times = np.unique(position_and_id, return_counts=True)
    order = np.lexsort((keys, -times, keys // V))  # the most drawn first within a position
    counts = np.bincount(keys // V, minlength=len(logits_NV)).astype(np.int32)
    return (keys % V)[order].astype(np.int32), np.log(times[order] / draws).astype(np.float32), counts


def _stored(logp_NK: torch.Tensor) -> torch.Tensor:
    """Log-probabilities as they are stored: float16, with as few bits as leave a probability within 2e-4.

    (And its logarithm within 1/16. Ids of one probability are off in one direction: a hundred equal ones sum to 0.980,
    a thousand to 0.912, and the tail has the rest.) What is rounded away is zeros in the file, which are compressed to
    nothing; 2e-4 is what float16 itself is off by, where it is coarsest. Rounded to the nearest, or downwards, up to
    twice as far, where the nearest sum to more than one: that would leave a tail below zero.
    """
    size_NK = logp_NK.double().neg().clamp(min=0)
    half_NK = size_NK.half()
    bits_NK = half_NK.view(torch.int16).int()
    spacing_NK = torch.exp2(size_NK.clamp(min=2**-14).log2().floor() - 10)
    allowed_NK = (_PROBABILITY_WITHIN * size_NK.exp()).clamp(max=_LOGARITHM_WITHIN)
    spare_NK = (2 * allowed_NK / spacing_NK).log2().floor().clamp(0, 8).int()  # the low byte at most
    step_NK = torch.ones_like(spare_NK) << spare_NK
    nearest_NK = (bits_NK + step_NK // 2) & -step_NK
    larger_NK = (bits_NK + (half_NK.double() < size_NK).int() + step_NK - 1) & -step_NK

    def value(of_NK: torch.Tensor) -> torch.Tensor:
        finite_NK = of_NK.to(torch.int16).view(torch.float16).float().neg()
        return torch.where(torch.isfinite(logp_NK), finite_NK, -torch.inf)

    too_much_N1 = value(nearest_NK).double().exp().sum(1, keepdim=True) > 1
    return torch.where(too_much_N1, value(larger_NK), value(nearest_NK))
