import json

import pytest
import torch

from data.cache.reader import CacheReader
from distill.models.students import processor_of, student_of
from distill.recipe.reading import read_recipe
from distill.training.building import build_examples, build_objective
from distill.training.rows import training_rows


def stages(*of):
    """An override that has these (losses, rates) as stages."""
    made = [{"name": str(i), "steps": 1, "losses": losses, "lr": lr} for i, (losses, lr) in enumerate(of)]
    return f"train.stages={json.dumps(made)}"


@pytest.fixture
def build(tiny_recipe, tiny_teacher):
    """A function that gives recipe, objective and examples under overrides of the tiny recipe."""
    teacher, teacher_processor = tiny_teacher

    def build(*overrides, cache=None):
        recipe = read_recipe(tiny_recipe, overrides)
        rows = training_rows(recipe)
        student = student_of(recipe, teacher, teacher_processor)
        processor = processor_of(recipe, student, teacher_processor)
        objective = build_objective(recipe, student, processor, rows, teacher_processor)
        return recipe, objective, build_examples(recipe, processor, rows, cache, teacher_processor)

    return build


def test_only_what_some_stage_trains_needs_a_gradient(build):
    _, objective, _ = build(stages(({"ce": 1}, {"connector": 1e-3}), ({"ce": 1}, {"llm": 1e-3})))
    needs = {name.split(".")[1] for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert needs == {"connector", "llm"}
    assert objective.ctc is None and objective.matching is None and objective.teacher is None


def test_the_ctc_head_has_the_ids_of_all_training_texts(build):
    both = stages(({"ce": 1}, {"connector": 1e-3}), ({"ctc": 1}, {"connector": 1e-3}))
    _, objective, examples = build(both)
    texts = [examples.processor.text_ids(row.text)[:-1] for row in examples.rows]
    wanted = {token for ids in texts for token in ids}
    assert {int(i) for i in (objective.ctc.class_of_V > 0).nonzero()} == wanted
    torch.manual_seed(5)  # a run's seed says what its heads begin with, whatever was drawn before
    again = build(both)[1].ctc
    assert torch.equal(again.blank_H, objective.ctc.blank_H)
    assert not torch.equal(build(both, "seed=1")[1].ctc.blank_H, objective.ctc.blank_H)


def test_features_are_matched_where_a_stage_does_so(build):
    recipe, objective, _ = build()
    assert recipe.matched == {"encoder", "audio_tokens"}
    assert objective.matching is not None


@pytest.mark.parametrize(("margin_s", "own"), [(0.1, False), (0.05, True)])
def test_a_teacher_that_hears_otherwise_has_batches_of_its_own(build, margin_s, own):
    _, _, examples = build(f"student.margin_s={margin_s}")
    assert (examples.teacher_processor is not None) == own
    ce = stages(({"ce": 1}, {"llm": 1e-3}))
    assert build(ce, f"student.margin_s={margin_s}")[2].teacher_processor is None  # nobody asks it


def test_examples_are_made_of_the_cache(build, fill_tiny_cache):
    folder, identity = fill_tiny_cache()
    recipe, _, examples = build(cache=CacheReader(folder, identity))
    example = examples([0, 1], recipe.train.stages[1].used)
    assert example.ids == ("train_0", "train_1") and example.signal is not None and examples.alignment is None
