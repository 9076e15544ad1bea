"""What a teacher says at the supervised positions: dense logits from memory, or sparse targets from the cache.

Shapes: N supervised positions, V vocabulary, K kept ids (padded).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from data.cache.targets import SparseTargets


class TeacherSignal(Protocol):
    """The teacher at N supervised positions. The loss asks for the rows of a chunk: dense or sparse ones."""

    def __len__(self) -> int:
        """N."""

    def rows(self, start: int, end: int) -> "TeacherSignal":
        """The signal of some positions."""


class CachedSignal(TeacherSignal, Protocol):
    """What the cache says of N supervised positions."""

    def to(self, device: torch.device | str) -> "CachedSignal":
        """The signal on a device."""

    def kept_mass(self) -> float:
        """The probability of the outcomes that it names, summed over what is distilled: positions, or spans of them."""


@dataclass(frozen=True)
class DenseSignal:
    """A teacher in memory.

    Attributes:
        logits_NV: its logits, any float dtype.
    """

    logits_NV: torch.Tensor

    def __len__(self) -> int:
        return len(self.logits_NV)

    def rows(self, start: int, end: int) -> "DenseSignal":
        """The signal of some positions."""
        return DenseSignal(self.logits_NV[start:end])

    def top1_N(self) -> torch.Tensor:
        """int64 [N], the teacher's most probable ids."""
        return self.logits_NV.argmax(1)


@dataclass(frozen=True)
class HeadSignal:
    """A teacher in memory, up to its head: its logits are made for the rows that are asked for, and not kept.

    Attributes:
        hidden_ND: its last hidden states.
        head_VD: its head's weight, of the same dtype.
        vocab_size: rows of the student's head; those past the teacher's only pad the same vocabulary, and have
            probability 0.
    """

    hidden_ND: torch.Tensor
    head_VD: torch.Tensor
    vocab_size: int

    def __len__(self) -> int:
        return len(self.hidden_ND)

    def rows(self, start: int, end: int) -> DenseSignal:
        """The logits of some positions."""
        logits_NV = self.hidden_ND[start:end] @ self.head_VD.T
        if padding := self.vocab_size - logits_NV.shape[1]:
            logits_NV = torch.nn.functional.pad(logits_NV, (0, padding), value=-torch.inf)
        return DenseSignal(logits_NV)


@dataclass(frozen=True)
class SparseSignal:
    """A teacher's kept ids and one tail bucket for all others, at temperature 1.

    Attributes:
        ids_NK: int64, the kept ids; any valid id at padding.
        logp_NK: float, their log-probabilities; -inf at padding. An id occurs once in a row.
        tail_N: float, the probability of everything else.
        largest_id: no id is above this one (known without asking the device).
    """

    ids_NK: torch.Tensor
    logp_NK: torch.Tensor
    tail_N: torch.Tensor
    largest_id: int

    @classmethod
    def collate(cls, samples: Sequence[SparseTargets]) -> "SparseSignal":
        """The targets of a batch, one sample after the other."""
        counts_N = np.concatenate([np.zeros(0, np.int32), *(sample.counts for sample in samples)])
        kept_NK = np.arange(counts_N.max(initial=1)) < counts_N[:, None]
        ids_NK = np.zeros(kept_NK.shape, np.int64)
        logp_NK = np.full(kept_NK.shape, -np.inf, np.float32)
        if samples:
            ids_NK[kept_NK] = np.concatenate([sample.ids for sample in samples])
            logp_NK[kept_NK] = np.concatenate([sample.logp for sample in samples])
        tail_N = np.concatenate([np.zeros(0, np.float32), *(sample.tail for sample in samples)])
        return cls(
            torch.from_numpy(ids_NK),
            torch.from_numpy(logp_NK),
            torch.from_numpy(tail_N),
            largest_id=int(ids_NK.max(initial=0)),
        )

    def __len__(self) -> int:
        return len(self.ids_NK)

    def rows(self, start: int, end: int) -> "SparseSignal":
        """The signal of some positions."""
        return SparseSignal(self.ids_NK[start:end], self.logp_NK[start:end], self.tail_N[start:end], self.largest_id)

    def to(self, device: torch.device | str) -> "SparseSignal":
        """The signal on a device."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.ids_NK, self.logp_NK, self.tail_N))
        return SparseSignal(*moved, self.largest_id)

    def top1_N(self) -> torch.Tensor:
        """int64 [N], the teacher's most probable kept ids; -1 where none is kept."""
        best_N1, at_N1 = self.logp_NK.max(1, keepdim=True)
        return torch.where(best_N1 > -torch.inf, self.ids_NK.gather(1, at_N1), -1).squeeze(1)

    def kept_mass(self) -> float:
        """What the tails leave."""
        return len(self) - float(self.tail_N.double().sum())
