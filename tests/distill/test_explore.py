import json
import shutil
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from data.errors import INTERRUPTED, InputError
from data.paths import REPOSITORY
from data.settings import read_settings
from distill.explore import Exploration, GridSettings, jobs, run_command
from distill.recipe import reading
from distill.report import write_report
from tests.distill.report.conftest import TEACHER, put, put_log, student

LOSSES = {"name": "a", "steps": 2, "max_seconds": 6, "lr": {"connector": 1e-3}}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b"a picture"))


@pytest.fixture
def grid(tiny_recipe):
    """A grid over the tiny recipe: a start, two arms, an axis of two values, two seeds."""
    stage = {"train.stages": [LOSSES | {"losses": {"ce": 1.0}}]}
    return {
        "name": "grid",
        "config": str(tiny_recipe),
        "seeds": [3, 4],
        "set": {"train.save_every": 5, "data.limit": 4},
        "start": {"train.stages": [LOSSES | {"losses": {"audio_tokens": 1.0}}]},
        "arms": {"ce": {"student.weights": "{start}", **stage}, "kd": {}},
        "axes": {"train.kd.beta": [0.5, 0.25]},
        "launcher": ["--num_gpus", "1"],
    }


def settings(grid: dict) -> GridSettings:
    return GridSettings.model_validate_json(json.dumps(grid))


class Runner:
    """Stands in for the commands: keeps them, and leaves what scoring would leave."""

    def __init__(self, results: Path, fails: dict[str, tuple[int, str]] | None = None) -> None:
        self.results, self.fails, self.commands = results, fails or {}, []

    def __call__(self, command: list[str]) -> tuple[int, str]:
        script = next(word for word in command if word.endswith(".py"))
        name = json.loads(next(word for word in command if word.startswith("name=")).removeprefix("name="))
        self.commands.append((Path(script).stem, name))
        if Path(script).stem in self.fails.get(name, {}):
            return self.fails[name][Path(script).stem]
        if script.endswith("train.py"):
            (self.results.parent / "runs" / name / "model").mkdir(parents=True, exist_ok=True)
        if script.endswith("evaluate.py"):
            block = (TEACHER if command[-1] == "teacher" else student()) | {"recipe": name}
            if not (self.results / name / command[-1]).is_dir():
                put(self.results / name, block)
                put_log(self.results / name)
        return 0, ""

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.commands))


ARMS = [f"grid/{arm}_beta-{at}_{seed}" for seed in (3, 4) for arm in ("ce", "kd") for at in (0.5, 0.25)]


def test_every_arm_with_every_value_and_seed_begins_where_it_says(grid):
    starts, runs = jobs(settings(grid))
    assert [job.folder for job in starts] == ["start_3", "start_4"]
    assert [f"grid/{job.folder}" for job in runs] == ARMS
    recipe = runs[5].recipe(settings(grid))
    assert (recipe.name, recipe.seed, recipe.train.kd.beta) == ("grid/ce_beta-0.25_4", 4, 0.25)
    assert recipe.student.weights == str(recipe.run_dir.parent / "start_4" / "model")
    assert recipe.train.save_every == 5 and recipe.data.limit == 4
    assert runs[-1].recipe(settings(grid)).student.weights is None


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0.5, 2, "skew_kl", True], ["0.5", "2", "skew_kl", "True"]),
        ([1e-5, 1e-4, -1], ["1e-05", "0.0001", "-1"]),
        ([[0, 2, 5], 0, 3], ["value0", "0", "3"]),
        ([3, [0], [False], "value3", "value1", 1e20], ["3", "value1", "value2", "value3", "value4", "value5"]),
    ],
)
def test_a_value_of_an_axis_is_named_by_itself_or_by_its_place_and_by_no_other(grid, values, names):
    arms = settings(grid | {"axes": {"student.llm_layers": values}}).combinations()
    assert list(arms) == [f"{arm}_llm_layers-{name}" for arm in ("ce", "kd") for name in names]
    assert [of["student.llm_layers"] for of in arms.values()] == 2 * values


def test_a_grid_is_run_told_and_not_run_again(grid, tmp_path):
    run = Runner(tmp_path / "results")
    exploration = Exploration(settings(grid), run)
    assert exploration.explore()
    assert run.names == ["grid/teacher", "grid/start_3", "grid/start_4", *ARMS]
    of = {name: [script for script, whose in run.commands if whose == name] for name in run.names}
    assert of["grid/teacher"] == ["evaluate"] and of["grid/start_3"] == ["train"]
    assert of["grid/ce_beta-0.5_3"] == ["train", "evaluate"]
    assert of["grid/kd_beta-0.5_3"] == ["cache_teacher", "train", "evaluate"]
    assert of["grid/kd_beta-0.25_3"] == ["train", "evaluate"]  # the cache is there, the one before filled it
    write_report([exploration.folder])
    page = (exploration.folder / "report.md").read_text(encoding="utf-8")
    assert "| kd_beta-0.25 | 30.0 ± 0.0 | +0.0 ± 0.0 |" in page and "`train.kd.beta` = 0.25" in page
    again = Runner(tmp_path / "results")
    assert Exploration(settings(grid), again).explore() and again.commands == []
    changed = Runner(tmp_path / "results")
    Exploration(settings(grid | {"arms": grid["arms"] | {"kd": {"train.weight_decay": 0.5}}}), changed).explore()
    assert changed.names == [name for name in ARMS if "kd" in name]
    more = Runner(tmp_path / "results")
    Exploration(settings(grid | {"seeds": [3, 4, 5]}), more).explore()
    assert more.names == ["grid/start_5", *(name for name in ARMS if "kd" in name), *(f"{a[:-1]}5" for a in ARMS[:4])]


def test_what_fails_is_told_skipped_and_tried_again(grid, tmp_path):
    fails = {
        "grid/start_4": {"train": (1, "no memory")},
        "grid/kd_beta-0.5_3": {"cache_teacher": (2, "no sounds")},
    }
    run = Runner(tmp_path / "results", fails)
    exploration = Exploration(settings(grid), run)
    assert not exploration.explore()
    assert "grid/ce_beta-0.5_4" not in run.names and "grid/kd_beta-0.5_4" in run.names  # only ce begins at the start
    assert ("train", "grid/kd_beta-0.5_3") not in run.commands
    write_report([exploration.folder])
    page = (exploration.folder / "report.md").read_text(encoding="utf-8")
    for line in (
        "- start_4: no memory",
        "- ce_beta-0.5_4: its start failed: no memory",
        "- kd_beta-0.5_3: no sounds",
    ):
        assert line in page
    again = Runner(tmp_path / "results")
    assert Exploration(settings(grid), again).explore()
    assert again.names == [
        "grid/start_4",
        "grid/kd_beta-0.5_3",
        "grid/ce_beta-0.5_4",
        "grid/ce_beta-0.25_4",
    ]


def test_what_was_deleted_is_run_again_and_a_start_only_where_an_arm_waits_for_it(grid, tmp_path):
    Exploration(settings(grid), Runner(tmp_path / "results")).explore()
    for start in ("start_3", "start_4"):
        shutil.rmtree(tmp_path / "runs" / "grid" / start)
    again = Runner(tmp_path / "results")
    assert Exploration(settings(grid), again).explore() and again.names == []
    for lost in ("ce_beta-0.5_4", "kd_beta-0.5_3", "teacher"):
        shutil.rmtree(tmp_path / "results" / "grid" / lost)
    assert Exploration(settings(grid), again).explore()
    assert again.names == ["grid/teacher", "grid/start_4", "grid/kd_beta-0.5_3", "grid/ce_beta-0.5_4"]


def test_what_was_run_over_is_not_done_any_more(grid, tmp_path):
    Exploration(settings(grid), Runner(tmp_path / "results")).explore()
    changed = settings(grid | {"arms": grid["arms"] | {"kd": {"train.weight_decay": 0.5}}})
    fails = {"grid/kd_beta-0.5_3": {"evaluate": (1, "no memory")}}
    assert not Exploration(changed, Runner(tmp_path / "results", fails)).explore()
    again = Runner(tmp_path / "results")
    Exploration(settings(grid), again).explore()
    assert "grid/kd_beta-0.5_3" in again.names  # its model is that of the changed recipe


@pytest.mark.parametrize(
    "state", ["", "{", "[]", "null", '{"name": "grid"}', '{"done": []}', '{"done": null}', "[" * 10**5]
)
def test_a_grid_whose_state_is_damaged_is_refused(grid, tmp_path, state):
    (tmp_path / "results/grid").mkdir(parents=True)
    (tmp_path / "results/grid/grid.json").write_text(state)
    with pytest.raises(InputError, match=r"results/grid/grid\.json: "):
        Exploration(settings(grid), Runner(tmp_path / "results"))


def test_a_mark_that_is_none_is_of_a_run_that_is_not_done(grid, tmp_path):
    (tmp_path / "results/grid").mkdir(parents=True)
    (tmp_path / "results/grid/grid.json").write_text(json.dumps({"done": {"teacher": 3, "x": "\ud800", "start_3": []}}))
    runner = Runner(tmp_path / "results")
    assert Exploration(settings(grid), runner).explore()
    assert ("evaluate", "grid/teacher") in runner.commands and ("train", "grid/start_3") in runner.commands


def test_a_grid_in_which_all_fails_still_says_so(grid, tmp_path):
    names = ["grid/teacher", "grid/start_3", "grid/start_4", *ARMS]
    whatever = {script: (1, "no disk") for script in ("train", "evaluate", "cache_teacher")}
    exploration = Exploration(settings(grid), Runner(tmp_path / "results", dict.fromkeys(names, whatever)))
    assert not exploration.explore()
    write_report([exploration.folder])
    page = (exploration.folder / "report.md").read_text(encoding="utf-8")
    assert "- teacher: no disk" in page and "| kd_beta-0.25 |  |" not in page


def test_an_interrupt_stops_the_grid_and_keeps_what_is_done(grid, tmp_path):
    run = Runner(tmp_path / "results", {"grid/ce_beta-0.5_3": {"evaluate": (INTERRUPTED, "interrupted")}})
    with pytest.raises(KeyboardInterrupt):
        Exploration(settings(grid), run).explore()
    again = Runner(tmp_path / "results")
    Exploration(settings(grid), again).explore()
    assert again.names == ARMS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {}, "axes": {}}, "neither arms nor axes"),
        ({"axes": {"seed": []}}, "an axis has no values"),
        ({"axes": {"train.kd.beta": [0.5, "0.5"]}}, "two runs are named ce_beta-0.5_3: "),
        (
            {"arms": {"kd": {}, "kd_beta-1": {}}, "axes": {"a.beta": [1, "1_beta-1"], "b.beta": [1]}},
            "two runs are named kd_beta-1_beta-1_beta-1_3",
        ),
        ({"seeds": [3, 4, 3], "axes": {}}, "two runs are named start_3: "),
        ({"arms": {"start": {}, "kd": {}}, "axes": {}}, "two runs are named start_3: "),
        ({"start": None}, "the grid has no start"),
        ({"arms": {"a/b": {}}}, "becomes a folder's"),
        ({"arm": {}}, "did you mean 'arms'"),
        ({"arms": {"kd": {"train.kd.temprature": 2}}}, "did you mean 'temperature'"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_the_first_run(grid, command, tmp_path, change, message):
    (tmp_path / "grid.json").write_text(json.dumps(grid | change))
    status, _, err = command("scripts/explore.py", "--grid", tmp_path / "grid.json")
    assert status == 2 and message in err
    assert not (tmp_path / "results").exists()


def test_a_command_is_shown_and_its_complaint_kept(capfd):
    told = "import sys; print('step 1'); print('error: no sounds', file=sys.stderr); print('bye'); sys.exit(2)"
    assert run_command([sys.executable, "-u", "-c", told]) == (2, "no sounds")
    assert "step 1\n" in capfd.readouterr().out
    assert run_command([sys.executable, "-c", "print('last')"]) == (0, "last")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "grids").glob("*.json")), ids=lambda path: path.stem)
def test_the_grids_of_the_repository_fit_their_recipes(path):
    starts, runs = jobs(read_settings(GridSettings, path))
    for job in [*starts, *runs]:
        try:
            job.recipe(read_settings(GridSettings, path))
        except InputError as error:
            pytest.fail(str(error))


def test_arms_are_in_the_precision_that_they_are_trained_in(grid, tmp_path, monkeypatch, capsys):
    """On a CPU that does not compute in bf16 training takes fp32: a run in bf16 is another one there."""
    grid["set"] |= {"teacher.dtype": "bf16"}
    ran = {}
    for native in (True, False, False):
        monkeypatch.setattr(reading, "cpu_has_bf16", lambda native=native: native)
        run = Runner(tmp_path / "results")
        assert Exploration(settings(grid), run).explore()
        dtype = jobs(settings(grid))[1][0].recipe(settings(grid)).teacher.dtype
        ran.setdefault(dtype, []).append(run.names)
    everything = ["grid/teacher", "grid/start_3", "grid/start_4", *ARMS]
    assert ran == {"bf16": [everything], "fp32": [everything, []]}
    assert "fp32 in place of bf16" not in capsys.readouterr().err  # each command says so itself


def test_a_grid_that_is_not_there_is_called_one(command, tmp_path):
    status, _, err = command("scripts/explore.py", "--grid", tmp_path / "none.json")
    assert status == 2 and err.endswith("none.json: no such grid; the repository's are in configs/grids/\n")
