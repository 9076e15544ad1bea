"""report.png: accuracy against memory and latency, the losses over the training, and what validation saw of it."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.report.table import MODELS, value

COLOURS = {"teacher": "#1b5e8c", "student": "#d1651d"}
COSTS = [("peak_memory_bytes", 2**20, "peak memory, MiB"), ("ttft_s", 1e-3, "TTFT, ms"), ("tpot_s", 1e-3, "TPOT, ms")]
LOSSES = {"loss": ("#333333", "loss"), "ce": ("#2a8a57", "cross-entropy"), "kd": ("#8a4fa0", "distillation")}


def draw(report: dict, steps: list[dict], validation: list[dict], path: Path) -> None:
    """Draws the picture of one results folder.

    Args:
        report: What report.json holds: a block a model, either of which may be missing.
        steps: The training's log, a row a step; without any the picture has no loss curve.
        validation: What was seen of the held-out sets at some of the steps; may be empty.
        path: Where the PNG goes.
    """
    figure = Figure(figsize=(10, 9 if steps else 6), layout="constrained")
    grid = figure.add_gridspec(3 if steps else 2, len(COSTS))
    blocks = {model: report[model] for model in MODELS if model in report}
    for column, (key, unit, label) in enumerate(COSTS):
        _errors(figure.add_subplot(grid[0, column]), blocks, key, unit, label)
        _captions(figure.add_subplot(grid[1, column]), blocks, key, unit, label)
    if steps:
        rates = [row for row in validation if value(row, "wer") is not None]
        _curves(figure.add_subplot(grid[2, : -1 if rates else None]), steps)
        if rates:
            _validation(figure.add_subplot(grid[2, -1]), rates)
    handles = {}
    for axes in figure.axes[: 2 * len(COSTS)]:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, format="png", dpi=130)


def _errors(axes: Axes, blocks: dict[str, dict], key: str, unit: float, label: str) -> None:
    """WER in percent with its interval, against one cost."""
    for model, block in blocks.items():
        cost, wer = value(block, key), value(block, "asr.wer")
        if None in (cost, wer):
            continue
        low, high = (value(block, f"asr.{name}") for name in ("wer_low", "wer_high"))
        spread = None if None in (low, high) else [[100 * max(wer - low, 0)], [100 * max(high - wer, 0)]]
        axes.errorbar(cost / unit, 100 * wer, spread, fmt="o", ms=8, capsize=4, color=COLOURS[model], label=model)
    _finish(axes, label, "WER, % (lower is better)")


def _captions(axes: Axes, blocks: dict[str, dict], key: str, unit: float, label: str) -> None:
    """CIDEr-D and its chance level, against one cost."""
    for model, block in blocks.items():
        cost, cider_d = value(block, key), value(block, "aac.cider_d")
        if None in (cost, cider_d):
            continue
        axes.plot(cost / unit, cider_d, "o", ms=8, color=COLOURS[model], label=model)
        if (chance := value(block, "aac.shuffled_cider_d")) is not None:
            style = {"ms": 14, "mew": 2, "clip_on": False}  # chance is often zero: on the frame, not cut by it
            axes.plot(cost / unit, chance, "_", color=COLOURS[model], label=f"{model}, captions shuffled", **style)
    _finish(axes, label, "CIDEr-D (higher is better)")


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    # Both axes start at zero, so that distances show the ratio; a fifth of room keeps points off the frame.
    axes.set_xlim(0, 1.2 * max(axes.dataLim.x1, 0) or 1)
    axes.set_ylim(0, 1.2 * max(axes.dataLim.y1, 0) or 1)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)


def _curves(axes: Axes, steps: list[dict]) -> None:
    """Each loss by step, pale, and its running mean over about a thirtieth of the run, stage by stage."""
    for name, (colour, label) in LOSSES.items():
        by_stage: dict[str, list[tuple[int, float]]] = {}
        for row in steps:
            if (amount := value(row, name)) is not None:
                by_stage.setdefault(row.get("stage", ""), []).append((row["step"], amount))
        for points in by_stage.values():
            x, y = np.array(points, dtype=float).T
            window = np.ones(2 * (len(steps) // 60) + 1)
            # Dividing by the window's own sum at each place keeps the ends from sagging towards zero.
            smooth = np.convolve(y, window, "full") / np.convolve(np.ones_like(y), window, "full")
            smooth = smooth[len(window) // 2 :][: len(y)]
            axes.plot(x, y, color=colour, alpha=0.25, lw=0.8)
            axes.plot(x, smooth, color=colour, lw=1.8, label=label)
            label = None  # one entry in the legend for all stages
    axes.set_ylim(0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _validation(axes: Axes, rates: list[dict]) -> None:
    """Word error rate of the few clips that training looks at now and then."""
    for name in dict.fromkeys(row["set"] for row in rates):
        points = [(row["step"], 100 * row["wer"]) for row in rates if row["set"] == name]
        axes.plot(*zip(*points, strict=True), "o-", lw=1.4, ms=4, label=name)
    axes.set_ylim(0, 1.2 * max(axes.dataLim.y1, 0) or 1)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("validation WER, %")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
