"""Batches of clips of like length: which rows each rank sees at each step, as a pure function of the step."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data.errors import InputError
from data.mixing import drawn


def batches_by_length(durations_s: Sequence[float], max_seconds: float) -> list[list[int]]:
    """Row indices in batches of like length, the longest first, each within `max_seconds` of padded audio."""
    batches: list[list[int]] = []
    for row in sorted(range(len(durations_s)), key=lambda i: -durations_s[i]):
        if batches and durations_s[batches[-1][0]] * (len(batches[-1]) + 1) <= max_seconds:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class LengthBatches:
    """Deterministic batches under a budget of padded seconds, and one of padded text where it is given.

    Nothing is remembered between steps: the micro-batches of a step follow from seed, step, rank and world alone,
    so a resumed run goes on exactly, and two ranks see together what one rank with twice the accumulation sees.

    Args:
        durations_s: Length of each row's clip, seconds.
        max_seconds: Budget of a micro-batch: its clips times its longest clip.
        seed: Shuffles rows and batches, anew each epoch.
        rank: This process.
        world: Processes.
        accumulation: Micro-batches of one rank in one optimizer step.
        text_tokens: Length of each row's text, where `max_text_tokens` bounds it.
        max_text_tokens: Budget of a micro-batch: its clips times its longest text.
        weights: How often each row is seen in an epoch (`data/mixing.py`); all once if not given.

    Raises:
        InputError: There are fewer batches than one step needs.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        *,
        max_seconds: float,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        text_tokens: Sequence[int] = (),
        max_text_tokens: int | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.durations_s = np.asarray(durations_s, dtype=np.float64)
        self.text_tokens = np.asarray(text_tokens if max_text_tokens else [0] * len(durations_s))
        self.max_seconds, self.max_text_tokens, self.seed = max_seconds, max_text_tokens or 1, seed
        self.rank, self.world, self.accumulation, self.weights = rank, world, accumulation, weights
        self._batches = lru_cache(maxsize=2)(self._make)
        # Later epochs come out a few batches longer or shorter; the first one's count holds for all.
        self.steps_per_epoch = len(self._make(0)) // (world * accumulation)
        if not self.steps_per_epoch or not self._make(0)[0]:
            raise InputError(
                f"{len(self.durations_s)} clips make {len(self._make(0))} batches of {max_seconds} s, but one step "
                f"takes {world * accumulation}; give more data, or a smaller max_seconds"
            )

    def _make(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch in shuffled order, for all ranks."""
        rng = np.random.default_rng((self.seed, epoch))
        # What a row takes of both budgets, in seconds: neighbours are alike in length and in text.
        size = self.durations_s + self.text_tokens * (self.max_seconds / self.max_text_tokens)
        rows = np.arange(len(size)) if self.weights is None else drawn(self.weights, self.seed, epoch)
        # Jitter of a tenth: neighbours change from epoch to epoch, padding stays small.
        order = rows[np.argsort(size[rows] * rng.uniform(0.9, 1.1, len(rows)), kind="stable")]
        batches, seconds, tokens = [[]], 0.0, 0
        for row in order:
            clips = len(batches[-1]) + 1
            seconds, tokens = max(seconds, self.durations_s[row]), max(tokens, self.text_tokens[row])
            if clips > 1 and (seconds * clips > self.max_seconds or tokens * clips > self.max_text_tokens):
                batches.append([])
                seconds, tokens = self.durations_s[row], self.text_tokens[row]
            batches[-1].append(int(row))
        return [batches[i] for i in rng.permutation(len(batches))]

    def step(self, step: int) -> list[list[int]]:
        """The micro-batches (row indices) of this rank at an optimizer step, counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        batches = self._batches(epoch)
        first = within * self.world * self.accumulation
        return [
            # Wraps round where an epoch came out shorter than the first.
            batches[(first + micro * self.world + self.rank) % len(batches)]
            for micro in range(self.accumulation)
        ]
