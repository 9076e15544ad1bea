"""Memory and speed of a recipe's models, timed in turn: what the machine does besides slows all of them alike."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from data.errors import InputError
from data.paths import REPOSITORY, resolve
from data.progress import Progress
from distill.efficiency.timing import TTFT_PARTS
from distill.models.loading import checkpoint_shown
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import speech_file, speech_set

HEADLINE_S = 10.0
COMPARED = (
    *("parameters", "weight_bytes", "peak_memory_bytes", "model_memory_bytes", "ttft_s", "tpot_s", "end_to_end_s"),
    "rtfx",
)


@dataclass(frozen=True)
class Measured:
    """A model to be measured.

    Attributes:
        which: "teacher" or "student".
        quantise: Its LLM's quantisation, or None.
        folder: A model folder instead of the run's own.
    """

    which: Literal["teacher", "student"]
    quantise: str | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The row's name, and its results' folder."""
        return f"{self.which}_{self.quantise}" if self.quantise else self.which


@dataclass(frozen=True)
class Protocol:
    """How models are measured.

    Attributes:
        name: "default", or "reference".
        seconds: Lengths of the clips; the headline is 10 s, or the longest.
        batches: Batch sizes: the first at every length, the others at the headline's.
        warmup: Runs of each model that do not count.
        runs: Runs that do.
        tokens: Tokens after the first one, whose mean is the TPOT.
        sound: "speech" (held-out recordings) or "noise".
        counts_features: Whether the TTFT begins with the samples, or once the features are there.
    """

    name: str = "default"
    seconds: tuple[float, ...] = (HEADLINE_S,)
    batches: tuple[int, ...] = (1,)
    warmup: int = 2
    runs: int = 10
    tokens: int = 64
    sound: Literal["speech", "noise"] = "noise"
    counts_features: bool = True

    @property
    def cells(self) -> list[tuple[float, int]]:
        """Length and batch size of everything that is timed, the headline first."""
        headline = HEADLINE_S if HEADLINE_S in self.seconds else max(self.seconds)
        lengths = sorted(self.seconds, key=lambda length: (length != headline, length))
        return [(s, self.batches[0]) for s in lengths] + [(headline, batch) for batch in self.batches[1:]]


REFERENCE = Protocol("reference", warmup=10, runs=100, tokens=1, counts_features=False)
"""The reference's: 10 s of noise, batch 1, features ready, one decoding step; unlike it we synchronise the clock."""


def sound_of(recipe: Recipe) -> Literal["speech", "noise"]:
    """Speech where the recipe's held-out recordings are on this machine."""
    held_out = speech_file(recipe)
    return "speech" if held_out and resolve(held_out).is_file() else "noise"


_LAUNCHER = {"RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_SIZE"}


def alone() -> dict[str, str]:
    """The environment of a process that is no rank: one of several on the CPU would take a part of the threads."""
    left = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
    if "TORCHELASTIC_RUN_ID" in left and left.get("OMP_NUM_THREADS") == "1":
        del left["OMP_NUM_THREADS"]  # torchrun's, for its ranks
    return left


class _Worker:
    """A process that holds one model and times it when told."""

    def __init__(self, recipe_file: Path, measured: Measured) -> None:
        self.name, self.log = measured.name, recipe_file.with_name(f"{measured.name}.log")
        command = [
            sys.executable,
            "-m",
            "distill.efficiency.timing",
            "--config",
            str(recipe_file),
            "--model",
            measured.which,
        ]
        command += ["--quantise", measured.quantise] if measured.quantise else []
        command += ["--folder", str(measured.folder)] if measured.folder else []
        # Answers have a pipe of their own: libraries print to the standard output, some while they are imported.
        reading, writing = os.pipe()
        command += ["--answers", str(writing)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=alone(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                text=True,
            )
        os.close(writing)
        self.answers = os.fdopen(reading)

    def __enter__(self) -> "_Worker":
        try:
            self.about = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.answers.close()

    def run(self, **what: object) -> dict:
        with suppress(BrokenPipeError):  # it ended; its last words are read below
            print(json.dumps(what), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.answers.readline()
        if not line:
            status = self.process.wait()
            message = (self.log.read_text().strip().splitlines() or ["no message"])[-1]
            cause = "killed, most likely for want of memory" if status == -9 else message
            raise InputError(f"measuring the {self.name} failed: {cause}")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])
        return answer


def measure(recipe: Recipe, models: Iterable[Measured], protocol: Protocol) -> dict:
    """Measures models in turn, those of one precision together: a process each, all of them in memory at once.

    Args:
        recipe: The recipe.
        models: Which models; a ratio is to the one called "teacher".
        protocol: Lengths, batches, runs.

    Returns:
        What efficiency.json holds: how it was measured; by name of the model `parameters`, `weight_bytes`,
        `peak_memory_bytes`, `ttft_s` with `ttft_parts_s` (which add up to it), `tpot_s`, `end_to_end_s`, `rtfx` by
        length, and all `cells`; `ratio` (student over teacher) and `ratios` (every model over the teacher).

    Raises:
        InputError: A model cannot be loaded, or its process ended.
    """
    models = list(models)
    blocks: dict[str, dict] = {}
    began = datetime.now(timezone.utc)
    progress = Progress("measured", len(models) * len(protocol.cells) * (protocol.warmup + protocol.runs), "runs")
    with tempfile.TemporaryDirectory() as folder:
        recipe_file = Path(folder) / "recipe.json"
        recipe_file.write_text(recipe.model_dump_json())
        for precision in dict.fromkeys(model.quantise for model in models):
            together = [model for model in models if model.quantise == precision]
            blocks |= _in_turn(recipe_file, together, protocol, progress)
    for model in models:
        as_stated = model.which == "teacher" and model.folder is None
        precision = recipe.teacher.precision_shown() if as_stated else recipe.teacher.dtype
        shown = f"{precision}, llm {model.quantise}" if model.quantise else precision
        about = {"dtype": shown, "quantise": model.quantise, "checkpoint": checkpoint_shown(recipe, model.folder)}
        blocks[model.name] |= about
    ratios = {name: _ratio(block, blocks["teacher"]) for name, block in blocks.items() if "teacher" in blocks}
    return {
        "recipe": recipe.name,
        "random_weights": recipe.teacher.random_weights,
        "at": began.isoformat(timespec="seconds"),
        "protocol": vars(protocol) | ({"sound_set": speech_set(recipe)} if protocol.sound == "speech" else {}),
        **{model.name: blocks[model.name] for model in models},
        "ratio": ratios.get("student", {}),
        "ratios": ratios,
    }


def _in_turn(recipe_file: Path, models: list[Measured], protocol: Protocol, progress: Progress) -> dict[str, dict]:
    """The blocks of models that are in memory together."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(recipe_file, model)) for model in models]
        cells: dict[str, list[dict]] = {worker.name: [] for worker in workers}
        for seconds, batch in protocol.cells:
            runs: dict[str, list[dict]] = {worker.name: [] for worker in workers}
            for number in range(protocol.warmup + protocol.runs):
                for worker in workers:
                    what = {"seconds": seconds, "batch": batch, "tokens": protocol.tokens, "sound": protocol.sound}
                    runs[worker.name].append(worker.run(**what, fresh=number == 0))
                    progress.add(1)
            for name, of in runs.items():
                cells[name].append(cell_of(seconds, batch, of[protocol.warmup :], protocol))
        return {worker.name: _block(worker.about, cells[worker.name]) for worker in workers}


def cell_of(seconds: float, batch: int, runs: list[dict], protocol: Protocol) -> dict:
    """The runs of one length and batch size: medians, and the spread between the quartiles."""
    counted = TTFT_PARTS if protocol.counts_features else TTFT_PARTS[1:]
    first = [sum(run[part] for part in counted) for run in runs]
    # The parts of the median run: they add up, as medians of the parts would not.
    median = runs[first.index(statistics.median_low(first))]
    steps, totals = [run["step"] for run in runs], [run["total"] for run in runs]
    end_to_end = statistics.median(totals)
    return {
        "seconds": seconds,
        "batch": batch,
        "ttft_s": statistics.median_low(first),
        "ttft_iqr_s": _spread(first),
        "ttft_parts_s": {part: median[part] for part in counted},
        "features_s": statistics.median([run["features"] for run in runs]),
        "tpot_s": statistics.median(steps),
        "tpot_iqr_s": _spread(steps),
        "end_to_end_s": end_to_end,
        "end_to_end_iqr_s": _spread(totals),
        "rtfx": batch * seconds / end_to_end,
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
    }


def _spread(values: list[float]) -> float:
    """Between the first and the third quartile."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _block(about: dict, cells: list[dict]) -> dict:
    """A model's figures: the headline's own, and all cells."""
    headline = cells[0]
    single = [cell for cell in cells if cell["batch"] == headline["batch"]]
    parts = about["parts"]
    in_16_bits = parts["llm"] + parts["embeddings"]
    return about | {
        # The teacher as its authors run it: LLM in 16 bits, all else in 32.
        "weight_bytes_as_released": 4 * (about["parameters"] - in_16_bits) + 2 * in_16_bits,
        **headline,
        "model_memory_bytes": headline["peak_memory_bytes"] - about["process_bytes"],
        "rtfx": {f"{cell['seconds']:g}": cell["rtfx"] for cell in sorted(single, key=lambda cell: cell["seconds"])},
        "cells": cells,
    }


def _ratio(block: dict, teacher: dict) -> dict:
    """A model's figures over the teacher's."""
    ratio: dict = {}
    for key in COMPARED:
        above, below = block[key], teacher[key]
        ratio[key] = {s: above[s] / below[s] for s in above} if isinstance(above, dict) else above / below
    released = teacher["weight_bytes_as_released"]
    return ratio | {"weight_bytes_to_teacher_as_released": block["weight_bytes"] / released}
