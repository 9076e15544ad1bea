"""The rows of a recipe's annotation files, as its policies leave them."""

import os

from data.paths import resolve
from data.prompts import require_prompts
from data.rows.manifest import Manifest, read_manifest
from data.rows.policy import read_training_rows
from data.rows.shards import shard_manifest
from distill.recipe.recipe import Recipe


def read_rows(recipe: Recipe, path: str) -> Manifest:
    """The rows of one of the recipe's annotation files or manifests, under its limit.

    Training rows at fault are treated by the recipe's policies; held-out rows are never left out.
    """
    data = recipe.data
    if path != data.train:
        rows = read_manifest(resolve(path))[: data.limit].heard(data.mono)
        require_prompts(rows, data.prompts)
        return rows
    quiet = int(os.environ.get("RANK", 0)) > 0
    scan = resolve(data.scan) if data.scan else None
    file, root = shard_manifest(path) if data.source == "shards" else (resolve(path), None)
    rows = read_training_rows(file, data.faults, data.lengths, root=root, scan=scan, limit=data.limit, quiet=quiet)
    require_prompts(rows, data.prompts)
    return rows.heard(data.mono)
