"""The rows of a recipe's annotation files: those to train on as its policies leave them, those held out as they are."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from data.paths import resolve
from data.prompts import require_prompts
from data.ranks import launched_rank
from data.rows.manifest import Manifest
from data.rows.manifest_reader import read_manifest
from data.rows.policy import read_training_rows
from data.rows.row import Row
from data.rows.shards import shard_manifest
from data.sound.headers import read_headers

if TYPE_CHECKING:  # not loaded: scripts/score.py scores texts without a model's libraries
    from distill.recipe.recipe import Recipe


def read_rows(recipe: "Recipe", path: str) -> Manifest:
    """The rows of one of the recipe's annotation files or manifests, under its limit.

    Training rows at fault are treated by the recipe's policies; held-out rows are never left out.
    """
    data = recipe.data
    if path != data.train:
        rows = read_manifest(resolve(path))[: data.limit].with_mono(data.mono)
        require_prompts(rows, data.prompts)
        return rows
    quiet = launched_rank() > 0
    scan = resolve(data.scan) if data.scan else None
    file, root = shard_manifest(path) if data.source == "shards" else (resolve(path), None)
    rows = read_training_rows(
        file, data.faults, data.lengths, root=root, scan=scan, limit=data.limit, mono=data.mono, quiet=quiet
    )
    require_prompts(rows, data.prompts)
    return rows


def read_held_out(recipe: "Recipe", path: str, *, texts: bool = True) -> list[Row]:
    """The rows to be scored of a held-out file, under the recipe's limit.

    A clip that is missing, cannot be read or has another length than is stated stays among them: it counts in the
    score, and its loading says what is wrong with it. Its length is 0 where nothing states it.

    Args:
        recipe: The recipe.
        path: The file.
        texts: Whether every row must have a text.

    Raises:
        InputError: The file is missing, or not as it should be.
    """
    rows = read_manifest(resolve(path), texts=texts, sounds=False).with_mono(recipe.data.mono)[: recipe.data.limit]
    unknown = [row for row in rows if not row.duration_s]
    with ThreadPoolExecutor() as pool:
        headers = read_headers([row.path for row in unknown], pool)
    lengths = {row.id: max(of.duration_s - row.start_s, 0.0) for row, of in zip(unknown, headers, strict=True)}
    return [replace(row, duration_s=lengths.get(row.id, row.duration_s)) for row in rows]
