"""The rows that a run trains on, and those that it watches."""

from data.cache.reader import CacheReader
from data.errors import InputError
from data.rows.manifest import Manifest
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows


def training_rows(recipe: Recipe, cache: CacheReader | None = None) -> Manifest:
    """The recipe's training rows, of which the teacher could read all where its cache is trained on.

    Args:
        recipe: The run.
        cache: The teacher's, where a stage trains on what it holds.

    Raises:
        InputError: The cache is not filled yet, so that it is no cache to train from.
    """
    rows = read_rows(recipe, recipe.data.train)
    return rows if cache is None else _cached(rows, cache, recipe.cache.folder)


def validation_rows(recipe: Recipe) -> dict[str, Manifest]:
    """The rows of each validation set that are looked at, by its file's name."""
    most = recipe.train.validate_clips
    return {name: read_rows(recipe, path)[:most] for name, path in recipe.validation_sets.items()}


def _cached(rows: Manifest, cache: CacheReader, folder: str) -> Manifest:
    failed = cache.failed()
    there = cache.has(rows.values("id"))
    if missing := sum(row_id not in failed for row_id in rows.where(~there).values("id")):
        raise InputError(
            f"cache {folder}: {missing} of {len(rows)} rows are not cached yet; "
            "run 'bash scripts/cache_teacher.sh' with this recipe first"
        )
    return rows.where(there)
