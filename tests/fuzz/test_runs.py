"""What runs leave behind, read again: checkpoints' sizes, a run's identity, logs, metrics, models' configurations."""

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given

from distill.recipe.reading import read_recipe
from distill.report.curves import curves_page, read_curves
from distill.report.runs import read_validation
from distill.training import checkpoints, same_run
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_json, spoilt_lines

STEPS = [{"step": n, "stage": "distil", "loss": 2.5 - n, "ce": 1.5, "lr": {"llm": 1e-4}} for n in range(3)]
LOOKS = [{"step": n, "set": "valid", "wer": 0.5, "ce": 2.0} for n in (299, 300)]
torch.save(torch.zeros(3), written := io.BytesIO())
WEIGHTS = written.getvalue()
SIZES = {"weights.pt": len(WEIGHTS)}
IDENTITY = {"recipe": "a" * 64, "teacher": "b" * 64, "rows": "c" * 64, "processes": "1"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run of three steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for step in (2, 3):
        (folder / f"checkpoints/step_{step}").mkdir(parents=True)
        (folder / f"checkpoints/step_{step}/weights.pt").write_bytes(WEIGHTS)
    (folder / "checkpoints/latest").write_text("step_3")
    return folder


@pytest.fixture(scope="module")
def recipe(run_dir):
    """Whose run that is."""
    own = [f"runs={run_dir.parent}", f"name={run_dir.name}", 'data.valid=["valid.json"]']
    return read_recipe("configs/kd_mini.json", own)


@inputs()
@given(content=spoilt_json(SIZES))
def test_sizes_of_checkpoints(run_dir, content):
    (run_dir / "checkpoints/step_2/sizes.json").write_text(json.dumps(SIZES))
    (run_dir / "checkpoints/step_3/sizes.json").write_bytes(content)

    def newest():
        folder = checkpoints.newest_whole(run_dir)
        assert folder.name == "step_2" or json.loads(content)["weights.pt"] == len(WEIGHTS)

    assert ends_well(newest, run_dir)


@inputs()
@given(content=spoilt_json(IDENTITY))
def test_identities_of_runs(run_dir, content):
    (run_dir / "identity.json").write_bytes(content)
    ends_well(lambda: same_run.require_same_run(run_dir, IDENTITY), run_dir)


@inputs()
@given(steps=spoilt_lines(STEPS), looks=spoilt_lines(LOOKS))
def test_logs(recipe, steps, looks):
    run_dir = recipe.run_dir
    (run_dir / "steps.jsonl").write_bytes(steps)
    (run_dir / "validation.jsonl").write_bytes(looks)

    def go_on():
        best = checkpoints.best_step(recipe, "wer")
        assert best is None or (best > 0 and checkpoints.was_validated(recipe, best))

    def look():
        assert all(isinstance(loss, int | float) for loss in read_curves([f"a={run_dir}"])["a"])
        curves_page(read_curves([f"a={run_dir}", f"b={run_dir}"]))
        read_validation(run_dir / "validation.jsonl")

    assert ends_well(go_on, run_dir)  # lines that a killed run left stop nothing
    ends_well(look, run_dir, "--curves")
