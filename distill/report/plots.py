"""The pictures of a report: accuracy against cost, published systems, loss curves, WER by clip length."""

import re
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.report.leaderboard import Column, Entry, scores
from distill.report.published import SYSTEMS, WHERE, same_speech
from distill.report.runs import Run
from distill.report.sets import titled
from distill.report.table import value

COSTS = [("peak_memory_bytes", 2**20, "peak memory, MiB"), ("ttft_s", 1e-3, "TTFT, ms"), ("tpot_s", 1e-3, "TPOT, ms")]
PUBLISHED_COSTS = [("memory_gib", 1, "peak memory, GiB"), ("ttft_s", 1e-3, "TTFT, ms"), ("tpot_s", 1e-3, "TPOT, ms")]
LOSSES = {"loss": "loss", "ce": "cross-entropy", "kd": "distillation"}


def draw_pareto(lines: Sequence[Entry], path: Path) -> None:
    """Accuracy against memory and latency; a line joins the models that no other beats in both.

    Published systems stand on the same axes where a model was scored on their clips.
    """
    styles = _styles(line.label for line in lines)
    shown = [column for column in scores(lines) if any(value(line.block, column.key) is not None for line in lines)]
    figure = Figure(figsize=(11, 0.6 + 3.2 * len(shown) + _legend_height(styles)), layout="constrained")
    axes = figure.subplots(len(shown), len(COSTS), squeeze=False)
    for column, row in zip(shown, axes, strict=True):
        for (key, unit, label), place in zip(COSTS, row, strict=True):
            _cost(place, lines, styles, column, key, unit)
            if (points := _published_points(lines, column, key)) is not None:
                place.plot(*points, "*", ms=10, mfc="none", mec="#555", label=f"published ({WHERE})")
            _finish(place, label, f"{column.label} ({'higher' if column.higher_is_better else 'lower'} is better)")
    _legend(figure)
    figure.savefig(path, format="png", dpi=130)


def draw_published(path: Path) -> None:
    """The published systems, on axes of their own."""
    styles = _styles(system.name for system in SYSTEMS)
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes = figure.subplots(2, len(PUBLISHED_COSTS))
    for row, (of, unit, label) in zip(axes, (("wer", 0.01, "WER, %"), ("aac", 1, "caption score")), strict=True):
        for place, (key, cost_unit, cost_label) in zip(row, PUBLISHED_COSTS, strict=True):
            for system in SYSTEMS:
                x, y = getattr(system, key), getattr(system, of)
                if None not in (x, y):
                    place.plot(x / cost_unit, y / unit, "*", ms=13, mec="white", mew=0.6, **styles[system.name])
            _finish(place, cost_label, f"{label} ({'lower' if of == 'wer' else 'higher'} is better)")
    _legend(figure, columns=2)
    figure.savefig(path, format="png", dpi=130)


def draw_losses(runs: Sequence[Run], path: Path) -> None:
    """Losses by step, and what validation saw; of a single run its parts, of several runs their whole losses."""
    looks = any(value(row, "wer") is not None for run in runs for row in run.validation)
    if len(runs) == 1:
        curves = {label: (runs[0], name) for name, label in LOSSES.items()}
    else:
        curves = {run.name: (run, "loss") for run in runs}
    styles = _styles(curves)
    figure = Figure(figsize=(11, 4 + _legend_height(styles)), layout="constrained")
    axes = figure.subplots(1, 1 + looks, squeeze=False, width_ratios=[2, 1][: 1 + looks])[0]
    for label, (run, name) in curves.items():
        _curve(axes[0], run.steps, name, **styles[label])
    _finish(axes[0], "optimizer step", "loss (weighted sum; nats a token)" if len(runs) > 1 else "loss, nats a token")
    if looks:
        for run in runs:
            _validation(axes[1], run, styles.get(run.name))
        _finish(axes[1], "optimizer step", "WER on validation clips, %")
    _legend(figure)
    figure.savefig(path, format="png", dpi=130)


def draw_durations(timed: dict[str, Sequence[Entry]], path: Path) -> None:
    """WER of each class of clip length, of the lines of each test set."""
    styles = _styles(dict.fromkeys(line.label for lines in timed.values() for line in lines))
    figure = Figure(figsize=(11, 0.4 + 3.2 * len(timed) + _legend_height(styles)), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(len(timed), squeeze=False)[:, 0], timed.items(), strict=True):
        _durations(axes, lines, name, styles)
        _finish(axes, "clip length", f"{titled('WER', name)}, % (lower is better)", from_zero=False)
        axes.set_ylim(0)
    _legend(figure)
    figure.savefig(path, format="png", dpi=130)


def _durations(axes: Axes, lines: Sequence[Entry], of_set: str, styles: dict) -> None:
    classes = list(dict.fromkeys(name for line in lines for name in line.block[of_set]["by_duration"]))
    classes.sort(key=lambda name: int(name.removeprefix("over ").split()[0]) + 0.5 * name.startswith("over"))
    for line in lines:
        found = {name: value(line.block[of_set]["by_duration"], f"{name}.wer") for name in classes}
        points = [(place, 100 * found[name]) for place, name in enumerate(classes) if found[name] is not None]
        axes.plot(*zip(*points, strict=True), "o-", **styles[line.label])
    axes.set_xticks(range(len(classes)), classes)


def _cost(axes: Axes, lines: Sequence[Entry], styles: dict, column: Column, key: str, unit: float) -> None:
    points = []
    for line in lines:
        cost, score = value(line.block, key), value(line.block, column.key)
        if None in (cost, score):
            continue
        x, y = cost / unit, score / column.unit
        bounds = [value(line.block, f"{column.key}_{end}") for end in ("low", "high")]
        if None not in bounds:
            low, high = (bound / column.unit for bound in bounds)
            axes.errorbar(
                x, y, [[max(y - low, 0)], [max(high - y, 0)]], color=styles[line.label]["color"], capsize=3, lw=1
            )
        marker = "s" if line.model.startswith("teacher") else "o"
        axes.plot(x, y, marker, ms=8, zorder=3, **styles[line.label])
        points.append((x, -y if column.higher_is_better else y))
    front = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    if len(front) > 1:
        x, y = zip(*sorted(front), strict=True)
        axes.step(x, np.abs(y), where="post", color="#999", lw=1, ls="--", label="not beaten in both")


def _published_points(lines: Sequence[Entry], column: Column, key: str) -> tuple[list[float], list[float]] | None:
    if column.higher_is_better or not any(same_speech(line.block.get(column.of_set, {})) for line in lines):
        return None
    name, unit = {"peak_memory_bytes": ("memory_gib", 2**-10)}.get(key, (key, 1e-3))
    found = [(getattr(of, name) / unit, 100 * of.wer) for of in SYSTEMS if getattr(of, name) is not None]
    return tuple(map(list, zip(*found, strict=True)))


def _curve(axes: Axes, steps: list[dict], name: str, color: tuple, label: str) -> None:
    """A loss by step, pale, and its running mean over about a thirtieth of the run, stage by stage."""
    by_stage: dict[str, list[tuple[int, float]]] = {}
    for row in steps:
        if (amount := value(row, name)) is not None:
            by_stage.setdefault(row.get("stage", ""), []).append((row["step"], amount))
    for points in by_stage.values():
        x, y = np.array(points, dtype=float).T
        window = np.ones(2 * (len(steps) // 60) + 1)
        # Dividing by the window's own sum at each place keeps the ends from sagging towards zero.
        smooth = np.convolve(y, window, "full") / np.convolve(np.ones_like(y), window, "full")
        axes.plot(x, y, color=color, alpha=0.2, lw=0.8)
        axes.plot(x, smooth[len(window) // 2 :][: len(y)], color=color, lw=1.8, label=label)
        label = None  # one entry in the legend for all stages


def _validation(axes: Axes, run: Run, style: dict | None) -> None:
    """WER on the validation clips: in the run's own style, or of a single run by the set's name."""
    rates = [row for row in run.validation if value(row, "wer") is not None]
    for name, marker in zip(dict.fromkeys(row["set"] for row in rates), cycle("os^v")):
        points = [(row["step"], 100 * row["wer"]) for row in rates if row["set"] == name]
        axes.plot(*zip(*points, strict=True), f"{marker}-", lw=1.4, ms=4, **(style or {"label": name}))


def _finish(axes: Axes, x_label: str, y_label: str, from_zero: bool = True) -> None:
    # Both axes start at zero, so that distances show the ratio; a fifth of room keeps points off the frame.
    if from_zero:
        axes.set_xlim(0, 1.2 * max(axes.dataLim.x1, 0) or 1)
        axes.set_ylim(0, 1.2 * max(axes.dataLim.y1, 0) or 1)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)


def _legend(figure: Figure, columns: int = 3) -> None:
    """One legend for all axes, above them."""
    handles = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        placed = {"loc": "outside upper center", "ncols": min(len(handles), columns), "frameon": False}
        for text in figure.legend(handles.values(), handles.keys(), **placed).get_texts():
            text.set_parse_math(False)  # a dollar sign in a name is none of mathematics


def _styles(labels: Iterable[str]) -> dict[str, dict]:
    """Colour and name of each; among more than ten, those that differ in their seed alone (`arm_0`, `arm_1`) share."""
    labels = list(labels)
    names = {label: re.sub(r"_[0-9]+$", "", label) if len(labels) > 10 else label for label in labels}
    places = {name: place for place, name in enumerate(dict.fromkeys(names.values()))}
    table = colormaps["tab10" if len(places) <= 10 else "tab20"]
    return {label: {"color": table(places[name] % table.N), "label": name} for label, name in names.items()}


def _legend_height(styles: dict[str, dict], columns: int = 3) -> float:
    """Inches that the legend takes."""
    return 0.22 * -(-len({style["label"] for style in styles.values()}) // columns)
