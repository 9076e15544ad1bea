"""The texts of a batch while they are written: each goes to whoever waits for it, and ends where nobody does.

Letters: B texts, R rows that are continued together (B x beams).
"""

from collections.abc import Callable, Sequence
from time import monotonic

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from student.use.streaming import TextStreamer


class Rows(BaseStreamer):
    """Takes the ids of a batch, as greedy search writes them.

    Args:
        streamers: One for each text, or None where it is not wanted live.
        first: Called at the first token.

    Attributes:
        steps: Further tokens of the longest text.
        seconds: That they took.
    """

    def __init__(self, streamers: Sequence[TextStreamer | None], first: Callable[[], None]) -> None:
        self._streamers, self._first, self._began = streamers, first, 0.0
        self.steps, self.seconds = 0, 0.0

    def put(self, value: Tensor) -> None:
        """Takes the next ids (B); the first ones are those of the prompt, of which there are none."""
        if not value.numel():
            return
        if not self._began:
            self._began = monotonic()
            self._first()
        else:
            self.steps, self.seconds = self.steps + 1, monotonic() - self._began
        for streamer, id_1 in zip(self._streamers, value.flatten().split(1), strict=True):
            if streamer is not None:
                streamer.put(id_1)

    def end(self) -> None:
        """The rest is said by who knows the whole texts."""


class EndsGone(StoppingCriteria):
    """Ends each text that nobody waits for any more.

    Args:
        gone: Says of each text whether it is one.
    """

    def __init__(self, gone: Callable[[], list[bool]]) -> None:
        self._gone = gone

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Which rows (R) end here."""
        gone_B = torch.tensor(self._gone(), device=input_ids.device)
        return gone_B.repeat_interleave(len(input_ids) // len(gone_B))
