"""Which rows each step trains on, through all stages; examples are the rows' numbers here."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data.rows.manifest import durations_of
from data.rows.manifest_reader import read_manifest
from distill.recipe.reading import read_recipe
from distill.training.loader import StepLoader
from tests.conftest import write_annotation_of

ROWS = 240
KINDS = {"mix": '[{"task": "asr", "weight": 2}]', "tasks": '["asr"]', "max_seconds": "9", "max_text_tokens": "40"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Many rows of a few files."""
    folder = tmp_path_factory.mktemp("rows")
    lengths = np.random.default_rng(0).uniform(1, 3, 12)
    write_annotation_of(folder, "some", [(("asr", "audiocaption")[i % 2], s, "hi") for i, s in enumerate(lengths)])
    entries = json.loads((folder / "some.json").read_text())["annotation"]
    many = [entry | {"id": f"{entry['id']}_{copy}"} for copy in range(ROWS // 12) for entry in entries]
    (folder / "many.json").write_text(json.dumps({"annotation": many}))
    return read_manifest(folder / "many.json")


class _Numbers:
    """Makes examples that are their rows' numbers."""

    def __init__(self, rows):
        self.rows = rows
        self.processor = SimpleNamespace(seconds=durations_of, text_lengths=lambda texts: map(len, texts))

    def __call__(self, indices, weights):
        return indices


@pytest.fixture
def load(tiny_recipe, rows):
    """A function that gives the batches (lists of row numbers) of each step of a run with some stages, all ranks'."""

    def load(*stages, data=(), world=1, accumulation=1, order=None):
        made = {"losses": {"ce": 1}, "lr": {"llm": 1e-3}, "max_seconds": 6}
        made = [made | {"name": str(i)} | stage for i, stage in enumerate(stages)]
        recipe = read_recipe(tiny_recipe, [f"train.stages={json.dumps(made)}", *data])
        split = {"world": world, "accumulation": accumulation}
        loaders = [StepLoader(recipe, _Numbers(rows), rank=rank, **split) for rank in range(world)]
        numbers = order or range(recipe.total_steps)
        return [[batch for loader in loaders for batch in loader.load(step)] for step in numbers]

    return load


def steps_of_an_epoch(load):
    """Steps in which all rows are seen once."""
    seen, found = 0, load({"steps": 400})
    for number, batches in enumerate(found, 1):
        seen += sum(map(len, batches))
        if seen >= ROWS:
            return number
    raise AssertionError("too few steps")


def test_stages_go_on_through_the_rows(load):
    """With kd_1b's proportions (1 : 1 : 5), 7/8 of an epoch in all."""
    part = steps_of_an_epoch(load) // 8
    shares = [{"steps": part}, {"steps": part}, {"steps": 5 * part}]
    staged = load(*shares)
    assert staged == load({"steps": 7 * part})  # as one stage would
    seen = [row for batches in staged for batch in batches for row in batch]
    assert len(set(seen)) == len(seen) and len(seen) / ROWS > 0.8


@pytest.mark.parametrize("key", KINDS)
def test_a_stage_of_another_kind_has_an_order_of_its_own_and_the_next_goes_on(load, key):
    steps = 8
    other = {"steps": steps, key: json.loads(KINDS[key])}
    found = load({"steps": steps}, other, {"steps": steps}, other)
    alone, of_other = load({"steps": 2 * steps}), load({**other, "steps": 2 * steps})
    assert found[:steps] + found[2 * steps : 3 * steps] == alone
    assert found[steps : 2 * steps] != of_other[:steps]
    theirs = [row for batches in found[steps : 2 * steps] + found[3 * steps :] for batch in batches for row in batch]
    if key != "mix":  # by which a row is seen more than once
        assert len(set(theirs)) == len(theirs)


def test_the_datas_own_mix_is_no_other_kind(load):
    mix = json.loads(KINDS["mix"])
    data = [f"data.mix={KINDS['mix']}"]
    assert load({"steps": 5}, {"steps": 5, "mix": mix}, data=data) == load({"steps": 10}, data=data)


def test_a_step_follows_from_its_number_alone_and_ranks_share_it(load):
    stages = [{"steps": 7}, {"steps": 9, "max_seconds": 9}, {"steps": 60}]
    forwards = load(*stages, accumulation=2)
    backwards = [*reversed(range(76))]
    assert load(*stages, accumulation=2, order=backwards) == forwards[::-1]
    together = load(*stages, world=2)
    assert [sorted(batches) for batches in together] == [sorted(batches) for batches in forwards]
