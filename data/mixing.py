"""How often the rows of a corpus or a task are seen: a weight each, drawn anew each epoch."""

import numpy as np
from pydantic import Field

from data.errors import InputError
from data.rows.manifest import Manifest
from data.settings import Settings


class MixSettings(Settings):
    """Rows of a corpus and a task, and how often they are seen; of several that fit a row, the first counts."""

    corpus: str | None = Field(None, description="rows of this corpus; null: of any")
    task: str | None = Field(None, description="rows of this task; null: of any")
    weight: float = Field(ge=0, description="times that such a row is seen in an epoch, on average; others are once")


Mix = tuple[MixSettings, ...]


def row_weights(rows: Manifest, mix: Mix) -> np.ndarray | None:
    """How often each row is seen in an epoch: float64 [rows]; None where all are seen once.

    Raises:
        InputError: A part of the mix fits no row.
    """
    if not mix:
        return None
    weights, free = np.ones(len(rows)), np.ones(len(rows), bool)
    for part in mix:
        fits = np.ones(len(rows), bool)
        for column in ("corpus", "task"):
            if (wanted := getattr(part, column)) is not None:
                of_column = rows.among(column, [wanted])
                if not of_column.any():
                    there = sorted(set(rows.table.column(column).unique().to_pylist()))
                    raise InputError(f"data.mix: no row has the {column} '{wanted}'; there are {', '.join(there)}")
                fits &= of_column
        weights[fits & free] = part.weight
        free &= ~fits
    return weights


def drawn(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Row numbers of an epoch, ascending: each row as often as the whole part of its weight, and once more by chance.

    The chance is the rest of the weight, so over epochs a row is seen by its weight on average. It is systematic
    sampling in random order: an epoch is as long as the weights sum up to, within one row. Follows from seed and
    epoch alone.
    """
    rng = np.random.default_rng((seed, epoch, 2))  # no other draw's stream
    order, times = rng.permutation(len(weights)), np.floor(weights)
    steps = np.floor(np.cumsum((weights - times)[order]) + rng.random())
    times[order] += np.diff(steps, prepend=0.0)
    return np.repeat(np.arange(len(weights)), times.astype(np.int64))
