"""Runs that several pages tell of, each shown once: which page's figures count, and what is said of the others."""

from collections.abc import Sequence
from dataclasses import replace

from data.errors import InputError
from distill.report.measured import measured_at
from distill.report.runs import Run


def each_once(runs: Sequence[Run]) -> list[Run]:
    """Runs without those that are told again.

    What was measured here counts. Else it is the page that bears the run's name, or its grid's; among other pages the
    one measured last, then the one of most models.

    Raises:
        InputError: Two that were measured here have one name.
    """
    told: dict[str, list[Run]] = {}
    for run in runs:
        told.setdefault(run.name, []).append(run)
    return [_one_of(same) for same in told.values()]


def not_shown(runs: Sequence[Run]) -> list[str]:
    """Which pages have other figures of a run."""
    return [
        f"other figures of {run.name} are not shown: those of the page {page}; report its folder alone for them"
        for run in runs
        for page in run.others
    ]


def _one_of(runs: Sequence[Run]) -> Run:
    measured = [run for run in runs if run.page is None]
    if len(measured) > 1:
        one, other, *_ = measured
        raise InputError(f"two of the runs are named {one.name}, {one.folder} and {other.folder}; report one of them")
    shown = max(runs, key=_standing)
    others = [run.page.resolve().name for run in runs if run.page and _figures(run) != _figures(shown)]
    return replace(shown, others=tuple(dict.fromkeys(others)))


def _standing(run: Run) -> tuple:
    """The larger, the more it counts."""
    bears_its_name = run.page is not None and run.page.resolve().name in (run.name, run.name.partition("/")[0])
    latest = max(map(measured_at, run.models.values()), default="")
    return (run.page is None, bears_its_name, latest, len(run.models))


def _figures(run: Run) -> dict[str, dict]:
    """The models' figures; of examples a page keeps less than was measured."""
    return {name: {key: of for key, of in block.items() if key != "examples"} for name, block in run.models.items()}
