"""Which run a folder is of: what must be equal for it to be gone on with, and what a new one leaves of it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data.cache.row import CacheIdentity
from data.errors import InputError
from data.hashing import hash_of
from data.known_hashes import known_sha256
from data.paths import resolve, written_whole
from data.rows.manifest import fingerprint_of
from data.rows.row import Row
from data.rows.shards import layout_hash
from data.strict_json import loads
from distill.recipe.identity import COMPUTED_AGAIN, NOT_OF_A_RUN, counting
from distill.recipe.recipe import Recipe
from distill.training.checkpoints import LOGS, checkpoints, has_begun
from teacher.build import weights_hash
from teacher.weights import folder_hash, locate

_EXPORTED = "exported"
"""Which step's model is written. From checkpoints another one can be; without them it is a part of what was asked."""


def run_identity(recipe: Recipe, rows: Sequence[Row], begun: int, cache: CacheIdentity | None = None) -> dict[str, str]:
    """What must be equal for a checkpoint to be continued, as named hashes; and the processes that the run began with.

    Frozen weights are not in a checkpoint, so the teacher is part of it.
    """
    of = recipe.student
    starts, llm = ([of.weights, of.base], of.llm) if of else ([], None)
    if recipe.teacher.random_weights:
        llm = None
    parts = [folder_hash(resolve(start)) for start in starts if start] + ([folder_hash(locate(llm))] if llm else [])
    if llm and recipe.train.kd.vocabulary == "universal":
        parts.append(hash_of([known_sha256(path) for path in sorted(locate(llm).glob("tokenizer*"))]))
    # Shards of another layout would be batched otherwise.
    layout = {"shards": layout_hash(rows)} if recipe.data.source == "shards" else {}
    return layout | {
        "recipe": hash_of(counting(recipe, (*NOT_OF_A_RUN, COMPUTED_AGAIN))),
        "teacher": weights_hash(recipe.teacher),
        "start": "".join(parts),
        "rows": fingerprint_of(rows),
        "cache": cache.sha256() if cache else "",
        "processes": str(begun),
        _EXPORTED: f"best by {recipe.train.best_by}" if recipe.train.export == "best" else "last",
    }


def is_finished(run_dir: Path) -> bool:
    """Whether a run has left its model here and no checkpoint: nothing is left to do, nor to go on from."""
    return not has_begun(run_dir) and (run_dir / "model" / "config.json").is_file()


def require_same_run(run_dir: Path, identity: dict[str, str]) -> None:
    """Refuses to go on from, or to write into, what something else of the same name has begun.

    Raises:
        InputError: Names what differs.
    """
    path = run_dir / "identity.json"
    finished = is_finished(run_dir)
    if not (has_begun(run_dir) or finished):
        return
    what = "model is" if finished else "checkpoints are"
    try:
        begun = loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        begun = None
    if not isinstance(begun, dict):
        raise InputError(
            f"{path}: damaged, so what its {what} of is not known; give this run another name with "
            "--set name=..., or remove that folder"
        )
    if not finished or _EXPORTED not in begun:  # earlier runs have not written it down
        begun[_EXPORTED] = identity.get(_EXPORTED)
    differs = [name for name, value in identity.items() if begun.get(name) != value]
    if differs == ["processes"] and not finished:
        raise InputError(
            f"{run_dir}: it began with {begun.get('processes')} processes; start as many, or "
            "--set train.elastic=true, with which others share their batches"
        )
    if differs:
        raise InputError(
            f"{run_dir}: its {what} of another run (other {', '.join(differs)}); "
            "give this one another name with --set name=..., or remove that folder"
        )


def begin(run_dir: Path, recipe: Recipe, identity: dict[str, str]) -> None:
    """Writes down what this run is; a run that starts anew leaves nothing of an earlier one to be taken for its own."""
    if not has_begun(run_dir):
        for folder in checkpoints(run_dir):  # of a first save that was cut off
            shutil.rmtree(folder, ignore_errors=True)
        for name in LOGS:
            (run_dir / name).unlink(missing_ok=True)
    for name, text in (("recipe.json", recipe.model_dump_json(indent=2)), ("identity.json", json.dumps(identity))):
        with written_whole(run_dir / name) as path:
            path.write_text(text + "\n")
