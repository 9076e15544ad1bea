"""report.md: the table, what was measured, the learning curve, examples side by side, the recipe."""

from pathlib import Path

from data.paths import REPOSITORY
from distill.report.plot import LOSSES
from distill.report.table import HEADER, MISSING, markdown, rows, value

EXAMPLES_A_TASK = 4
CURVE_ROWS = 8


def page(folder: Path, report: dict, metrics: dict[str, dict], steps: list[dict]) -> str:
    """The page of one results folder.

    Args:
        folder: The results folder, for its name and the run's recipe.
        report: What report.json will hold.
        metrics: The models' metrics as they were read, with their examples.
        steps: The training's log, a row a step; may be empty.
    """
    parts = [f"# {folder.resolve().name}: teacher and student", markdown(HEADER, rows(report))]
    parts += [f"Note: {note}." for note in report["notes"]]
    parts += [
        "WER with its 95% bootstrap interval over clips. CIDEr-D runs from 0 to 10; in brackets, that of the same "
        "captions shuffled among the clips, which is chance. TTFT: time to the first token; TPOT: time for each "
        "further token. Ratio: student over teacher.",
        "\n".join(_measured(model, block) for model, block in metrics.items()),
        "![Accuracy against memory and latency](report.png)",
    ]
    if steps:
        parts += ["## Learning curve of the student", _curve(steps)]
    if examples := _examples(metrics):
        parts += ["## Examples", markdown(("task", "reference", *metrics), examples)]
    parts += ["## Recipe", _recipe(folder, metrics)]
    return "\n\n".join(parts) + "\n"


def _measured(model: str, block: dict) -> str:
    """Which checkpoint, on how many clips, in which precision, on which device."""
    counts = [(value(block, key), what) for key, what in (("asr.clips", "speech"), ("aac.clips", "captioned"))]
    clips = " and ".join(f"{count} {what}" for count, what in counts if count is not None) or "no"
    where = f"{block.get('dtype', MISSING)} on {block.get('device', MISSING)}"
    return f"- {model}: checkpoint `{block.get('checkpoint', MISSING)}`, {clips} clips, {where}"


def _curve(steps: list[dict]) -> str:
    """A few evenly spaced steps; all of them are in the picture."""
    losses = [name for name in LOSSES if any(name in row for row in steps)]
    chosen = sorted({round(i * (len(steps) - 1) / (CURVE_ROWS - 1)) for i in range(CURVE_ROWS)})
    lines = []
    for row in (steps[i] for i in chosen):
        amounts = [value(row, name) for name in losses]
        lines.append((str(row["step"]), *(MISSING if amount is None else f"{amount:.3f}" for amount in amounts)))
    return markdown(("step", *losses), lines)


def _examples(metrics: dict[str, dict]) -> list[tuple[str, ...]]:
    """A few clips of each task that all models here were given: task, reference, a hypothesis a model."""
    by_model = [{(row["task"], row["id"]): row for row in block.get("examples", [])} for block in metrics.values()]
    shared = [key for key in by_model[0] if all(key in examples for examples in by_model)]
    lines = []
    for task in dict.fromkeys(task for task, _ in shared):
        for key in [key for key in shared if key[0] == task][:EXAMPLES_A_TASK]:
            reference = by_model[0][key]["reference"]
            first = reference if isinstance(reference, str) else reference[0]
            lines.append((task, first, *(examples[key]["hypothesis"] for examples in by_model)))
    return lines


def _recipe(folder: Path, metrics: dict[str, dict]) -> str:
    """Where the settings stand: the recipe by its name, and the resolved one that the run saved."""
    name = next(iter(metrics.values())).get("recipe", folder.resolve().name)
    places = [f"`configs/{name}.json`"] if (REPOSITORY / "configs" / f"{name}.json").is_file() else []
    places += ["`recipe.json` beside this page, as it was run"] if (folder / "recipe.json").is_file() else []
    return "; ".join(places) or f"`{name}` (its file is neither in configs/ nor beside this page)"
