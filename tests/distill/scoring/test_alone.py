"""One command at a time scores a model; the processes of one command do not keep each other out."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.paths import REPOSITORY
from distill.recipe.reading import read_recipe
from distill.scoring import evaluation
from distill.scoring.alone import scored_alone

_HOLDS = (
    "import sys; from pathlib import Path; from distill.scoring.alone import scored_alone\n"
    "with scored_alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def another(folder: Path):
    """Another command that scores the model of this folder; gives its process's number."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    with subprocess.Popen([sys.executable, "-c", _HOLDS, folder], **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("mode", ["score", "submission"])
def test_a_second_command_of_a_model_ends_with_a_line_that_names_the_first(command, tiny_recipe, monkeypatch, mode):
    place = read_recipe(tiny_recipe).results_dir / "teacher"
    arguments = ["scripts/evaluate.py", "--config", tiny_recipe, "--model", "teacher", "--mode", mode]
    arguments += ["--set", "evaluation.measured_runs=0"]
    with another(place) as pid, monkeypatch.context() as patch:
        patch.setattr(evaluation, "load_for_scoring", lambda *_: pytest.fail("a model is loaded"))
        status, _, err = command(*arguments)
        assert status == 2 and err.count("\n") == 1
        assert err.startswith(f"error: {place}: process {pid} on ") and "is scoring this model; wait for it" in err
        assert [path.name for path in place.iterdir()] == ["scoring.lock"]
    assert command(*arguments)[0] == 0 and (place / "hypotheses.jsonl").is_file()


def test_another_model_of_the_run_is_scored_beside_it(tmp_path):
    with another(tmp_path / "teacher"), scored_alone(tmp_path / "student"):
        pass
