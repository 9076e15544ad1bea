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
from teacher.device import free_port

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


_JOINS = (
    "import sys; from pathlib import Path; from data.errors import InputError\n"
    "from distill.scoring.alone import scored_alone\n"
    "try:\n"
    "    with scored_alone(Path(sys.argv[1])): print('held')\n"
    "except InputError as error: print(error)"
)


def _ends(folder: Path, environment: dict[str, str]) -> list[tuple[str, int]]:
    """What two processes of one command print, and their status; they meet where no store of this process serves."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", _JOINS, folder],
            env=environment | place | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    try:
        return [(process.communicate(timeout=300)[0].strip(), process.returncode) for process in begun]
    finally:
        for process in begun:
            process.kill()
            process.communicate()


def test_all_processes_of_a_command_are_refused_and_none_by_its_own(tmp_path, environment):
    assert _ends(tmp_path, environment) == [("held", 0)] * 2
    with another(tmp_path) as pid:
        (said, _), second = _ends(tmp_path, environment)
    assert f"process {pid} on " in said and second == ("", 2)  # one of them says it
