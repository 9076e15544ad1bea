"""The report that scripts/evaluate.py renews: of which model, with whose learning curve."""

import json
import shutil
from pathlib import Path

import pytest

import scripts.evaluate
from distill.recipe.reading import read_recipe
from distill.recipe.test_sets import Selection
from tests.distill.report.conftest import TEACHER, put, put_log, student


@pytest.fixture
def recipe(tiny_recipe):
    """A recipe whose student was trained and scored."""
    recipe = read_recipe(tiny_recipe)
    recipe.run_dir.mkdir(parents=True)
    put_log(recipe.run_dir)
    (recipe.results_dir).mkdir(parents=True)
    (recipe.results_dir / "recipe.json").write_text(recipe.model_dump_json())
    put(recipe.results_dir, TEACHER)
    score(recipe)
    return recipe


def score(recipe, checkpoint: Path | None = None) -> None:
    """Leaves the scores of the run's own student, or of another checkpoint, as scripts/evaluate.py does."""
    shutil.rmtree(recipe.results_dir / "student", ignore_errors=True)
    put(recipe.results_dir, student() | {"checkpoint": str(checkpoint or recipe.run_dir / "model")})


def page(recipe) -> str:
    return (recipe.results_dir / "report.md").read_text(encoding="utf-8")


def test_the_run_s_own_student_has_its_learning_curve(recipe):
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    log = (recipe.results_dir / "steps.jsonl").read_text()
    assert log == (recipe.run_dir / "steps.jsonl").read_text() and "## Learning curve" in page(recipe)
    put_log(recipe.run_dir, scale=9)
    (recipe.run_dir / "validation.jsonl").unlink()
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    assert (recipe.results_dir / "steps.jsonl").read_text() != log
    assert not (recipe.results_dir / "validation.jsonl").exists()


def test_another_checkpoint_neither_deletes_the_run_s_log_nor_shows_its_curve(recipe, tmp_path):
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    logs = {name: (recipe.results_dir / name).read_text() for name in ("steps.jsonl", "validation.jsonl")}
    score(recipe, tmp_path / "other" / "model")
    scripts.evaluate.report(recipe, Selection(), is_own_student=False)
    assert {name: (recipe.results_dir / name).read_text() for name in logs} == logs
    assert "Learning curve" not in page(recipe) and "30.0 (1.50 x)" in page(recipe)
    score(recipe)
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    assert "## Learning curve" in page(recipe)


def test_a_log_that_lies_in_the_results_alone_stays(recipe):
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    shutil.rmtree(recipe.run_dir)
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    assert (recipe.results_dir / "steps.jsonl").is_file() and "## Learning curve" in page(recipe)


@pytest.mark.parametrize(("words", "is_own"), [((), True), (("runs/tiny/model",), True), (("other",), False)])
def test_whose_curve_it_is_is_told_by_the_checkpoint(recipe, tiny_recipe, tmp_path, monkeypatch, words, is_own):
    asked = []
    checkpoint = [word for path in words for word in ("--checkpoint", str(tmp_path / path))]
    monkeypatch.setattr(scripts.evaluate, "evaluate", lambda *_: {})
    monkeypatch.setattr(scripts.evaluate, "require_inputs", lambda *_, **__: None)
    monkeypatch.setattr(scripts.evaluate, "prepare_process", lambda: None)
    monkeypatch.setattr(scripts.evaluate, "report", lambda *of: asked.append(of[2]))
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--config", str(tiny_recipe), "--model", "student", *checkpoint])
    scripts.evaluate.main()
    assert asked == [is_own]


def test_a_damaged_file_of_another_model_is_told_and_the_scores_stand(recipe, capsys):
    (recipe.results_dir / "teacher" / "metrics.json").write_text('{"model": "tea')
    scripts.evaluate.report(recipe, Selection(), is_own_student=True)
    told = capsys.readouterr().out
    assert "scored, but no report could be made" in told and "teacher/metrics.json: not JSON" in told
    assert json.loads((recipe.results_dir / "student" / "metrics.json").read_text())["asr"]["wer"] == 0.3
