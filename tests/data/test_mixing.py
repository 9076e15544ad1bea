import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.batches import LengthBatches
from data.errors import InputError
from data.mixing import MixSettings, drawn, row_weights
from data.rows.manifest_reader import read_manifest


def mix(*parts):
    return tuple(MixSettings(corpus=corpus, task=task, weight=weight) for corpus, task, weight in parts)


@pytest.fixture
def rows(own_data):
    """Twelve rows of two tasks, every third from another corpus."""
    file = own_data / "train.json"
    content = json.loads(file.read_text())
    for number, entry in enumerate(content["annotation"]):
        entry["corpus"] = "small" if number % 3 else "large"
    file.write_text(json.dumps(content))
    return read_manifest(file)


def test_the_first_part_that_fits_a_row_counts(rows):
    assert row_weights(rows, ()) is None
    weights = row_weights(rows, mix(("large", "asr", 3.0), (None, "asr", 0.5), ("large", None, 0)))
    for row, weight in zip(rows, weights, strict=True):
        expected = (3.0 if row.corpus == "large" else 0.5) if row.task == "asr" else (0 if row.corpus == "large" else 1)
        assert weight == expected
    some = rows.where(rows.among("task", ["asr"]))
    assert row_weights(some, mix(("large", None, 2))).tolist() == [2 if row.corpus == "large" else 1 for row in some]


@pytest.mark.parametrize(
    ("part", "told"), [(("larg", None, 1), "corpus 'larg'; there are large, small"), ((None, "QA", 1), "task 'QA'")]
)
def test_a_part_that_fits_nothing_is_refused(rows, part, told):
    with pytest.raises(InputError, match=f"data.mix: no row has the {told}"):
        row_weights(rows, mix(part))


@given(weights=st.lists(st.floats(0, 3.5), min_size=1, max_size=40), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_an_epoch_is_as_long_as_the_weights(weights, seed, epoch):
    weights = np.array(weights)
    times = np.bincount(drawn(weights, seed, epoch), minlength=len(weights))
    assert abs(times.sum() - weights.sum()) <= 1 + 1e-6
    assert (times >= np.floor(weights)).all() and (times <= np.floor(weights) + 1).all()
    assert (times[weights == np.floor(weights)] == weights[weights == np.floor(weights)]).all()
    assert drawn(weights, seed, epoch).tolist() == drawn(weights, seed, epoch).tolist()


def test_over_epochs_a_row_is_seen_by_its_weight():
    weights = np.array([0.2, 1.7, 0.0, 1.0, 2.5, 0.6])
    times = sum(np.bincount(drawn(weights, 3, epoch), minlength=6) for epoch in range(4000)) / 4000
    np.testing.assert_allclose(times, weights, atol=0.05)
    assert any(drawn(weights, 3, 0).tolist() != drawn(weights, 3, epoch).tolist() for epoch in range(1, 9))


def test_batches_hold_the_mix_and_follow_from_the_step():
    durations, weights = np.linspace(1, 5, 60), np.repeat([0.0, 1.0, 2.5], 20)
    made = LengthBatches(durations, max_seconds=20, seed=1, weights=weights)
    steps = [made.step(step) for step in range(3 * made.steps_per_epoch)]
    seen = [row for step in steps for batch in step for row in batch]
    assert min(seen) >= 20 and 2 < np.mean(np.array(seen) >= 40) / np.mean(np.array(seen) < 40) < 3
    again = LengthBatches(durations, max_seconds=20, seed=1, weights=weights)
    assert [again.step(step) for step in reversed(range(len(steps)))] == steps[::-1]
    # Two ranks see together what one sees with twice the accumulation.
    alone = LengthBatches(durations, max_seconds=20, seed=1, weights=weights, accumulation=2)
    both = [LengthBatches(durations, max_seconds=20, seed=1, weights=weights, rank=rank, world=2) for rank in (0, 1)]
    assert [made.step(3)[0] for made in both] == alone.step(3)
    ones = LengthBatches(durations, max_seconds=20, seed=1, weights=np.ones(60))
    assert sorted(row for s in range(ones.steps_per_epoch) for row in ones.step(s)[0]) == list(range(60))
    with pytest.raises(InputError, match="give more data"):
        LengthBatches(durations, max_seconds=20, seed=1, weights=np.zeros(60))
