import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches import LengthBatches, batches_by_length
from data.errors import InputError

DURATIONS = st.lists(st.floats(0.5, 30), min_size=1, max_size=60)
BUDGET = st.floats(1, 120)


def flat(batches):
    return [row for batch in batches for row in batch]


@given(durations=DURATIONS, budget=BUDGET)
def test_batches_by_length_hold_every_row_once_within_the_budget(durations, budget):
    batches = batches_by_length(durations, budget)
    assert sorted(flat(batches)) == list(range(len(durations)))
    for batch in batches:
        assert len(batch) == 1 or max(durations[row] for row in batch) * len(batch) <= budget
    longest = [durations[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(durations=DURATIONS, budget=BUDGET, seed=st.integers(0, 99))
def test_a_step_keeps_the_budget(durations, budget, seed):
    batches = LengthBatches(durations, max_seconds=budget, seed=seed)
    for step in range(2 * batches.steps_per_epoch):
        (batch,) = batches.step(step)
        assert len(batch) == 1 or max(durations[row] for row in batch) * len(batch) <= budget


@given(
    rows=st.lists(st.tuples(st.floats(0.5, 30), st.integers(1, 300)), min_size=1, max_size=60),
    budget=BUDGET,
    tokens=st.integers(1, 2000),
)
def test_a_step_keeps_both_budgets(rows, budget, tokens):
    durations, texts = zip(*rows, strict=True)
    batches = LengthBatches(durations, max_seconds=budget, seed=0, text_tokens=texts, max_text_tokens=tokens)
    seen = []
    for step in range(batches.steps_per_epoch):
        (batch,) = batches.step(step)
        seen += batch
        longest = max(durations[row] for row in batch), max(texts[row] for row in batch)
        assert len(batch) == 1 or (longest[0] * len(batch) <= budget and longest[1] * len(batch) <= tokens)
    assert sorted(seen) == list(range(len(rows)))


def test_clips_of_one_length_are_batched_by_their_texts():
    texts = np.random.default_rng(0).integers(5, 300, 400)
    alike = {"durations_s": [30.0] * 400, "max_seconds": 240, "seed": 0}

    def padding(**bound):
        batches = LengthBatches(**alike, **bound)
        steps = [batches.step(step)[0] for step in range(batches.steps_per_epoch)]
        return sum(len(batch) * texts[batch].max() for batch in steps) / texts.sum()

    assert padding(text_tokens=texts, max_text_tokens=2400) < 1.3 < 1.5 < padding()


@settings(max_examples=25)
@given(durations=DURATIONS, budget=BUDGET, seed=st.integers(0, 99))
def test_every_row_is_seen_and_none_is_favoured(durations, budget, seed):
    batches = LengthBatches(durations, max_seconds=budget, seed=seed)
    seen = np.zeros(len(durations), int)
    epochs = 40
    for step in range(epochs * batches.steps_per_epoch):
        rows = flat(batches.step(step))
        assert len(set(rows)) == len(rows)
        seen[rows] += 1
    assert seen.max() - seen.min() <= 1


@given(
    durations=st.lists(st.floats(0.5, 30), min_size=8, max_size=60),
    seed=st.integers(0, 99),
    ranks=st.sampled_from([1, 2, 4]),
    accumulation=st.sampled_from([1, 2]),
)
def test_ranks_and_accumulation_are_the_same_rows(durations, seed, ranks, accumulation):
    budget = 30.0
    try:
        alone = LengthBatches(durations, max_seconds=budget, seed=seed, accumulation=ranks * accumulation)
    except InputError:
        return
    for step in range(alone.steps_per_epoch + 1):
        together = []
        for rank in range(ranks):
            own = LengthBatches(
                durations, max_seconds=budget, seed=seed, rank=rank, world=ranks, accumulation=accumulation
            )
            assert own.steps_per_epoch == alone.steps_per_epoch
            together += own.step(step)
        assert sorted(together) == sorted(alone.step(step))


@settings(max_examples=25)
@given(
    durations=st.lists(st.floats(0.5, 30), min_size=20, max_size=60),
    seed=st.integers(0, 99),
    world=st.sampled_from([1, 2, 3]),
    accumulation=st.sampled_from([1, 2]),
)
def test_every_epoch_is_seen_whole(durations, seed, world, accumulation):
    try:
        split = {"world": world, "accumulation": accumulation}
        ranks = [LengthBatches(durations, max_seconds=60, seed=seed, rank=rank, **split) for rank in range(world)]
    except InputError:
        return
    steps = [[own.step(step) for own in ranks] for step in range(6 * ranks[0].steps_per_epoch)]
    rows = [row for of in steps for micro in range(accumulation) for own in of for row in own[micro]]
    for epoch in range(len(rows) // len(durations)):
        assert sorted(rows[epoch * len(durations) : (epoch + 1) * len(durations)]) == list(range(len(durations)))


def test_a_step_follows_from_its_number_alone():
    durations = np.random.default_rng(0).uniform(1, 10, 200)
    first = LengthBatches(durations, max_seconds=40, seed=3)
    forwards = [first.step(step) for step in range(100)]
    second = LengthBatches(durations, max_seconds=40, seed=3)
    assert [second.step(step) for step in reversed(range(100))] == forwards[::-1]
    assert forwards[: first.steps_per_epoch] != forwards[first.steps_per_epoch : 2 * first.steps_per_epoch]
    assert LengthBatches(durations, max_seconds=40, seed=4).step(0) != forwards[0]


def test_too_few_clips_for_a_step_are_refused():
    with pytest.raises(InputError, match="3 clips make 1 batches of 60 s, but one step takes 2; give more data"):
        LengthBatches([1.0, 2.0, 3.0], max_seconds=60, seed=0, world=2)


def test_padding_is_what_the_batches_hold_beyond_the_clips():
    batches = LengthBatches([4.0, 2.0, 3.0, 1.0], max_seconds=8, seed=0, text_tokens=[1, 1, 4, 2], max_text_tokens=99)
    made = [rows for step in range(batches.steps_per_epoch) for rows in batches.step(step)]
    assert sorted(map(sorted, made)) == [[0, 2], [1, 3]]
    assert batches.padding() == pytest.approx((1 - 10 / (8 + 4), 1 - 8 / (8 + 4)))
