"""95% percentile intervals over clips (Bisani and Ney, 2004: "Bootstrap estimates for confidence intervals in ASR
performance evaluation"): the clip is what was drawn at random, the word is not.
"""

from collections.abc import Callable

import numpy as np


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
    picks_BN = np.random.default_rng(seed).integers(0, clips, (resamples, clips))
    low, high = np.percentile(statistic(picks_BN), [2.5, 97.5])
    return float(low), float(high)
