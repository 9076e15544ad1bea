"""How many requests are taken at once: each holds a place from its head to its last byte."""

import math

from student.serve.errors import ApiError

_LONGEST_WAIT_S = 60
"""Clients take no longer one for meant."""


class Places:
    """Places that are counted; of one event loop.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self.count, self.taken, self.closed = count, 0, False
        self.wait_s = 1.0
        """After which a place will probably be free: the time of a batch."""

    def take(self) -> None:
        """Takes one.

        Raises:
            ApiError: There is none, or the server is stopping.
        """
        self.require_open()
        if self.taken >= self.count:
            wait = min(max(math.ceil(self.wait_s), 1), _LONGEST_WAIT_S)
            raise ApiError(
                429, f"{self.count} requests wait already; try again in {wait} s", code="queue_full", retry_s=wait
            )
        self.taken += 1

    def give_back(self) -> None:
        """Frees it."""
        self.taken -= 1

    def require_open(self) -> None:
        """Refuses once the server is stopping.

        Raises:
            ApiError: It is.
        """
        if self.closed:
            raise ApiError(503, "the server is stopping; ask another one", code="stopping")
