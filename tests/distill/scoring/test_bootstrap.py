import tracemalloc

import numpy as np
import pytest

from distill.scoring.bootstrap import interval


def drawn_at_once(statistic, clips, resamples, seed):
    picks_BN = np.random.default_rng(seed).integers(0, clips, (resamples, clips))
    return tuple(np.percentile(statistic(picks_BN), [2.5, 97.5]))


@pytest.mark.parametrize(("clips", "resamples"), [(1, 1), (7, 1000), (1001, 999), (30_001, 101)])
def test_the_interval_is_that_of_all_resamples_drawn_at_once(clips, resamples):
    values = np.random.default_rng(1).gamma(1.0, size=clips)
    for statistic in (lambda picks: values[picks].mean(-1), lambda picks: values[picks].sum(-1) / clips):
        assert interval(statistic, clips, resamples, 3) == drawn_at_once(statistic, clips, resamples, 3)


def test_memory_does_not_grow_with_the_clips():
    peaks = []
    for clips in (20_000, 80_000):
        values = np.ones(clips)
        tracemalloc.start()
        interval(lambda picks, values=values: values[picks].mean(-1), clips, 100, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 20e6
