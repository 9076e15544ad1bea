"""Memory and speed of a recipe's models, timed in turn: what the machine does besides slows all of them alike."""

import statistics
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from data.paths import resolve
from data.progress import Progress
from distill.efficiency.timing import TTFT_PARTS, told_of, waves_of
from distill.efficiency.workers import DeviceWorker, Worker
from distill.models import packages
from distill.models.loading import checkpoint_shown
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import speech_file, speech_set
from student.device.llm_gguf import LLMFormat
from teacher.settings import Quantisation

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
        device_llm: How the LLM of its device package is stored; None: it runs in PyTorch.
    """

    which: Literal["teacher", "student"]
    quantise: Quantisation | None = None
    folder: Path | None = None
    device_llm: LLMFormat | None = None

    @classmethod
    def named(cls, name: str) -> "Measured | None":
        """The model of a row's name; None where no row has it."""
        ways = [
            (None, None),
            *((of, None) for of in get_args(Quantisation)),
            *((None, of) for of in get_args(LLMFormat)),
        ]
        found = (cls(which, how, None, llm) for which in ("teacher", "student") for how, llm in ways)
        return next((model for model in found if model.name == name), None)

    @property
    def name(self) -> str:
        """The row's name, and its results' folder."""
        how = f"device_{self.device_llm}" if self.device_llm else self.quantise
        return f"{self.which}_{how}" if how else self.which

    def dtype_shown(self, precision: str) -> str:
        """How its weights are stored, where the recipe's models are in `precision`."""
        if self.device_llm:
            return f"audio {packages.AUDIO}, llm {self.device_llm}"
        return f"{precision}, llm {self.quantise}" if self.quantise else precision


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


def _in_torch(recipe_file: Path, measured: Measured) -> Worker:
    command = ["-m", "distill.efficiency.timing", "--config", recipe_file, "--model", measured.which]
    command += ["--quantise", measured.quantise] if measured.quantise else []
    command += ["--folder", measured.folder] if measured.folder else []
    return Worker(measured.name, recipe_file.parent, command)


def measure(recipe: Recipe, models: Iterable[Measured], protocol: Protocol) -> dict:
    """Measures models in turn, those of one precision together: a process each, all of them in memory at once.

    Device packages are measured beside the models that are not quantised. They hear one clip at a time, and are not
    measured where a batch has several.

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
    folders = {
        model.name: packages.device_package(recipe, model.which, model.folder, model.device_llm)
        for model in models
        if model.device_llm
    }
    blocks: dict[str, dict] = {}
    began = datetime.now(timezone.utc)
    cells = sum(model.device_llm is None or batch == 1 for model in models for _, batch in protocol.cells)
    progress = Progress("measured", cells * (protocol.warmup + protocol.runs), "runs")
    with tempfile.TemporaryDirectory() as folder:
        recipe_file = Path(folder) / "recipe.json"
        recipe_file.write_text(recipe.model_dump_json())
        for precision in dict.fromkeys(model.quantise for model in models):
            together = [model for model in models if model.quantise == precision]
            blocks |= _in_turn(recipe, recipe_file, together, folders, protocol, progress)
    for model in models:
        as_stated = model.which == "teacher" and model.folder is None
        precision = recipe.teacher.precision_shown() if as_stated else recipe.teacher.dtype
        about = {"dtype": model.dtype_shown(precision), "quantise": model.quantise, "device_llm": model.device_llm}
        blocks[model.name] |= about | {"checkpoint": checkpoint_shown(recipe, model.folder)}
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


def _in_turn(
    recipe: Recipe,
    recipe_file: Path,
    models: list[Measured],
    folders: dict[str, Path],
    protocol: Protocol,
    progress: Progress,
) -> dict[str, dict]:
    """The blocks of models that are in memory together."""

    @cache
    def clip_file(seconds: float, sound: str) -> Path:
        path = recipe_file.with_name(f"{sound}_{seconds:g}.npy")
        np.save(path, waves_of(recipe, seconds, 1, sound)[0])
        return path

    with ExitStack() as stack:
        in_torch = [model for model in models if model.name not in folders]
        workers = [stack.enter_context(_in_torch(recipe_file, model)) for model in in_torch]
        threads = workers[0].about["threads"] if workers else torch.get_num_threads()
        for name in [model.name for model in models if model.name in folders]:
            of = DeviceWorker(name, recipe_file.parent, folders[name], threads, told_of(recipe), clip_file)
            workers.append(stack.enter_context(of))
        cells: dict[str, list[dict]] = {worker.name: [] for worker in workers}
        for seconds, batch in protocol.cells:
            hearing = [worker for worker in workers if batch <= (worker.longest_batch or batch)]
            runs: dict[str, list[dict]] = {worker.name: [] for worker in hearing}
            for number in range(protocol.warmup + protocol.runs):
                for worker in hearing:
                    run = worker.run(seconds, batch, protocol.tokens, protocol.sound, fresh=number == 0)
                    runs[worker.name].append(run)
                    progress.add(1)
            for name, of in runs.items():
                cells[name].append(cell_of(seconds, batch, of[protocol.warmup :], protocol))
        return {worker.name: _block(worker.about, cells[worker.name]) for worker in workers}


def cell_of(seconds: float, batch: int, runs: list[dict], protocol: Protocol) -> dict:
    """The runs of one length and batch size: medians, and the spread between the quartiles."""
    parts = [part for part in TTFT_PARTS if part in runs[0]]  # a device package's encoder has the connector in it
    counted = parts if protocol.counts_features else parts[1:]
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
