"""Pictures of what is in the data: histograms by corpus and task, rows and hours."""

import io
import warnings
from itertools import islice

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from data.look.gathering import Look, joined

_COLOUR, _LINE = "#1b5e8c", "#d1651d"
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
_COLUMNS = 3
MOST = 30
"""How many corpora or tasks a picture shows: those with the most rows."""
_LONGEST_NAME = 40
_TASK_COLOURS = ("#1b5e8c", "#d1651d", "#2a8a57", "#8a4fa0", "#b8a125", "#4f9fa8", "#a8506b", "#777777")


# Names are what the data say: a dollar in them begins no formula.
_as_text = matplotlib.rc_context({"text.parse_math": False})


def pictures(look: Look) -> dict[str, bytes]:
    """PNGs by file name; each shows the corpora or tasks with the most rows, at most `MOST`."""
    by_corpus, by_task = joined(look, 0), joined(look, 1)
    seconds, words = "clip, seconds", "text, words"
    return {
        "amounts.png": amounts(look),
        "durations_by_corpus.png": histograms({name: of[0] for name, of in by_corpus.items()}, seconds),
        "durations_by_task.png": histograms({name: of[0] for name, of in by_task.items()}, seconds),
        "words_by_corpus.png": histograms({name: of[1] for name, of in by_corpus.items()}, words, whole=True),
        "words_by_task.png": histograms({name: of[1] for name, of in by_task.items()}, words, whole=True),
    }


@_as_text
def amounts(look: Look) -> bytes:
    """Rows and hours of each corpus, in the colours of its tasks."""
    corpora = list(joined(look, 0))[:MOST][::-1]
    tasks = list(joined(look, 1))[:MOST]
    figure = Figure(figsize=(10, 1.4 + 0.42 * len(corpora)), layout="constrained")
    panels, handles = figure.subplots(1, 2, sharey=True), []
    for axes, unit in zip(panels, ("rows", "hours (a file counts in each of its rows)"), strict=True):
        left = np.zeros(len(corpora))
        for number, task in enumerate(tasks):
            groups = [look.groups.get((corpus, task)) for corpus in corpora]
            width = [
                0 if of is None else len(of.words) if unit == "rows" else sum(of.durations_s) / 3600 for of in groups
            ]
            colour = _TASK_COLOURS[number % len(_TASK_COLOURS)]
            bars = axes.barh(range(len(corpora)), width, left=left, height=0.65, color=colour)
            if axes is panels[0]:
                handles.append(bars)
            left += width
        axes.set_yticks(range(len(corpora)), list(map(_short, corpora)))
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
        if left.max() >= 1000:
            axes.xaxis.set_major_formatter(_THOUSANDS)
        _tidy(axes)
    labels = list(map(_short, tasks))
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), frameon=False)
    return _png(figure)


@_as_text
def histograms(values: dict[str, np.ndarray], label: str, *, whole: bool = False) -> bytes:
    """One panel a name over one axis, which ends where 99.5% of all values do; the last bar has all beyond."""
    values = dict(islice(values.items(), MOST))
    everything = np.concatenate(list(values.values()))
    most = max(float(np.quantile(everything, 0.995)), 1.0)
    edges = _edges(most, whole)
    rows = -(-len(values) // _COLUMNS)
    figure = Figure(figsize=(10, 0.4 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True)
    for axes, (name, of) in zip(grid.flat, values.items(), strict=False):
        axes.hist(np.minimum(of, (edges[-1] + edges[-2]) / 2), edges, color=_COLOUR)
        median = float(np.median(of))
        axes.axvline(median, color=_LINE, lw=1.5)
        axes.set_title(f"{_short(name)}\nmedian {median:.3g}, longest {of.max():.4g}", fontsize=9.5)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel(label)
        axes.set_ylabel("rows")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(_THOUSANDS)
        axes.tick_params(labelbottom=True)
        _tidy(axes)
    for axes in grid.flat[len(values) :]:
        axes.set_visible(False)
    return _png(figure)


def _edges(most: float, whole: bool) -> np.ndarray:
    """About 40 bars; of whole numbers, each in the middle of its bar."""
    if not whole:
        return np.linspace(0, most * 1.025, 42)
    step = max(round(most / 40), 1)
    return np.arange(0, most + 2 * step, step) - 0.5


def _tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _short(name: str) -> str:
    """A name that fits, on one line; one that begins with an underscore would not be shown in a legend."""
    name = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return f"\u200b{name}" if name.startswith("_") else name


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of scripts that the font lacks: a box stands for them
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
