"""Arms of an ablation over seeds: mean and spread, and the difference to the first arm, paired by seed.

Two arms that share a seed share data order and initialisation, so the paired difference has less noise in it than the
difference of the means; with three seeds it is a hint, not a proof, and the table shows every run.
"""

import json
from pathlib import Path
from statistics import mean, stdev

from data.errors import InputError
from distill.report import read_metrics, read_validation
from distill.report.table import MISSING, markdown, value

# Name, key in metrics.json, factor to the shown unit, digits.
FIGURES = [("WER, %", "asr.wer", 100, 1), ("CIDEr-D", "aac.cider_d", 1, 3)]


def read_arms(arguments: list[str]) -> dict[str, list[dict]]:
    """Reads `ARM=FOLDER[,FOLDER...]` arguments: the metrics of each arm's runs, the same seeds in the same order.

    Args:
        arguments: One text an arm; a folder holds `student/metrics.json`, or is a model's folder itself.

    Raises:
        InputError: An argument of another form, an arm given twice, arms with different numbers of runs.
    """
    arms = {}
    for argument in arguments:
        name, equals, folders = argument.partition("=")
        if not (name and equals and folders):
            raise InputError(f"--ablation {argument}: write ARM=FOLDER[,FOLDER...]")
        if name in arms:
            raise InputError(f"--ablation {argument}: the arm {name} is given twice")
        arms[name] = [_read_run(Path(folder)) for folder in folders.split(",")]
    counts = {name: len(runs) for name, runs in arms.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"--ablation: the arms need the same seeds, so as many runs each, not {counts}")
    return arms


def ablation_page(arms: dict[str, list[dict]]) -> str:
    """The ablation in Markdown.

    Args:
        arms: The metrics of each arm's runs; the i-th runs of all arms share a seed. The first arm is the baseline.
    """
    baseline, seeds = next(iter(arms)), len(next(iter(arms.values())))
    looks = dict.fromkeys(name for runs in arms.values() for run in runs for name in run.get("validation", {}))
    figures = [*FIGURES, *((f"cross-entropy, {name}", f"validation.{name}.ce", 1, 3) for name in looks)]
    header = ["arm"] + [title for name, *_ in figures for title in (name, f"minus {baseline}")]
    summary, every_run = [], []
    for arm, runs in arms.items():
        line = [arm]
        for name, key, factor, digits in figures:
            amounts, first = ([_scaled(run, key, factor) for run in some] for some in (runs, arms[baseline]))
            paired = [None if None in pair else pair[0] - pair[1] for pair in zip(amounts, first, strict=True)]
            line += [_spread(amounts, digits), MISSING if arm == baseline else _spread(paired, digits, sign="+")]
            every_run.append((arm, name, *(MISSING if x is None else f"{x:.{digits}f}" for x in amounts)))
        summary.append(line)
    numbers = [_recipe(run).get("seed", i) for i, run in enumerate(arms[baseline])]
    return (
        "\n\n".join(
            [
                "# Ablation",
                f"Mean ± sample standard deviation over seeds ({seeds}; no interval), and the difference to "
                f"`{baseline}` paired by seed. WER and cross-entropy (nats a token, on the validation clips at the "
                "last step): lower is better. CIDEr-D: higher is better.",
                *filter(None, (_what_it_is(arm, runs[0]) for arm, runs in arms.items())),
                markdown(header, summary),
                "Every run:",
                markdown(("arm", "", *(f"seed {number}" for number in numbers)), every_run),
            ]
        )
        + "\n"
    )


def _recipe(run: dict) -> dict:
    return run.get("recipe_as_run", {})


def _what_it_is(arm: str, run: dict) -> str:
    """The arm's last stage, from the recipe that it was run with."""
    if not (recipe := _recipe(run)):
        return ""
    stage = recipe["train"]["stages"][-1]
    losses = " + ".join(f"{weight:g} {name}" for name, weight in stage["losses"].items() if weight)
    start = (recipe["student"] or {}).get("weights")
    start = f"from `{Path(start).parts[-2].rpartition('_')[0]}` of its seed, " if start else ""
    return f"`{arm}`: {losses}; {start}{stage['steps']} steps on `{Path(recipe['data']['train']).name}`."


def _read_run(folder: Path) -> dict:
    """A run's metrics, and under `validation` what it last saw of each held-out set in training."""
    if not (folder / "metrics.json").is_file():
        folder = folder / "student"
    rows = read_validation(folder.parent / "validation.jsonl")
    recipe = folder.parent / "recipe.json"
    return read_metrics(folder / "metrics.json") | {
        "validation": {row["set"]: row for row in rows},
        "recipe_as_run": json.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {},
    }


def _scaled(run: dict, key: str, factor: float) -> float | None:
    amount = value(run, key)
    return None if amount is None else factor * amount


def _spread(amounts: list[float | None], digits: int, sign: str = "") -> str:
    """Mean ± sample standard deviation; a mean over fewer seeds than the other arms have is not shown."""
    if None in amounts:
        return MISSING
    deviation = f" ± {stdev(amounts):.{digits}f}" if len(amounts) > 1 else ""
    return f"{mean(amounts):{sign}.{digits}f}{deviation}"
