"""What keeps a text from running on: one that goes in circles is stopped, and told from one that is cut at its cap."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import StoppingCriteria

_LONGEST = 40
"""Tokens of the longest circle that is looked for."""
_TIMES, _LEAST = 3, 12
"""A text goes in circles when it repeats what it has just written so often, and so many tokens of it."""


def repeated(ids: Sequence[int]) -> dict[int, int]:
    """By the length of a circle, how many tokens at the end are equal to those that stand as far before them."""
    found = {}
    for length in range(1, min(_LONGEST, len(ids) - 1) + 1):
        count = 0
        while count + length < len(ids) and ids[-1 - count] == ids[-1 - count - length]:
            count += 1
        if count:
            found[length] = count
    return found


def circling(ids: Sequence[int]) -> int:
    """How many tokens at the end of a text only repeat what stands before them; 0 of one that is not in circles."""
    counts = [count for length, count in repeated(ids).items() if count >= max(_TIMES * length, _LEAST)]
    return max(counts, default=0)


class StopsCircling(StoppingCriteria):
    """Ends each text that goes in circles."""

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Which texts (B) end here."""
        return torch.tensor([circling(ids) > 0 for ids in input_ids.tolist()], device=input_ids.device)


class Stops(StoppingCriteria):
    """Ends all texts once `now` is set: nobody waits for them any more."""

    now = False

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Which texts (B) end here."""
        return torch.full((len(input_ids),), self.now, device=input_ids.device)
