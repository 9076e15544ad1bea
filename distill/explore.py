"""A grid of recipes, one after the other: cached, trained, scored, and at the end one report of all.

What is done is kept in `results/<grid>/grid.json`, so an interrupted grid goes on; a run that fails is told, skipped,
and tried again the next time.
"""

import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data.errors import INTERRUPTED, InputError
from data.paths import REPOSITORY, resolve, written_whole
from data.progress import clock
from data.settings import Settings
from distill.recipe.reading import in_own_precision, read_recipe
from distill.recipe.recipe import Recipe
from distill.report.runs import read_metrics

Overrides = dict[str, Any]
START = "{start}"


class GridSettings(Settings):
    """A grid file: every arm with every value of every axis, for each seed."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100, description="names the folders in runs/ and results/"
    )
    config: str = Field(description="the recipe that is overridden; relative paths start at the repository")
    set: Overrides = Field({}, description='overrides of all runs, such as {"train.kd.temperature": 2}')
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="seeds; each arm is run with each")
    start: Overrides | None = Field(
        None,
        description="overrides of a run trained first for each seed; {start} in an arm is its model folder",
    )
    arms: dict[str, Overrides] = Field({}, description="overrides by name; the first is what others are compared with")
    axes: dict[str, tuple[Any, ...]] = Field({}, description="values by key; every combination is an arm of its own")
    launcher: tuple[str, ...] = Field((), description="options of DeepSpeed's launcher, such as --num_gpus 2")

    @model_validator(mode="after")
    def _has_arms(self) -> "GridSettings":
        if not self.arms and not self.axes:
            raise ValueError("the grid has neither arms nor axes: there is nothing to run")
        if any(not values for values in self.axes.values()):
            raise ValueError("an axis has no values")
        if self.start is None and START in json.dumps([self.arms, self.axes, self.set]):
            raise ValueError(f"an arm begins at {START}, but the grid has no start")
        if any(not 0 < len(name) < 80 or set(name) & set("/\\= ") for name in self.arms):
            raise ValueError("an arm's name becomes a folder's: letters, digits, - and _, fewer than 80")
        return self

    @model_validator(mode="after")
    def _has_a_folder_for_each_run(self) -> "GridSettings":
        starts = [f"start_{seed}" for seed in self.seeds if self.start is not None]
        runs = [f"{arm}_{seed}" for seed in self.seeds for arm, _ in self._along_axes()]
        if twice := [name for name, count in Counter(starts + runs).items() if count > 1]:
            raise ValueError(f"two runs are named {twice[0]}: give seeds, arms and the values of an axis once each")
        return self

    def combinations(self) -> dict[str, Overrides]:
        """The overrides of each arm, by its name; along axes it is named by keys and values, as temperature-2."""
        return dict(self._along_axes())

    def _along_axes(self) -> Iterator[tuple[str, Overrides]]:
        for (arm, overrides), places in itertools.product(
            (self.arms or {"": {}}).items(), itertools.product(*(range(len(values)) for values in self.axes.values()))
        ):
            along = list(zip(self.axes, places, strict=True))
            name = "_".join(filter(None, [arm, *(self._named(key, place) for key, place in along)]))
            yield name, overrides | {key: self.axes[key][place] for key, place in along}

    def _named(self, key: str, place: int) -> str:
        """A value on an axis as part of a folder's name: itself where it can be one, else by its place, as value0."""
        shown = str(self.axes[key][place])
        if not re.fullmatch(r"(?!value\d+$)[A-Za-z0-9_.-]{1,20}", shown):
            shown = f"value{place}"
        return f"{key.rpartition('.')[2]}-{shown}"


@dataclass(frozen=True)
class Job:
    """A run of the grid: `folder` below the grid's, its arm and seed, and all that it overrides."""

    folder: str
    arm: str
    seed: int
    overrides: Overrides

    def arguments(self, grid: GridSettings) -> list[str]:
        """What a command over its recipe is given."""
        return ["--config", str(resolve(grid.config)), *_sets(self.overrides | {"name": f"{grid.name}/{self.folder}"})]

    def recipe(self, grid: GridSettings) -> Recipe:
        """Its resolved recipe, in the precision that its commands take here.

        Raises:
            InputError: An override does not fit.
        """
        return in_own_precision(read_recipe(grid.config, self.arguments(grid)[3::2]), quiet=True)


def jobs(grid: GridSettings) -> tuple[list[Job], list[Job]]:
    """The runs from which others start, and those that are compared."""
    starts, runs = [], []
    for seed in grid.seeds:
        if grid.start is not None:
            starts.append(Job(f"start_{seed}", "start", seed, grid.set | grid.start | {"seed": seed}))
    # As the recipe writes it, so that results name no folder of this machine.
    base = f"{read_recipe(grid.config, _sets(grid.set)[1::2]).runs}/{grid.name}"
    # A seed of all arms before the next: cut off, the grid still compares like with like.
    for seed in grid.seeds:
        for arm, overrides in grid.combinations().items():
            begun = json.loads(json.dumps(grid.set | overrides).replace(START, f"{base}/start_{seed}/model"))
            runs.append(Job(f"{arm}_{seed}", arm, seed, begun | {"seed": seed}))
    return starts, runs


class Exploration:
    """Runs a grid.

    Args:
        grid: The grid.
        run: Runs a command and returns its exit status and the last line that it said.
    """

    def __init__(self, grid: GridSettings, run: Callable[[list[str]], tuple[int, str]]) -> None:
        self.grid, self._run = grid, run
        self.starts, self.runs = jobs(grid)
        self.teacher = Job("teacher", "teacher", grid.seeds[0], grid.set)
        for job in [self.teacher, *self.starts, *self.runs]:
            job.recipe(grid)  # all are checked before the first begins
        self.folder = self.teacher.recipe(grid).results_dir.parent
        self._done: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._filled: set[str] = set()
        if (path := self.folder / "grid.json").is_file():
            done = read_metrics(path).get("done")
            if not isinstance(done, dict):
                raise InputError(f"{path}: 'done' is not what this command writes; remove the file to run all anew")
            # Of a mark that this command does not write nothing is known: that run is not done.
            self._done = {name: mark for name, mark in done.items() if re.fullmatch("[0-9a-f]{16}", str(mark))}

    def explore(self) -> bool:
        """Runs what is not done yet; whether nothing failed."""
        everything = [self.teacher, *self.starts, *self.runs]
        begun, ran = time.monotonic(), 0
        for number, job in enumerate(everything, start=1):
            spent = time.monotonic() - begun
            left = f", {clock(spent / ran * (len(everything) - number + 1))} left" if ran else ""
            print(f"== {number}/{len(everything)} {self.grid.name}/{job.folder}{left}", flush=True)
            if self._is_done(job):
                print("done already")
                continue
            ran += 1
            if self._done.pop(job.folder, None):
                self._save()  # what it left is no longer all of the recipe that was noted
            failed = [s.folder for s in self.starts if s.folder in self._failed and self._begins_at(job, s)]
            reason = f"its start failed: {self._failed[failed[0]]}" if failed else self._one(job)
            if reason is None:
                self._done[job.folder] = self._fingerprint(job)
            else:
                self._failed[job.folder] = reason
                print(f"failed, and skipped: {reason}", flush=True)
            self._save()
        self._save()
        return not self._failed

    def _is_done(self, job: Job) -> bool:
        """Whether it was run as it is now, and what others need of it has not been deleted since."""
        if self._done.get(job.folder) != self._fingerprint(job):
            return False
        recipe = job.recipe(self.grid)
        if job in self.starts:
            waiting = (run for run in self.runs if self._begins_at(run, job) and not self._is_done(run))
            return (recipe.run_dir / "model").is_dir() or not any(waiting)
        return (recipe.results_dir / ("teacher" if job is self.teacher else "student") / "metrics.json").is_file()

    def _begins_at(self, job: Job, start: Job) -> bool:
        return f"{self.grid.name}/{start.folder}/model" in json.dumps(job.overrides)

    def _one(self, job: Job) -> str | None:
        """Runs the commands of a job; the reason, where one of them failed."""
        arguments, recipe = job.arguments(self.grid), job.recipe(self.grid)
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--quiet", *self.grid.launcher]
        evaluate = [sys.executable, "scripts/evaluate.py", *arguments, "--model"]
        if job is self.teacher:
            commands = [[*evaluate, "teacher"]]
        else:
            commands = [[*launcher, "distill/train.py", *arguments]]
            filled = recipe.model_dump_json(include={"data", "teacher", "cache", "generation"})
            if recipe.trains_from_cache and filled not in self._filled:
                commands.insert(0, [*launcher, "scripts/cache_teacher.py", *arguments])
            if job not in self.starts:
                commands.append([*evaluate, "student"])
        for command in commands:
            status, last = self._run(command)
            if status in (INTERRUPTED, -2):
                raise KeyboardInterrupt
            if status:
                return last or f"exit status {status}"
            if "scripts/cache_teacher.py" in command:
                self._filled.add(filled)
        return None

    def _fingerprint(self, job: Job) -> str:
        """A hash of its resolved recipe, and of that of its start: where either changes, it is run anew."""
        recipes = [of.recipe(self.grid) for of in [job, *self.starts] if of is job or self._begins_at(job, of)]
        return hashlib.sha256("\n".join(recipe.model_dump_json() for recipe in recipes).encode()).hexdigest()[:16]

    def _save(self) -> None:
        state = {
            "name": self.grid.name,
            "seeds": list(self.grid.seeds),
            "about": {arm: _about(overrides) for arm, overrides in self.grid.combinations().items()},
            "runs": [{"arm": job.arm, "seed": job.seed, "folder": job.folder} for job in self.runs],
            "done": self._done,
            "failed": self._failed,
        }
        with written_whole(self.folder / "grid.json") as path:
            path.write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def run_command(command: list[str]) -> tuple[int, str]:
    """Runs a command from the repository's root; shows what it says, and keeps its complaint or last line."""
    last = ""
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip() and not last.startswith("error: "):
                last = line.strip()
    return process.returncode, last.removeprefix("error: ")


def _sets(overrides: Overrides) -> list[str]:
    return [word for key, value in overrides.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def _about(overrides: Overrides) -> str:
    shown = [
        f"`{key}` = {json.dumps(value)}".replace(START, "the start of its seed") for key, value in overrides.items()
    ]
    return ", ".join(shown) or "as the recipe is"
