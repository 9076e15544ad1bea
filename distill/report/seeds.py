"""The arms of a grid over seeds: mean and spread, and the difference to the first arm, paired by seed.

Two arms that share a seed share data order and initialisation, so the paired difference has less noise in it than the
difference of the means; with three seeds it is a hint, not a proof, and the table shows every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from statistics import mean, stdev

from data.errors import InputError
from data.kinds import kind_of
from distill.report.blocks import Block, Heading, Items, Table, Text
from distill.report.runs import Run, read_metrics, read_run, run_of, runs_reported
from distill.report.sets import sets_of, titled
from distill.report.table import MISSING, value

Shown = tuple[str, tuple[str, ...], float, int]
"""A figure: its name, the keys that lead to it in `_metrics`, the factor to the shown unit, digits."""


@dataclass(frozen=True)
class Grid:
    """What `grid.json` says of a grid's runs.

    Attributes:
        name: The grid's.
        runs: By folder those that were scored, the teacher's too.
        arms: By name the folders of its runs, in the order of the seeds.
        seeds: Their seeds.
        about: What each arm overrides.
        failures: Runs that failed, each with its reason.
    """

    name: str
    runs: dict[str, Run]
    arms: dict[str, list[str]]
    seeds: list[int]
    about: dict[str, str]
    failures: dict[str, str]


def read_grid(folder: Path) -> Grid:
    """Reads a grid's folder, whose runs' folders lie in it; where a machine has only the report, from its figures.

    Raises:
        InputError: `grid.json` is not what `scripts/explore.py` writes.
    """
    path = folder / "grid.json"
    state = read_metrics(path)
    try:
        runs, seeds = state["runs"], [int(seed) for seed in state["seeds"]]
        arms: dict[str, list[str]] = {}
        for run in runs:
            arms.setdefault(run["arm"], []).append(run["folder"])
        return Grid(
            state["name"],
            _scored(folder, state["name"], ["teacher", *(run["folder"] for run in runs)]),
            arms,
            seeds,
            {str(name): str(text) for name, text in state["about"].items()},
            {run["folder"]: run["failed"] for run in runs if run.get("failed")} | state.get("failed", {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not as scripts/explore.py writes it ({error!r}); run it again") from error


def _scored(folder: Path, grid: str, names: list[str]) -> dict[str, Run]:
    scored = {name: read_run(folder / name) for name in names if list((folder / name).glob("*/metrics.json"))}
    if scored:
        return scored
    reported = runs_reported(folder)
    of = {name: (label, folder / name) for name in names if (label := f"{grid}/{name}") in reported}
    return {name: run_of(*where, reported[where[0]], page=folder) for name, where in of.items()}


def arms_section(grid: Grid) -> list[Block]:
    """The arms side by side; every run; and what failed."""
    metrics = {arm: [_metrics(grid.runs.get(folder)) for folder in folders] for arm, folders in grid.arms.items()}
    shown = _shown_metrics(metrics)
    baseline = next(iter(metrics))
    header = ["arm", *(title for name, *_ in shown for title in (name, f"minus {baseline}"))]
    summary, every_run = [], []
    for arm, runs in metrics.items():
        line = [arm]
        for name, place, factor, digits in shown:
            amounts, first = ([_scaled(run, place, factor) for run in some] for some in (runs, metrics[baseline]))
            paired = [None if None in pair else pair[0] - pair[1] for pair in zip(amounts, first, strict=True)]
            line += [_spread(amounts, digits), MISSING if arm == baseline else _spread(paired, digits, sign="+")]
            every_run.append([arm, name, *(MISSING if x is None else f"{x:.{digits}f}" for x in amounts)])
        summary.append(line)
    blocks: list[Block] = [
        Heading("Arms"),
        Items([f"`{arm}`: {about}" for arm, about in grid.about.items()]),
        Table(header, summary),
        Text(
            f"Mean ± sample standard deviation over seeds ({len(grid.seeds)}; no interval), and the difference to "
            f"`{baseline}` paired by seed. WER and cross-entropy (nats a token, on the validation clips at the last "
            "step): lower is better. CIDEr-D: higher is better."
        ),
    ]
    if len(grid.seeds) > 1:
        blocks.append(Table(["arm", "", *(f"seed {seed}" for seed in grid.seeds)], every_run))
    if grid.failures:
        blocks += [Text("Failed:"), Items([f"{name}: {reason}" for name, reason in grid.failures.items()])]
    return blocks


def _metrics(run: Run | None) -> dict:
    """A student's metrics, and under `validation` what its run last saw of each held-out set; empty if it failed."""
    if run is None or "student" not in run.models:
        return {}
    return run.models["student"] | {"validation": {row["set"]: row for row in run.validation}}


def _of_set(name: str) -> Shown:
    if kind_of(name) == "asr":
        return f"{titled('WER', name)}, %", (name, "wer"), 100, 1
    return titled("CIDEr-D", name), (name, "cider_d"), 1, 3


def _shown_metrics(metrics: dict[str, list[dict]]) -> list[Shown]:
    """The figures that a run has."""
    looks = dict.fromkeys(name for runs in metrics.values() for run in runs for name in run.get("validation", {}))
    wanted = [_of_set(name) for name in sets_of(run for runs in metrics.values() for run in runs)]
    wanted += [(f"cross-entropy, {name}", ("validation", name, "ce"), 1, 3) for name in looks]
    everything = [run for runs in metrics.values() for run in runs]
    return [metric for metric in wanted if any(_scaled(run, metric[1], 1) is not None for run in everything)]


def _scaled(run: dict, place: Sequence[str], factor: float) -> float | None:
    """The number at a place; a set's name is no part of a dotted key, as its file's name may have a dot."""
    *names, key = place
    amount = value(reduce(lambda block, name: block.get(name, {}), names, run), key)
    return None if amount is None else factor * amount


def _spread(amounts: list[float | None], digits: int, sign: str = "") -> str:
    """Mean ± sample standard deviation; a mean over fewer seeds than the other arms have is not shown."""
    if None in amounts:
        return MISSING
    deviation = f" ± {stdev(amounts):.{digits}f}" if len(amounts) > 1 else ""
    return f"{mean(amounts):{sign}.{digits}f}{deviation}"
