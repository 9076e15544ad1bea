"""Reads what runs left behind: metrics of their models, measurements, logs, recipes. Nothing is measured here."""

from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType

from data.errors import InputError
from data.paths import resolve
from data.strict_json import has, loads
from distill.report.form import require_form
from distill.report.measured import with_efficiency


@dataclass(frozen=True)
class Run:
    """A results folder.

    Attributes:
        name: The run's name, below the results of all runs.
        folder: Where its logs lie.
        models: Metrics by model (teacher, student, student_int8, ...), the teacher first.
        steps: The training's log, a row a step in order.
        validation: The training's looks at the held-out sets, in order.
        recipe: As it was run; empty where it was not kept.
        page: The folder whose report.json has its figures; None where they are those that were measured here.
        others: Pages that have other figures of it, which are not shown.
    """

    name: str
    folder: Path
    models: dict[str, dict]
    steps: list[dict] = field(default_factory=list)
    validation: list[dict] = field(default_factory=list)
    recipe: dict = field(default_factory=dict)
    page: Path | None = None
    others: tuple[str, ...] = ()


def read_runs(folder: Path) -> list[Run]:
    """Reads a results folder: its run, or those that a page of several runs tells of.

    Such a page has its runs' figures; their logs lie beside it, each in the folder of its name.

    Raises:
        InputError: As `read_run`.
    """
    reported = runs_reported(folder)
    if not reported or list(folder.glob("*/metrics.json")):
        return [read_run(folder)]
    return [run_of(name, folder.parent / name, models, page=folder) for name, models in reported.items()]


def runs_reported(folder: Path) -> dict[str, dict[str, dict]]:
    """The models by run of a folder whose `report.json` is of several runs; empty where it is not.

    Raises:
        InputError: It is not what it should be.
    """
    path = folder / "report.json"
    runs = read_metrics(path).get("runs") if path.is_file() else None
    if runs is None:
        return {}
    # Logs are looked for under these names: none may lead elsewhere.
    if not isinstance(runs, dict) or any(Path(name).is_absolute() or ".." in Path(name).parts for name in runs):
        raise InputError(f"{path}: 'runs' are not as scripts/report.py writes them; make it again")
    return {name: models for name, report in runs.items() if (models := _models(path, report))}


def read_run(folder: Path) -> Run:
    """Reads a results folder.

    A model's figures are in `<model>/metrics.json`; where a machine has only the report, in its `report.json`.
    `efficiency.json` renews memory and times only where it measured the same (see `with_efficiency`).

    Raises:
        InputError: There is no model, or a file is not what it should be.
    """
    paths = sorted(folder.glob("*/metrics.json"))
    models = {path.parent.name: require_form(path, read_metrics(path)) for path in paths}
    is_retold = not models and (folder / "report.json").is_file()
    if is_retold:
        models = _models(folder / "report.json", read_metrics(folder / "report.json"))
    if (folder / "efficiency.json").is_file():
        found = with_efficiency(models, read_metrics(folder / "efficiency.json"))
        models = {name: require_form(folder / "efficiency.json", block) for name, block in found.items()}
    if not models:
        raise InputError(f"{folder}: no teacher/metrics.json or student/metrics.json; run scripts/evaluate.py first")
    name = next((block["recipe"] for block in models.values() if block.get("recipe")), folder.resolve().name)
    return run_of(name, folder, models, page=folder if is_retold else None)


def _models(path: Path, report: object) -> dict[str, dict]:
    """The models' figures in a run's report."""
    blocks = report.items() if isinstance(report, dict) else ()
    return {name: require_form(path, block) for name, block in blocks if isinstance(block, dict) and "model" in block}


def run_of(name: str, folder: Path, models: dict[str, dict], page: Path | None) -> Run:
    """A run of these figures, with the logs that lie in the folder, if they are of one of these models.

    Raises:
        InputError: A log is not what it should be.
    """
    path = folder / "recipe.json"
    recipe = read_metrics(path) if path.is_file() else {}
    is_logged = _trained_here(recipe, models)
    return Run(
        name,
        folder,
        dict(sorted(models.items(), key=lambda item: (not item[0].startswith("teacher"), item[0]))),
        read_steps(folder / "steps.jsonl") if is_logged else [],
        read_validation(folder / "validation.jsonl") if is_logged else [],
        recipe,
        page,
    )


def _trained_here(recipe: dict, models: dict[str, dict]) -> bool:
    """Whether the run's logs are of its scored student: not where another checkpoint was scored instead."""
    scored = [
        block["checkpoint"] for name, block in models.items() if name.startswith("student") and "checkpoint" in block
    ]
    own = resolve(f"{recipe.get('runs')}/{recipe.get('name')}/model").resolve()
    return not recipe or not scored or any(resolve(str(path)).resolve() == own for path in scored)


def read_metrics(path: Path) -> dict:
    """A JSON object, such as a model's metrics.json.

    Raises:
        InputError: The file is missing, or not a JSON object.
    """
    try:
        metrics = loads(path.read_text(encoding="utf-8"), halves=True)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; score the model with scripts/evaluate.py first") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it again") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); make it again with the command that wrote it") from None
    if not isinstance(metrics, dict):
        raise InputError(f"{path}: not a JSON object; make it again with the command that wrote it")
    return metrics


def read_steps(path: Path) -> list[dict]:
    """The training's log, a row a step in order; empty where there is none.

    A run that was interrupted logs some steps twice: of a step the later row counts.

    Raises:
        InputError: A line before the last is not a JSON object with a step, or its stage is no name.
    """
    by_step = {row["step"]: row for row in _log(path, step=int, stage=str | None)}
    return [by_step[step] for step in sorted(by_step)]


def read_validation(path: Path) -> list[dict]:
    """The training's looks at the held-out sets, in order; empty where there are none.

    Raises:
        InputError: A line before the last is not a JSON object with a step and a set.
    """
    return _log(path, step=int, set=str)


def _log(path: Path, **kinds: type | UnionType) -> list[dict]:
    """The lines of a log; a run that was killed may leave half a line at its end, which does not count."""
    try:
        # Not splitlines(): a text may hold a line separator of Unicode.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); take it from the run's folder again") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = loads(line)
        except ValueError:
            row = None
        if has(row, **kinds):
            rows.append({key: row[key] for key in kinds if key in row} | row)
        elif number < len(lines):
            raise InputError(f"{path}, line {number}: not a JSON object with a {' and a '.join(kinds)}: {line[:60]}")
    return rows
