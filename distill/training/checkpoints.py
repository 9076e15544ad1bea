"""What a run folder holds between starts: its checkpoints, and its logs up to the step that it goes on from."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from data.errors import InputError
from data.paths import written_whole
from data.strict_json import has, loads
from distill.recipe.recipe import Recipe
from distill.training.elastic import load_dealt, processes_of
from distill.training.torch_files import as_written

SEAL = "sizes.json"
Found = TypeVar("Found")
_MOST = 1e9
"""More than any figure of a validation; no number (NaN) is not less either."""
LOGS = ("steps.jsonl", "validation.jsonl", "texts.jsonl")


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, the oldest first."""
    found = {path.name.removeprefix("step_"): path for path in (run_dir / "checkpoints").glob("step_*")}
    return [found[step] for step in sorted(filter(str.isdecimal, found), key=int) if found[step].is_dir()]


def has_begun(run_dir: Path) -> bool:
    """Whether a checkpoint was ever written whole, be it damaged since; a kill in the first save leaves none."""
    latest = run_dir / "checkpoints" / "latest"  # of what is sealed alone, see `save`
    return latest.is_file() or any((folder / SEAL).is_file() for folder in checkpoints(run_dir))


def save(engine: DeepSpeedEngine, run_dir: Path, state: dict[str, Any], keep: int, best: int | None = None) -> None:
    """Writes a checkpoint, then drops all but the newest `keep` and the `best`; all ranks take part.

    Args:
        engine: Whose weights and optimizer states are saved.
        run_dir: The run's folder.
        state: Its `step`, and what else `resume` is to give back.
        keep: Newest checkpoints that stay.
        best: The step of another one that stays.
    """
    folder, step = run_dir / "checkpoints", state["step"]
    if dist.get_rank() == 0:  # a kill's leftover may have files of more processes
        shutil.rmtree(folder / f"step_{step}", ignore_errors=True)
    dist.barrier()
    try:
        # DeepSpeed would name it as the latest while other ranks may still be writing.
        engine.save_checkpoint(
            folder, f"step_{step}", client_state=state, save_latest=False, exclude_frozen_parameters=True
        )
    except BaseException:
        shutil.rmtree(folder / f"step_{step}", ignore_errors=True)  # it would only fill the disk further
        raise
    dist.barrier()  # all ranks' files are there
    if dist.get_rank() == 0:
        _seal(folder / f"step_{step}")
        with written_whole(folder / "latest") as path:
            path.write_text(f"step_{step}")
        drop_old(run_dir, keep, best)
    dist.barrier()


def drop_old(run_dir: Path, keep: int, best: int | None) -> None:
    """Removes all checkpoints but the newest `keep` and that of step `best`."""
    for old in checkpoints(run_dir)[:-keep]:
        if old.name != f"step_{best}":
            shutil.rmtree(old)


def best_step(recipe: Recipe, metric: str) -> int | None:
    """The first step of the last stage whose validation was the best by a metric; None without one.

    What other stages write need not be of the same kind: CTC's best path is no text of the LLM's. A step counts by the
    mean over the sets that have the metric, where all sets were looked at: a validation may have been cut off.
    """
    before = recipe.total_steps - recipe.train.stages[-1].steps
    values = {}
    for step, sets in _validations(recipe).items():
        found = [record[metric] for record in sets if metric in record]
        if step > before and found and all(isinstance(value, int | float) and abs(value) < _MOST for value in found):
            values[step] = sum(found) / len(found)
    sign = -1 if metric == "cider_d" else 1
    return min(values, key=lambda step: (sign * values[step], step), default=None)


def was_validated(recipe: Recipe, step: int) -> bool:
    """Whether the log has a look at all validation sets at this step."""
    return step in _validations(recipe)


def _validations(recipe: Recipe) -> dict[int, list[dict]]:
    """The log's records by step, of the recipe's validation sets, where it has all of them."""
    names = recipe.validation_sets
    found: dict[int, dict[str, dict]] = {}
    for record, _ in _records(recipe.run_dir / "validation.jsonl"):
        if record.get("set") in names:
            found.setdefault(record["step"], {})[record["set"]] = record
    return {step: [*sets.values()] for step, sets in found.items() if len(sets) == len(names)}


def load_best(engine: DeepSpeedEngine, recipe: Recipe, metric: str) -> int:
    """Loads the best checkpoint by a metric of the validation and gives its step; all ranks take part.

    Raises:
        InputError: No validation had the metric, or that checkpoint is gone or damaged.
    """
    step = _of_first_rank(lambda: best_step(recipe, metric))
    if step is None:
        raise InputError(
            f"train.export 'best': no validation in the last stage of {recipe.run_dir} has '{metric}'; "
            "set train.export=last"
        )
    folder = recipe.run_dir / "checkpoints" / f"step_{step}"
    if not _of_first_rank(lambda: _is_whole(folder)):
        raise InputError(f"{folder}: the best checkpoint is gone or damaged; --set train.export=last takes the last")
    _load(engine, recipe, folder)
    return step


def resume(engine: DeepSpeedEngine, recipe: Recipe) -> dict[str, Any]:
    """Loads the newest whole checkpoint and gives its state (step 0 without one); drops what the logs hold past it."""
    run_dir = recipe.run_dir
    tag = _of_first_rank(lambda: newest_whole(run_dir).name if has_begun(run_dir) else None)
    if tag is None:
        return {"step": 0}
    state = _load(engine, recipe, run_dir / "checkpoints" / tag)
    if dist.get_rank() == 0:
        _forget_after(run_dir, state["step"])
        print(f"going on from step {state['step']}", flush=True)
    dist.barrier()
    return state


def _load(engine: DeepSpeedEngine, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Loads a checkpoint, of as many processes as there are or, where the run is elastic, of others; gives its state.

    Raises:
        InputError: It is of others, and the run is not.
    """
    processes, world = _of_first_rank(lambda: processes_of(folder)), dist.get_world_size()
    if processes is None or processes == world:
        return engine.load_checkpoint(folder.parent, folder.name, load_module_strict=False)[1]
    if not recipe.train.elastic:
        raise InputError(
            f"{folder}: written by {processes} processes, and now there are {world}; --set train.elastic=true deals it "
            "out anew"
        )
    return load_dealt(engine, folder)


def _of_first_rank(find: Callable[[], Found]) -> Found:
    """What the first rank finds on the disk, for every rank: on another machine files may look older for a while."""
    found = [find() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, 0)
    return found[0]


def _seal(folder: Path) -> None:
    """Writes down the sizes of a checkpoint's files: one without this, or with others, was cut off or damaged."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != SEAL}
    with written_whole(folder / SEAL) as path:
        path.write_text(json.dumps(sizes, indent=2) + "\n")


def newest_whole(run_dir: Path) -> Path:
    """The newest checkpoint that is as it was written; says which newer ones are not.

    Raises:
        InputError: There is none.
    """
    for folder in reversed(checkpoints(run_dir)):
        if _is_whole(folder):
            return folder
        print(f"warning: {folder}: cut off or damaged; going back to the checkpoint before it", flush=True)
    raise InputError(f"{run_dir}/checkpoints: none of them is whole; remove that folder to start anew")


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint's files are there in the sizes that they were sealed with, and no byte is another."""
    try:
        sizes = loads((folder / SEAL).read_text())
        files = isinstance(sizes, dict) and sizes.items()
        if not files or any((folder / name).stat().st_size != size for name, size in files):
            return False
    except (OSError, ValueError):
        return False
    with ThreadPoolExecutor() as pool:  # checksums are computed beside the interpreter
        return all(pool.map(as_written, [folder / name for name, _ in files if name.endswith(".pt")]))


def _forget_after(run_dir: Path, step: int) -> None:
    """Drops log lines of steps that will be run again, and checkpoints past `step` that were cut off."""
    for folder in checkpoints(run_dir):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    for name in LOGS:
        path = run_dir / name
        if path.is_file():
            # A step's record counts from 0; a validation's step is the number of steps done.
            limit = step if name == "steps.jsonl" else step + 1
            kept = [line for record, line in _records(path) if record["step"] < limit]
            with written_whole(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _records(path: Path) -> Iterator[tuple[dict, str]]:
    """A log's records and their lines, where it is there; half a line, which a run that was killed leaves, is none.

    Nor is any other line that no run writes.
    """
    # Not splitlines(): a text may hold a line separator of Unicode.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        with suppress(ValueError):
            record = loads(line, halves=True)
            if has(record, step=int, set=str | None):
                yield record, line
