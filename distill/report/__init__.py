"""Runs side by side on one page: `report.md` with its pictures, `report.html` with all in it, and `report.json`.

Nothing is measured here: a report is made from what evaluation, measurement and training left in the results folders,
and can be made again at any time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from data.paths import remove_leftovers, written_whole
from distill.report.blocks import html_page, markdown_page
from distill.report.leaderboard import cells, columns, entries, notes, rank_sums, ratios, scores
from distill.report.measured import comparable
from distill.report.once import each_once, not_shown
from distill.report.page import sections
from distill.report.runs import Run, read_runs
from distill.report.seeds import arms_section, read_grid


def write_report(folders: Sequence[Path], out: Path | None = None) -> list[Run]:
    """Gathers results folders into one page.

    Args:
        folders: Of runs, or of pages of several runs; that of a grid (`grid.json`) is told over its seeds.
        out: Where the page goes; the folder itself where there is one.

    Returns:
        The runs.

    Raises:
        InputError: A folder has no scored model, a file is not what it should be, or two runs have one name.
    """
    if not folders:
        raise InputError("no results to report; score a model with scripts/evaluate.py first")
    if out is None and len(folders) > 1:
        raise InputError("several runs make one page: say where it goes with --out FOLDER")
    out = out or folders[0]
    runs, grids = [], []
    for folder in folders:
        if (folder / "grid.json").is_file():
            grids.append(read_grid(folder))
            runs += grids[-1].runs.values()
        else:
            runs += read_runs(folder)
    runs = each_once(runs)
    lines = entries(runs)
    about = "teacher and student" if len(runs) == 1 else f"{len(runs)} runs"
    title = f"{out.resolve().name}: {about}"
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    blocks = [*(block for grid in grids for block in arms_section(grid)), *sections(runs, lines, out)]
    for name, text in (("report.md", markdown_page(title, blocks)), ("report.html", html_page(title, blocks, out))):
        with written_whole(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    with written_whole(out / "report.json") as temporary:
        text = json.dumps(_metrics(runs), indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return runs


def print_table(runs: Sequence[Run], console: Console | None = None) -> None:
    """Prints the leaderboard on the screen; scores above their costs where there are more than two test sets."""
    lines = entries(runs)
    console = console or Console()
    shown, count = columns(lines), len(scores(lines))
    for part in [shown] if count <= 2 else [shown[:count], shown[count:]]:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # narrow enough for 80 columns
        labels = ["", *(column.label for column in part), *(["rank"] if part[-1] is shown[-1] else [])]
        for label in labels:
            label = label.replace(", ", " ").replace(" ", "\n")
            table.add_column(label, justify="right" if label else "left", overflow="fold")
        for line, rank in zip(lines, rank_sums(lines), strict=True):
            texts = cells(line, part, rank)[: len(labels)]
            table.add_row(*(Text(text.replace(" (", "\n(")) for text in texts))
        console.print(table)
    for note in [*notes(lines), *not_shown(runs)]:
        console.print(Text(f"note: {note}"), style="yellow")


def _metrics(runs: Sequence[Run]) -> dict:
    """What report.json holds: of one run its models, of several runs each under its name.

    Of a run: the models' metrics, their examples without the places of their sounds, `ratio` (student over teacher, for
    every number that both have) and `notes` (what makes a ratio unfair).
    """
    by_run = {}
    for run in runs:
        models = {model: _portable(block) for model, block in run.models.items()}
        teacher, student = (models.get(name, {}) for name in ("teacher", "student"))
        ratio = ratios(comparable(teacher, student), comparable(student, teacher))
        by_run[run.name] = models | {"ratio": ratio, "notes": notes(entries([run]))}
    return next(iter(by_run.values())) if len(by_run) == 1 else {"runs": by_run}


def _portable(block: dict) -> dict:
    """A model's metrics without what means something on this machine alone."""
    kept = ("kind", "set", "id", "task", "reference", "hypothesis")
    examples = [{key: row[key] for key in kept if key in row} for row in block.get("examples", ())]
    return block | ({"examples": examples} if examples else {})
