"""Memory and speed as the scores show them: of all models of a recipe that were scored, in one run."""

import json
from dataclasses import replace
from pathlib import Path

from data.errors import InputError
from data.paths import resolve, written_whole
from distill.efficiency.measuring import Measured, Protocol, measure, sound_of
from distill.recipe.recipe import Recipe
from distill.report.measured import measured_of
from distill.report.runs import read_metrics
from teacher.build import missing_parts

METRICS = ("ttft_s", "tpot_s", "peak_memory_bytes", "threads")


def measure_or_say(recipe: Recipe, results: Path, model: Measured) -> dict:
    """As `measure_scored`.

    Raises:
        InputError: It fails; the line says that the scores are there all the same.
    """
    try:
        return measure_scored(recipe, results, model)
    except (InputError, OSError) as error:
        raise InputError(
            f"memory and speed were not measured, only the scores count: {error}; mend that and start again (all texts "
            "are there), or leave it out with --set evaluation.measured_runs=0"
        ) from error


def measure_scored(recipe: Recipe, results: Path, model: Measured) -> dict:
    """Measures a model in turn with those that were scored before, so that ratios between them are of one run.

    Args:
        recipe: The recipe.
        results: The folder that holds a folder for each model; the others' metrics.json get their new figures.
        model: The model that is scored now.

    Returns:
        Its `ttft_s`, `tpot_s`, `peak_memory_bytes` and `threads`, and under `measured` how they were measured; nothing
        where the recipe asks for no run.

    Raises:
        InputError: It cannot be loaded. (Another that cannot be stops nothing.)
    """
    settings = recipe.evaluation
    if not settings.measured_runs:
        return {}
    others = [other for other in _scored(recipe, results) if other.name != model.name]
    protocol = Protocol("scoring", warmup=settings.warmup_runs, runs=settings.measured_runs, sound=sound_of(recipe))
    print(f"measuring memory and speed: {', '.join(of.name for of in [model, *others])}", flush=True)
    try:
        found = measure(recipe, [model, *others], protocol)
    except InputError as error:
        if not others:
            raise
        print(f"{error}\nmeasuring the {model.name} alone", flush=True)
        others, found = [], measure(recipe, [model], protocol)
    for other in others:
        path = results / other.name / "metrics.json"
        if (metrics := _metrics(path)) is None:
            continue  # it was whole before the measurement
        with written_whole(path) as temporary:
            text = json.dumps(metrics | _metrics_of(found, other.name), indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return _metrics_of(found, model.name)


def _metrics_of(found: dict, name: str) -> dict:
    return {key: found[name][key] for key in METRICS if key in found[name]} | {"measured": measured_of(found, name)}


def _scored(recipe: Recipe, results: Path) -> list[Measured]:
    """The models that have a metrics.json which can be read, and whose weights are there."""
    models = []
    for path in sorted(results.glob("*/metrics.json")):
        if (model := Measured.named(path.parent.name)) is None:
            continue
        if (metrics := _metrics(path)) is None:
            continue
        checkpoint = metrics.get("checkpoint")
        place = resolve(checkpoint if isinstance(checkpoint, str) else "")
        folder = place if (place / "config.json").is_file() else None
        if folder or (model.which == "teacher" and not missing_parts(recipe.teacher)):
            models.append(replace(model, folder=folder))
    return models


def _metrics(path: Path) -> dict | None:
    """The metrics of another model; None, and told, where the file is damaged: that stops no scoring of this one."""
    try:
        return read_metrics(path)
    except InputError as error:
        print(error, flush=True)
        return None
