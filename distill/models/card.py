"""What a trained model's folder says of it: `usage.json`, `card.json`, and the model card (README.md) made of both."""

import json
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from safetensors import safe_open

from data.errors import InputError
from data.kinds import kind_of
from data.paths import written_whole
from data.rows.manifest import Manifest
from data.strict_json import loads
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from distill.report.card import model_card
from student.use.usage import read_usage, usage_of, write_usage
from teacher.weights import weight_files

FILE = "card.json"
_SCORES = ("wer", "wer_low", "wer_high", "cider_d", "cider_d_low", "cider_d_high", "clips", "kind")
_COSTS = ("ttft_s", "tpot_s", "peak_memory_bytes", "device", "dtype")


def describe(recipe: Recipe, folder: Path) -> None:
    """Writes how a model is used and what it is into its folder, which has its weights already."""
    rows = _training_rows(recipe)
    learnt = None if rows is None else _lengths_of(rows)
    write_usage(usage_of(recipe.data.prompts, recipe.generation, recipe.data.mono, learnt), folder)
    facts = {
        "recipe": recipe.name,
        "description": recipe.description,
        "model": "teacher" if recipe.student is None else "student",
        "made_of": _made_of(recipe),
        "stages": [{"name": stage.name, "steps": stage.steps} for stage in recipe.train.stages],
        "random_weights": recipe.teacher.random_weights,
        "data": None if rows is None else _data_of(rows),
        **_sizes(folder),
    }
    _write(folder, facts)


def add_scores(folder: Path, metrics: dict) -> None:
    """Writes the card anew, with what a model was scored and measured; one without `card.json` is left as it is.

    Args:
        folder: The model's.
        metrics: What `metrics.json` has of it.

    Raises:
        InputError: `card.json` is broken.
    """
    if not (folder / FILE).is_file():
        return
    try:
        facts = loads((folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise InputError(f"{folder / FILE}: cannot be read ({error}); delete it, or train the model again") from None
    sets = {name: block for name, block in metrics.items() if kind_of(name)}
    facts["scores"] = {
        name: {key: block[key] for key in _SCORES if block.get(key) is not None} for name, block in sets.items()
    }
    facts["measured"] = {key: metrics[key] for key in _COSTS if metrics.get(key) is not None}
    _write(folder, facts)


def _write(folder: Path, facts: dict) -> None:
    page = model_card(facts, read_usage(folder))
    for name, text in ((FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n"), ("README.md", page)):
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")


def _made_of(recipe: Recipe) -> dict[str, str]:
    """The pretrained parts by name: where they lie means something on one machine alone."""
    named = {"encoder": recipe.teacher.encoder, "beats": recipe.teacher.beats, "llm": recipe.teacher.llm}
    if recipe.student is not None:
        named |= {"weights of the teacher": recipe.teacher.weights, "base": recipe.student.base}
        named |= {"llm of the student": recipe.student.llm}
    return {part: Path(name).name if name.startswith(("{", "/", ".")) else name for part, name in named.items() if name}


def _training_rows(recipe: Recipe) -> Manifest | None:
    """The rows; None where they cannot be read any more."""
    try:
        with redirect_stdout(StringIO()):  # what it says of rows was said when training began
            return read_rows(recipe, recipe.data.train)
    except (InputError, OSError):
        return None


def _data_of(rows: Manifest) -> list[dict]:
    """Rows and hours of each corpus and task."""
    counts: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    columns = rows.values("corpus"), rows.values("task"), rows.durations_s.tolist()
    for corpus, task, seconds in zip(*columns, strict=True):
        count = counts[corpus or "unnamed", task]
        count[0] += 1
        count[1] += seconds
    return [
        {"corpus": corpus, "task": task, "rows": number, "hours": round(seconds / 3600, 2)}
        for (corpus, task), (number, seconds) in sorted(counts.items())
    ]


def _lengths_of(rows: Manifest) -> dict[str, float]:
    """How long nearly all clips (99%) of each task are at most, seconds."""
    tasks = rows.table.column("task").unique().to_pylist()
    masks = {task: rows.among("task", [task]) for task in tasks}
    return {task: float(np.percentile(rows.durations_s[mask], 99)) for task, mask in masks.items() if mask.any()}


def _sizes(folder: Path) -> dict:
    """Parameters of each part, as the folder's files have them, and the files' bytes."""
    parts: dict[str, int] = defaultdict(int)
    files = weight_files(folder)
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dictionary)
                shape = tensors.get_slice(name).get_shape()
                count = 1
                for length in shape:
                    count *= length
                parts[name.split(".")[0]] += count
    return {"parameters": dict(parts), "weight_bytes": sum(file.stat().st_size for file in files)}
