"""Which rows each step trains on, through all stages; examples are the rows' numbers here."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from data.cache.row import CachedRow
from data.errors import InputError
from data.rows.manifest import Manifest, durations_of
from data.rows.manifest_reader import read_manifest
from distill.recipe.reading import read_recipe
from distill.recipe.stages import OnPolicySettings
from distill.training.loader import StepLoader
from distill.training.texts import TrainingTexts
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


def written(rows):
    """What a teacher wrote for all rows but every fifth, which it began anew until its cap."""
    for number, row in enumerate(rows):
        yield CachedRow(row.id, row.task, "", None, "a longer text than that", -0.1, number % 5 > 0)


class _Numbers:
    """Makes examples that are their rows' numbers."""

    def __init__(self, recipe, rows):
        self.rows, self.texts = rows, TrainingTexts(recipe, rows, SimpleNamespace(texts=lambda: written(rows)))
        self.processor = SimpleNamespace(seconds=durations_of, text_lengths=lambda texts: map(len, texts))

    def __call__(self, indices, weights, targets, own_texts):
        return indices


@pytest.fixture
def load(tiny_recipe, rows):
    """A function that gives the batches (lists of row numbers) of each step of a run with some stages, all ranks'."""

    def load(*stages, data=(), world=1, accumulation=1, order=None, rows=rows):
        made = {"losses": {"ce": 1}, "lr": {"llm": 1e-3}, "max_seconds": 6}
        made = [made | {"name": str(i)} | stage for i, stage in enumerate(stages)]
        recipe = read_recipe(tiny_recipe, [f"train.stages={json.dumps(made)}", *data])
        split = {"world": world, "accumulation": accumulation}
        loaders = [StepLoader(recipe, _Numbers(recipe, rows), rank=rank, **split) for rank in range(world)]
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


@pytest.fixture(scope="module")
def half(rows):
    """The rows, of which those of odd numbers have no text."""
    return with_texts(rows, ["" if number % 2 else "hi" for number in range(ROWS)])


def with_texts(rows, texts):
    at = rows.table.schema.get_field_index("text")
    return Manifest(rows.table.set_column(at, rows.table.schema.field(at), pa.array(texts)), rows.root)


def seen(found):
    return {row for batches in found for batch in batches for row in batch}


def test_rows_are_in_the_stages_that_train_on_a_text_of_theirs(load, half):
    untexted = ["data.faults.no_text=teacher", "train.hypotheses.characters_per_second=[0, 1000]"]
    encoder = {"losses": {"encoder": 1}, "lr": {"encoder": 1e-3}}
    odd, fifth = set(range(1, ROWS, 2)), set(range(0, ROWS, 5))
    for stage, wanted in (
        (encoder, set(range(ROWS))),
        ({}, set(range(ROWS)) - (odd & fifth)),
        ({"targets": ["reference"]}, set(range(ROWS)) - odd),
        ({"targets": ["hypothesis"]}, set(range(ROWS)) - fifth),
    ):
        assert seen(load({"steps": 200, **stage}, data=untexted, rows=half)) == wanted
    assert seen(load({"steps": 200, "tasks": ["asr"], "targets": ["reference"]}, rows=half, data=untexted)) == set(
        range(0, ROWS, 2)  # which alone are speech
    )
    with pytest.raises(InputError, match=r"stage '0': no row has a text that it trains on \(targets: hypothesis\)"):
        load({"steps": 1, "targets": ["hypothesis"]}, data=["train.hypotheses.min_logp=0"], rows=half)


def test_ranks_share_the_rows_of_a_choice_of_texts(load, half):
    untexted = ["data.faults.no_text=teacher", "train.hypotheses.characters_per_second=[0, 1000]"]
    stages = [{"steps": 9}, {"steps": 9, "targets": ["reference"]}]
    alone = load(*stages, data=untexted, rows=half, accumulation=2)
    together = load(*stages, data=untexted, rows=half, world=2)
    assert [sorted(batches) for batches in together] == [sorted(batches) for batches in alone]


def test_the_budget_of_text_is_that_of_the_texts_trained_on(load, half):
    untexted = ["data.faults.no_text=teacher", "train.hypotheses.characters_per_second=[0, 1000]"]
    most = {"steps": 20, "max_seconds": 60, "max_text_tokens": 92}
    for batches in load({**most, "targets": ["hypothesis"]}, data=untexted, rows=half):
        assert all(len(batch) <= 4 for batch in batches)  # of 23 characters
    assert max(len(batch) for batches in load(most, data=untexted) for batch in batches) > 10  # of 2


def test_stages_of_the_same_rows_go_on_through_them_whatever_their_texts_are(load):
    stages = [{"steps": 4}, {"steps": 4, "targets": ["reference"]}, {"steps": 4, "losses": {"encoder": 1}}]
    stages[2]["lr"] = {"encoder": 1e-3}
    assert load(*stages) == load({"steps": 12})


@pytest.fixture
def loader(tiny_recipe, rows):
    """A function that gives the loader of a run of one stage, over rows of some texts."""

    def loader(texts, **own):
        stage = {"name": "one", "steps": 1, "losses": {"ce": 1}, "lr": {"llm": 1e-3}, "max_seconds": 6} | own
        recipe = read_recipe(tiny_recipe, [f"train.stages={json.dumps([stage])}"])
        return StepLoader(recipe, _Numbers(recipe, with_texts(rows, texts)), rank=0, world=1, accumulation=1)

    return loader


def test_most_text_is_among_the_largest_batches_without_a_budget_of_text(loader):
    for long in (7, 100, 201):
        made = loader(["hi" * (50 if number == long else 1) for number in range(ROWS)])
        assert any(long in batch for batch in made.largest(0))
    features = {"losses": {"encoder": 1}, "lr": {"encoder": 1e-3}}
    assert len(loader(["hi"] * ROWS, **features).largest(0)) <= 2  # of most seconds, and of most clips


def test_texts_that_the_student_will_write_are_as_long_as_their_cap(loader, rows):
    written = OnPolicySettings(tokens_per_second=20)
    made = loader(["hi"] * ROWS, losses={"kd": 1}, on_policy=written.model_dump())
    caps = [written.cap(seconds) for seconds in durations_of(rows)]

    def size(batch):
        return len(batch) * max(caps[row] for row in batch)

    batches = made._stages[0][0]
    of_epoch = [batches.step(step)[0] for step in range(batches.steps_per_epoch)]
    assert max(map(size, made.largest(0, written))) == max(map(size, of_epoch))
