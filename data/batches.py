"""Batches of clips of like length: which rows each rank sees at each step, as a pure function of the step."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from data.errors import InputError
from data.mixing import drawn

_ROWS_AT_ONCE = 65_536


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
    so a resumed run goes on exactly, and two ranks see together what one rank with twice the accumulation sees. A step
    that an epoch's last batches do not fill takes the first of the next epoch's: every epoch is seen whole.

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
        shards: The shard of each row, where they lie in shards: an epoch takes some shards after the other, in an order
            of its own, and makes its batches among their rows.
        buffer_rows: As many rows as these shards have at least.

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
        shards: np.ndarray | None = None,
        buffer_rows: int = 1,
    ) -> None:
        self.durations_s = np.asarray(durations_s, dtype=np.float64)
        self.text_tokens = np.asarray(text_tokens) if max_text_tokens else np.zeros(len(durations_s), np.int64)
        self.max_seconds, self.max_text_tokens, self.seed = max_seconds, max_text_tokens or 1, seed
        self.rank, self.world, self.accumulation, self.weights = rank, world, accumulation, weights
        self.shards, self.buffer_rows = shards, buffer_rows
        self._batches = lru_cache(maxsize=2)(self._make)
        first = self._batches(0)
        self._ends = [len(first)]
        """The batches up to each epoch's end, as far as they were made: epochs differ by a few."""
        self.steps_per_epoch = len(first) // (world * accumulation)
        """Of the first one."""
        if not self.steps_per_epoch:
            raise InputError(
                f"{len(self.durations_s)} clips make {len(first)} batches of {max_seconds} s, but one step "
                f"takes {world * accumulation}; give more data, or a smaller max_seconds"
            )

    def _make(self, epoch: int) -> list[np.ndarray]:
        """All batches of an epoch in shuffled order, for all ranks."""
        rng = np.random.default_rng((self.seed, epoch))
        rows = np.arange(len(self.durations_s)) if self.weights is None else drawn(self.weights, self.seed, epoch)
        return [batch for part in self._buffers(rows, epoch) for batch in self._batches_of(part, rng)]

    def _buffers(self, rows: np.ndarray, epoch: int) -> Iterator[np.ndarray]:
        """The rows among which batches are made: all, or those of some shards after the other."""
        if self.shards is None:
            yield rows
            return
        by_shard = np.argsort(self.shards[rows], kind="stable")
        numbers, starts = np.unique(self.shards[rows][by_shard], return_index=True)
        places_in = np.split(by_shard, starts[1:])
        buffer: list[np.ndarray] = []
        # A generator of its own: where one buffer holds all rows, the batches are those of loose files.
        for shard in np.random.default_rng((self.seed, epoch, 1)).permutation(len(numbers)):
            buffer.append(places_in[shard])
            if sum(map(len, buffer)) >= self.buffer_rows:
                yield rows[np.sort(np.concatenate(buffer))]
                buffer = []
        if buffer:
            yield rows[np.sort(np.concatenate(buffer))]

    def _batches_of(self, rows: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Shuffled batches of these rows."""
        if not len(rows):
            return []
        # What a row takes of both budgets, in seconds: neighbours are alike in length and in text.
        size = self.durations_s[rows] + self.text_tokens[rows] * (self.max_seconds / self.max_text_tokens)
        # Jitter of a tenth: neighbours change from epoch to epoch, padding stays small.
        order = rows[np.argsort(size * rng.uniform(0.9, 1.1, len(size)), kind="stable")]
        ends, clips, longest, most = [], 0, 0.0, 0
        for at, (seconds, tokens) in enumerate(self._lengths_of(order)):
            clips, longest, most = clips + 1, max(longest, seconds), max(most, tokens)
            if clips > 1 and (longest * clips > self.max_seconds or most * clips > self.max_text_tokens):
                ends.append(at)
                clips, longest, most = 1, seconds, tokens
        batches = np.split(order, ends)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _lengths_of(self, rows: np.ndarray) -> Iterator[tuple[float, int]]:
        """Seconds and text tokens, row after row.

        As numbers of Python's own, which are compared several times faster than numpy's one by one; not of all rows at
        once, as they take 80 bytes a row.
        """
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            yield from zip(self.durations_s[some].tolist(), self.text_tokens[some].tolist(), strict=True)

    def padding(self) -> tuple[float, float]:
        """The shares of an epoch's batches that are padding: of seconds of sound, and of text tokens where given."""
        batches = self._batches(0)
        shares = []
        for lengths in (self.durations_s, self.text_tokens):
            real = sum(lengths[batch].sum() for batch in batches)
            padded = sum(len(batch) * lengths[batch].max() for batch in batches)
            shares.append(float(1 - real / padded) if padded else 0.0)
        return shares[0], shares[1]

    def largest(self, text_tokens: Sequence[int] | None = None) -> list[list[int]]:
        """Those batches of the first epoch that take the most memory: of most seconds, of most clips, of most text.

        Args:
            text_tokens: Length of each row's text, whether it bounds a batch or not; None where there are no texts.
        """
        batches, lengths = self._batches(0), [self.durations_s, np.ones(len(self.durations_s))]
        if text_tokens is not None:
            lengths.append(np.asarray(text_tokens))
        padded = [[len(batch) * of[batch].max() for batch in batches] for of in lengths]
        return [batches[number].tolist() for number in dict.fromkeys(int(np.argmax(of)) for of in padded)]

    def step(self, step: int) -> list[list[int]]:
        """The micro-batches (row indices) of this rank at an optimizer step, counted from 0."""
        first = step * self.world * self.accumulation + self.rank
        return [self._batch(first + micro * self.world).tolist() for micro in range(self.accumulation)]

    def _batch(self, number: int) -> np.ndarray:
        """A batch by its number, counted from 0 through all epochs."""
        while number >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self._batches(len(self._ends))))
        epoch = bisect_right(self._ends, number)
        return self._batches(epoch)[number - (self._ends[epoch - 1] if epoch else 0)]
