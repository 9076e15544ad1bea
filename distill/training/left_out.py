"""Clips that cannot be read any more and are left out, until they are too many."""

from collections.abc import Collection
from threading import Lock

import torch.distributed as dist

from data.errors import InputError


class LeftOut:
    """Tells of each such clip once.

    Each rank meets clips of its own, other ones in each epoch. What counts is how many different ones all have met, so
    ranks tell each other of new ones (`share`), which are few.

    Args:
        most: More of them end the run.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.quiet = False
        """Does not tell: another process does."""
        self._reasons: dict[str, str] = {}
        self._new: dict[str, str] = {}
        self._of_all: set[str] = set()
        self._lock = Lock()  # batches are made in threads

    def add(self, row_id: str, reason: str) -> None:
        """Leaves a row out.

        Raises:
            InputError: Too many are.
        """
        with self._lock:
            if row_id not in self._reasons:
                self._reasons[row_id] = self._new[row_id] = reason
                if not self.quiet:
                    print(f"{len(self._reasons)} clips left out that cannot be read, the last: {reason}", flush=True)
            self._require_few(self._reasons, reason)

    def take_new(self) -> dict[str, str]:
        """Reasons by row, of those that were added since this was asked last."""
        with self._lock:
            new, self._new = self._new, {}
        return new

    @property
    def new(self) -> int:
        """How many of this rank's the others have not been told of."""
        return len(self._new)

    @property
    def of_all(self) -> list[str]:
        """Ids of what all ranks know to be left out."""
        return sorted(self._of_all)

    def share(self) -> None:
        """Tells all ranks of what is new on any; all take part.

        Raises:
            InputError: Too many are left out on all ranks together; on every rank.
        """
        told: list[dict[str, str]] = [{}] * dist.get_world_size()
        dist.all_gather_object(told, self.take_new())
        reasons = {row_id: reason for of in told for row_id, reason in of.items()}
        self._of_all |= reasons.keys()
        with self._lock:
            self._reasons = reasons | self._reasons  # the others tell of theirs
        self._require_few(self._of_all, next(reversed(reasons.values()), ""))

    def _require_few(self, left_out: Collection[str], last: str) -> None:
        if len(left_out) > self.most:
            raise InputError(f"more clips than data.faults.max_dropped cannot be read, the last: {last}")
