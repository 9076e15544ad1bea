"""Clips that cannot be read any more and are left out, until they are too many."""

from threading import Lock

from data.errors import InputError


class LeftOut:
    """Tells of each such clip once.

    Args:
        most: More of them end the run.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.quiet = False
        """Does not tell: another process does."""
        self._reasons: dict[str, str] = {}
        self._taken = 0
        self._lock = Lock()  # batches are made in threads

    def add(self, row_id: str, reason: str) -> None:
        """Leaves a row out.

        Raises:
            InputError: Too many are.
        """
        with self._lock:
            if row_id not in self._reasons:
                self._reasons[row_id] = reason
                if not self.quiet:
                    print(f"{len(self._reasons)} clips left out that cannot be read, the last: {reason}", flush=True)
            too_many = len(self._reasons) > self.most
        if too_many:
            raise InputError(f"more clips than data.faults.max_dropped cannot be read, the last: {reason}")

    def take_new(self) -> dict[str, str]:
        """Reasons by row, of those that were added since this was asked last."""
        with self._lock:
            new, self._taken = list(self._reasons.items())[self._taken :], len(self._reasons)
        return dict(new)
