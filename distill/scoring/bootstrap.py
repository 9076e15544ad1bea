"""95% percentile intervals over clips (Bisani and Ney, 2004: "Bootstrap estimates for confidence intervals in ASR
performance evaluation"): the clip is what was drawn at random, the word is not.
"""

from collections.abc import Callable

import numpy as np

_PICKS = 500_000  # drawn at a time: memory does not grow with the test set


def interval(
    statistic: Callable[[np.ndarray], np.ndarray], clips: int, resamples: int, seed: int
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a statistic over resamples of the clips, drawn with replacement.

    Args:
        statistic: From numbers of clips (B resamples, N clips) to a figure of each resample (B).
        clips: How many there are.
        resamples: How often they are drawn anew.
        seed: Of the drawing.
    """
    rng, block = np.random.default_rng(seed), max(1, _PICKS // clips)
    resampled = [
        statistic(rng.integers(0, clips, (min(block, resamples - start), clips)))
        for start in range(0, resamples, block)
    ]
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5])
    return float(low), float(high)
