"""What a run folder holds between starts: checkpoints and their seals, the log of its validations."""

import json

import numpy as np
import pytest
import torch

from data.errors import InputError
from distill.recipe.reading import read_recipe
from distill.training.checkpoints import best_step, has_begun, newest_whole, was_validated
from distill.training.same_run import begin, require_same_run


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


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "3",
        "[]",
        '"step"',
        "{}",
        '{"step": "x", "set": "valid"}',
        '{"step": 230}',
        '{"step": 230, "set": []}',
        "[",
    ]
    + ['{"step": 230, "set": "valid", "wer": ' + wer + "}" for wer in ("null", '"0"', "NaN", "9" * 400, "[]")],
)
def test_a_line_that_no_run_writes_is_none(run, line):
    recipe = run(*both(220, 0.4, 0.2), *both(230, 0.0, 0.0), *both(240, 0.3, 0.2))
    path = recipe.run_dir / "validation.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, lines[3], *lines[4:]]) + "\n")
    assert best_step(recipe, "wer") == 240 and was_validated(recipe, 220)


@pytest.mark.parametrize(
    "seal", ["", "[]", "null", "{}", "3", "[" * 10**5, '{"a": 3, "a": 1}', '{"a\\u0000": 1}', '{"a": null}', '{"a": 2}']
)
def test_a_checkpoint_whose_seal_is_none_is_not_whole(tmp_path, seal):
    for step, sealed in ((20, '{"a": 1}'), (100, seal)):
        folder = tmp_path / f"checkpoints/step_{step}"
        folder.mkdir(parents=True)
        (folder / "a").write_text("x")
        (folder / "sizes.json").write_text(sealed)
    (tmp_path / "checkpoints/step_of_mine").mkdir()
    assert newest_whole(tmp_path).name == "step_20"


def test_a_flipped_bit_of_a_checkpoint_is_found_or_changes_nothing(tmp_path):
    for step in (20, 100):
        folder = tmp_path / f"checkpoints/step_{step}"
        folder.mkdir(parents=True)
        torch.save({"weights": torch.arange(600.0), "step": step}, folder / "a.pt")
        (folder / "sizes.json").write_text(json.dumps({"a.pt": (folder / "a.pt").stat().st_size}))
    assert newest_whole(tmp_path).name == "step_100"
    path, rng, found = tmp_path / "checkpoints/step_100/a.pt", np.random.default_rng(0), 0
    content = path.read_bytes()
    for at in rng.integers(0, len(content), 300).tolist():
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :])
        if newest_whole(tmp_path).name == "step_20":
            found += 1
            continue
        loaded = torch.load(path)  # a byte that fills the file up
        assert torch.equal(loaded["weights"], torch.arange(600.0)) and loaded["step"] == 100, at
    assert found > 150


def test_a_checkpoint_of_pytorchs_earlier_form_is_whole_where_it_is_read(tmp_path):
    folder = tmp_path / "checkpoints/step_20"
    folder.mkdir(parents=True)
    path = folder / "a.pt"
    torch.save({"weights": torch.arange(600.0)}, path, _use_new_zipfile_serialization=False)
    (folder / "sizes.json").write_text(json.dumps({"a.pt": path.stat().st_size}))
    assert newest_whole(tmp_path) == folder
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(InputError, match="none of them is whole"):
        newest_whole(tmp_path)


def test_what_a_kill_in_the_first_save_leaves_is_no_checkpoint(run):
    recipe = run()
    folder = recipe.run_dir / "checkpoints/step_3"
    folder.mkdir(parents=True)
    (folder / "a.pt").touch()
    require_same_run(recipe.run_dir, {"recipe": "a"})  # nothing of it is gone on from, so it may be of any run
    begin(recipe.run_dir, recipe, {"recipe": "a"})
    assert not folder.exists()  # it would count among those that are kept


@pytest.mark.parametrize("left", ["latest", "step_3/sizes.json"])
def test_a_run_whose_checkpoints_were_damaged_is_not_begun_anew(run, left):
    recipe = run()
    folder = recipe.run_dir / "checkpoints/step_3"
    folder.mkdir(parents=True)
    (folder.parent / left).write_text("{")
    with pytest.raises(InputError, match="its checkpoints are of another run"):
        require_same_run(recipe.run_dir, {"recipe": "a"})
    begin(recipe.run_dir, recipe, {"recipe": "a"})
    assert has_begun(recipe.run_dir) and folder.is_dir()
    with pytest.raises(InputError, match="none of them is whole; remove that folder to start anew"):
        newest_whole(recipe.run_dir)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 10**5, "\udcff"])
def test_a_run_of_which_it_is_not_known_what_it_is_is_not_gone_on_with(tmp_path, text):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/latest").write_text("step_3")
    (tmp_path / "identity.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"identity\.json: damaged.*--set name="):
        require_same_run(tmp_path, {"recipe": "a"})


@pytest.mark.parametrize("earlier", [1, 100, 101, 200])
def test_the_best_is_one_of_the_last_stage(run, earlier):
    recipe = run(*both(earlier, 0.0, 0.0), *both(201, 0.3, 0.3), *both(300, 0.2, 0.2))
    assert was_validated(recipe, earlier) and best_step(recipe, "wer") == 300
    assert best_step(run(*both(earlier, 0.0, 0.0)), "wer") is None
