"""What the logs of a run say of its validations."""

import json

import pytest

from distill.recipe.reading import read_recipe
from distill.training.checkpoints import best_step, was_validated


@pytest.fixture
def run(tiny_recipe, own_data):
    """A function that writes records (step, set, figures) and gives the recipe: three stages of 100 steps, two sets."""

    def run(*records, sets=("valid", "test_asr")):
        stages = [
            {"name": "ctc", "steps": 100, "losses": {"ctc": 1}, "lr": {"connector": 1e-3}},
            *({"name": str(i), "steps": 100, "losses": {"ce": 1}, "lr": {"llm": 1e-3}} for i in range(2)),
        ]
        valid = json.dumps([f"{own_data}/{name}.json" for name in sets])
        recipe = read_recipe(tiny_recipe, [f"train.stages={json.dumps(stages)}", f"data.valid={valid}"])
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"step": step, "set": name} | figures) + "\n" for step, name, figures in records]
        (recipe.run_dir / "validation.jsonl").write_text("".join(lines))
        return recipe

    return run


def both(step, first, second):
    return (step, "valid", {"wer": first}), (step, "test_asr", {"wer": second})


def test_a_validation_counts_with_all_of_its_sets(run):
    cut = (240, "valid", {"wer": 0.01})  # the run was killed before the other set was looked at
    recipe = run(*both(220, 0.4, 0.2), cut, *both(260, 0.5, 0.3))
    assert [was_validated(recipe, step) for step in (220, 240, 260, 280)] == [True, False, True, False]
    assert best_step(recipe, "wer") == 220
    again = run(*both(220, 0.4, 0.2), cut, *both(240, 0.3, 0.1))  # and was looked at when it went on
    assert was_validated(again, 240) and best_step(again, "wer") == 240


def test_a_set_that_only_some_validations_have_is_compared_with_none(run):
    records = [*both(220, 0.1, 0.1), (230, "valid", {"wer": 0.3}), (240, "valid", {"wer": 0.2})]
    assert best_step(run(*records), "wer") == 220
    alone = run(*records, sets=("valid",))  # the recipe was changed
    assert was_validated(alone, 230) and best_step(alone, "wer") == 220
    assert best_step(run(*records, sets=("valid", "test_asr", "train")), "wer") is None


def test_a_figure_that_some_sets_have_is_their_mean(run):
    captions = [(step, "test_asr", {"cider_d": figure}) for step, figure in ((220, 0.2), (240, 0.3))]
    recipe = run((220, "valid", {"wer": 0.1}), (240, "valid", {"wer": 0.2}), *captions)
    assert (best_step(recipe, "wer"), best_step(recipe, "cider_d")) == (220, 240)


@pytest.mark.parametrize("earlier", [1, 100, 101, 200])
def test_the_best_is_one_of_the_last_stage(run, earlier):
    recipe = run(*both(earlier, 0.0, 0.0), *both(201, 0.3, 0.3), *both(300, 0.2, 0.2))
    assert was_validated(recipe, earlier) and best_step(recipe, "wer") == 300
    assert best_step(run(*both(earlier, 0.0, 0.0)), "wer") is None
