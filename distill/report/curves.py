"""Loss curves that should be one: the same run under several launchers or ZeRO stages, step by step."""

import math
from pathlib import Path

from data.errors import InputError
from distill.report.markup import sentence_markdown
from distill.report.runs import read_steps
from distill.report.table import markdown


def read_curves(arguments: list[str]) -> dict[str, list[float]]:
    """Reads `NAME=RUN_FOLDER` arguments: the loss at each step of each run.

    Raises:
        InputError: An argument of another form, a folder without `steps.jsonl`, or runs of different lengths.
    """
    curves = {}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        path = Path(folder) / "steps.jsonl"
        if not (name and equals and folder) or name in curves:
            raise InputError(f"--curves {argument}: write NAME=RUN_FOLDER, each name once")
        if not path.is_file():
            raise InputError(f"--curves {argument}: {path} is not there; train the run first")
        rows = read_steps(path)
        if lost := [row["step"] for row in rows if not isinstance(row.get("loss", ""), int | float | None)]:
            raise InputError(f"--curves {argument}: {path}, step {lost[0]}: no loss; take another run")
        # Where a step was left out (fp16) its loss is no number.
        curves[name] = [math.nan if row["loss"] is None else row["loss"] for row in rows]
    lengths = {name: len(losses) for name, losses in curves.items()}
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        raise InputError(f"--curves: the runs must have the same steps, not {lengths}")
    return curves


def largest_difference(curves: dict[str, list[float]]) -> float:
    """The largest distance of any run's loss from the first run's at the same step, relative to the latter.

    (A loss of 0 has no relative difference: there the distance itself counts.)
    """
    first, *others = curves.values()
    return max((abs(a - b) / (abs(b) or 1.0) for run in others for a, b in zip(run, first, strict=True)), default=0.0)


def curves_page(curves: dict[str, list[float]]) -> str:
    """The curves in Markdown, under what they differ by."""
    lines = [
        (str(step), *(f"{loss:.7f}" for loss in losses))
        for step, losses in enumerate(zip(*curves.values(), strict=True))
    ]
    about = (
        f"Loss at each step; the largest relative difference to `{next(iter(curves))}` is "
        f"{largest_difference(curves):.1e}."
    )
    return f"# One loss curve\n\n{sentence_markdown(about)}\n\n{markdown(('step', *curves), lines)}\n"
