"""What the teacher cache holds: sparse targets, rows, and the identity that says which teacher made them.

A cache folder is described in `data/cache_files.py`, written by `data/cache_writer.py`, read by `data/cache_reader.py`.

Shapes: N supervised positions, V vocabulary, K kept ids (padded), S kept ids of all positions, one after the other.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import torch

FORMAT_VERSION = 1
Target = Literal["reference", "hypothesis"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""The texts a teacher can be asked about: the annotation's own, and what the teacher itself wrote."""

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class SparseTargets:
    """The teacher's distribution over the next token at each supervised position of one text.

    What is not kept is one tail bucket; the kept probabilities are never renormalised, and kept + tail = 1.

    Attributes:
        token_ids: int32 [N], the supervised text, its end symbol included.
        ids: int32 [S], the kept ids of all positions in order, the most probable first within a position.
        logp: float32 [S], their log-probabilities at temperature 1, each a float16 number (as it is stored).
        counts: int32 [N], how many ids each position keeps; sums to S.
        tail: float32 [N], the probability of everything not kept.
    """

    token_ids: np.ndarray
    ids: np.ndarray
    logp: np.ndarray
    counts: np.ndarray
    tail: np.ndarray

    def __post_init__(self):
        N, S = len(self.token_ids), len(self.ids)
        if not (len(self.counts) == len(self.tail) == N and len(self.logp) == S == int(self.counts.sum())):
            raise ValueError(
                f"sparse targets do not fit together: {N} token ids, {len(self.counts)} counts that sum to "
                f"{int(self.counts.sum())}, {len(self.tail)} tails, {S} ids, {len(self.logp)} log-probabilities"
            )

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def from_logits(
        cls, logits_NV: torch.Tensor, token_ids_N: torch.Tensor | np.ndarray, *, top_p: float, top_k: int
    ) -> "SparseTargets":
        """The targets of one text: `sparsify` of the logits at the positions that predict `token_ids_N`."""
        (targets,) = sparsify(logits_NV, [np.asarray(torch.as_tensor(token_ids_N).cpu())], top_p=top_p, top_k=top_k)
        return targets


@torch.no_grad()
def sparsify(logits_NV: torch.Tensor, token_ids: list[np.ndarray], *, top_p: float, top_k: int) -> list[SparseTargets]:
    """Cuts teacher logits to sparse targets: the smallest set of ids whose mass reaches `top_p`, at most `top_k`.

    Runs on the device of the logits; nothing but the kept ids leaves it.

    Args:
        logits_NV: the logits of several texts' supervised positions, one text after the other; any float dtype.
        token_ids: the supervised ids of each text; their lengths sum to N.
        top_p: cumulative mass to keep, in (0, 1]; at 1 every id of non-zero probability under the cap is kept.
        top_k: the cap on kept ids a position.

    Returns:
        One `SparseTargets` a text.
    """
    if not (0 < top_p <= 1 and top_k >= 1):
        raise ValueError(f"top_p must be in (0, 1] and top_k at least 1, not {top_p} and {top_k}")
    lengths = [len(text) for text in token_ids]
    if sum(lengths) != len(logits_NV):
        raise ValueError(f"{len(logits_NV)} rows of logits for texts of {sum(lengths)} tokens")
    parts = [_cut(rows, top_p, min(top_k, logits_NV.shape[1])) for rows in logits_NV.split(_ROWS_AT_ONCE)]
    ids, logp, counts, tail = (np.concatenate(column) for column in zip(*parts, strict=True))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return [
        SparseTargets(
            token_ids=np.asarray(text, dtype=np.int32),
            ids=ids[offsets[start] : offsets[end]],
            logp=logp[offsets[start] : offsets[end]],
            counts=counts[start:end],
            tail=tail[start:end],
        )
        for text, start, end in zip(token_ids, starts, ends, strict=True)
    ]


def _cut(logits_NV: torch.Tensor, top_p: float, k: int) -> tuple[np.ndarray, ...]:
    """Kept ids [S], their log-probabilities [S], counts [N] and tail masses [N] of a few positions."""
    logits_NV = logits_NV.float()
    top_NK, ids_NK = logits_NV.topk(k, dim=1)
    logp_NK = top_NK - logits_NV.logsumexp(1, keepdim=True)
    mass_NK = logp_NK.double().exp()
    stored_NK = _stored(logp_NK)
    keep_NK = torch.isfinite(stored_NK)
    if top_p < 1:
        keep_NK &= mass_NK.cumsum(1) - mass_NK < top_p
    # The tail is what the ids as stored leave, so that a reader's buckets sum to one.
    tail_N = (1 - stored_NK.double().exp().mul(keep_NK).sum(1)).clamp(0, 1).float()
    return (
        ids_NK[keep_NK].int().cpu().numpy(),
        stored_NK[keep_NK].cpu().numpy(),
        keep_NK.sum(1).int().cpu().numpy(),
        tail_N.cpu().numpy(),
    )


def _stored(logp_NK: torch.Tensor) -> torch.Tensor:
    """Log-probabilities rounded to float16: to the nearest, or downwards where the nearest sum to more than one.

    float16 moves a probability by up to 0.05% for each unit of its logarithm: enough for a well-known token's kept
    ids to sum to more than one and leave a tail below zero. Rounded downwards they cannot.
    """
    half_NK = logp_NK.half()
    below_NK = (half_NK.view(torch.int16) + 1).view(torch.float16)  # of a negative number: one step away from zero
    below_NK = torch.where(half_NK.float() > logp_NK, below_NK, half_NK)
    too_much_N1 = half_NK.double().exp().sum(1, keepdim=True) > 1
    return torch.where(too_much_N1, below_NK, half_NK).float()


@dataclass(frozen=True, eq=False)
class CachedRow:
    """One clip: what the teacher was asked, what it wrote, and its distributions over the texts."""

    id: str
    task: str = field(metadata={"help": "what was asked for: asr, aac, ..."})
    prompt: str = field(metadata={"help": "the instruction's wording used"})
    reference: str | None = None
    hypothesis: str | None = None
    hypothesis_logp: float | None = None
    """Mean log-probability of the hypothesis's tokens."""
    hypothesis_wer: float | None = None
    """Against the reference; None where there is no reference."""
    targets: Mapping[Target, SparseTargets] = field(default_factory=dict)

    def __post_init__(self):
        unknown = set(self.targets) - set(TARGETS)
        if unknown:
            raise ValueError(f"row {self.id!r}: targets are for {TARGETS}, not {sorted(unknown)}")

    def sha256(self) -> bytes:
        """A digest of everything in the row."""
        texts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "targets"}
        digest = hashlib.sha256(_canonical(texts))
        for name in TARGETS:
            if name in self.targets:
                for f in fields(SparseTargets):
                    array = np.ascontiguousarray(getattr(self.targets[name], f.name))
                    digest.update(f"{name}.{f.name} {array.dtype.str} {len(array)} ".encode())
                    digest.update(array.tobytes())
        return digest.digest()


@dataclass(frozen=True)
class CacheIdentity:
    """What a cache was made from; each part a hash (see `hash_of`). Two caches with the same parts are the same."""

    teacher: str
    """The teacher's configuration and weights."""
    tokenizer: str
    prompts: str
    """The prompt set, its template included."""
    audio: str
    """The list of clips and how they are read."""
    targets: str
    """Which texts, which cut, which decoding."""
    format_version: int = FORMAT_VERSION

    def sha256(self) -> str:
        """One hash of all parts, carried by every shard."""
        return hash_of({f.name: getattr(self, f.name) for f in fields(self)})

    def differences(self, other: "CacheIdentity") -> list[str]:
        """The names of the parts in which `other` differs."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


def hash_of(value: Any) -> str:
    """SHA-256 (hexadecimal) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
