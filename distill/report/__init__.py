"""One recipe's results side by side: what both models' metrics.json say, as a table, a page and a picture.

A results folder holds `teacher/metrics.json` and `student/metrics.json` (the evaluation writes them) and, where the
student was trained, `steps.jsonl` and `recipe.json`. From these come `report.json`, `report.md` and `report.png`;
nothing is measured here, so a report can be made again at any time.
"""

import json
import math
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from data.errors import InputError
from data.paths import written_whole
from distill.report.page import page
from distill.report.plot import draw
from distill.report.table import HEADER, MODELS, is_number, rows, value


def write_report(folder: Path) -> dict:
    """Gathers a results folder into report.json, report.md and report.png beside the two models' folders.

    Args:
        folder: `results/<recipe name>`; one of the two models may not be scored yet.

    Returns:
        What report.json holds: `teacher` and `student` (their metrics, without the examples), `ratio` (student over
        teacher, for every number both have) and `notes` (what makes a ratio unfair, if anything does).

    Raises:
        InputError: Neither model has been scored, or a file is not what it should be.
    """
    metrics = {model: read_metrics(path) for model in MODELS if (path := folder / model / "metrics.json").is_file()}
    if not metrics:
        raise InputError(f"{folder}: no teacher/metrics.json or student/metrics.json; run scripts/evaluate.py first")
    steps, validation = read_steps(folder / "steps.jsonl"), read_validation(folder / "validation.jsonl")
    report = {
        model: {name: entry for name, entry in block.items() if name != "examples"} for model, block in metrics.items()
    }
    teacher, student = (report.get(model, {}) for model in MODELS)
    report |= {"ratio": ratios(teacher, student), "notes": _notes(teacher, student) if teacher and student else []}
    with written_whole(folder / "report.png") as temporary:
        draw(report, steps, validation, temporary)
    with written_whole(folder / "report.md") as temporary:
        temporary.write_text(page(folder, report, metrics, steps), encoding="utf-8")
    with written_whole(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def print_table(report: dict, console: Console | None = None) -> None:
    """Prints the report's table on the screen."""
    table = Table(box=SIMPLE_HEAD)  # narrow enough for 80 columns
    for column in HEADER:
        table.add_column(column, justify="right" if column else "left")
    for row in rows(report):
        table.add_row(*row)
    console = console or Console()
    console.print(table)
    for note in report["notes"]:
        console.print(f"note: {note}", style="yellow")


def ratios(teacher: dict, student: dict) -> dict:
    """Student over teacher for every number both have, in the same nesting; nothing where the teacher's is zero."""
    result = {}
    for name, above in student.items():
        below = teacher.get(name)
        if isinstance(above, dict) and isinstance(below, dict):
            result[name] = ratios(below, above)
        elif is_number(above) and is_number(below) and below and math.isfinite(above / below):
            result[name] = above / below
    return result


def read_metrics(path: Path) -> dict:
    """One model's metrics.json.

    Raises:
        InputError: The file is missing, or not a JSON object.
    """
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; score the model with scripts/evaluate.py first") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); score the model again with scripts/evaluate.py") from None
    if not isinstance(metrics, dict):
        raise InputError(f"{path}: not a JSON object; score the model again with scripts/evaluate.py")
    return metrics


def read_steps(path: Path) -> list[dict]:
    """The training's log, a row a step in order; empty where there is none.

    A run that was interrupted logs some steps twice: of a step the later row counts.

    Raises:
        InputError: A line before the last is not a JSON object with a step.
    """
    by_step = {int(row["step"]): row for row in _log(path, "step")}
    return [by_step[step] for step in sorted(by_step)]


def read_validation(path: Path) -> list[dict]:
    """The training's looks at the held-out sets, in order; empty where there are none.

    Raises:
        InputError: A line before the last is not a JSON object with a step and a set.
    """
    return _log(path, "step", "set")


def _log(path: Path, *keys: str) -> list[dict]:
    """The lines of a log; a run that was killed may leave half a line at its end, which does not count."""
    rows, lines = [], path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append({key: row[key] for key in keys} | row)
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                wanted = " and a ".join(keys)
                raise InputError(f"{path}, line {number}: not a JSON object with a {wanted}: {line[:60]}") from None
    return rows


def _notes(teacher: dict, student: dict) -> list[str]:
    """What was not the same for the two, so that a ratio does not mean what it says."""
    notes = []
    for key, what in (("asr.clips", "speech clips"), ("aac.clips", "captioned clips")):
        of_teacher, of_student = value(teacher, key), value(student, key)
        if None not in (of_teacher, of_student) and of_teacher != of_student:
            notes.append(f"the teacher was scored on {of_teacher} {what}, the student on {of_student}")
    for key in ("device", "dtype"):
        if teacher.get(key) != student.get(key):
            notes.append(f"{key}: {teacher.get(key)} for the teacher, {student.get(key)} for the student")
    return notes
