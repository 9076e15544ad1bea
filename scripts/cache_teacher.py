"""Runs the frozen teacher over the rows of a split and caches what it says of them.

The training rows go into the recipe's `cache.folder`; those of another split, with the instructions' fixed wording,
into a folder beside it that has the split's name at its end.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import os

from data.errors import InputError, run_cli
from data.manifest import joined
from distill.examples import read_rows
from distill.inputs import require_inputs
from distill.recipe import recipe_of, recipe_parser
from teacher.build import build_teacher
from teacher.cache import cache_identity, fill_cache
from teacher.device import pick_device, prepare_process
from teacher.model import merge_lora


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="train", help="whose rows are cached")
    arguments = parser.parse_args()
    recipe = recipe_of(arguments)
    if recipe.cache is None:
        raise InputError(f"{arguments.config}: the recipe has no cache section; there is nothing to cache")
    data, cache, prompts = recipe.data, recipe.cache, recipe.data.prompts
    files = {"train": (data.train,), "valid": data.valid, "test": tuple(data.test.values())}[arguments.split]
    if arguments.split != "train":
        cache = cache.model_copy(update={"folder": f"{cache.folder}_{arguments.split}"})
        prompts = {task: wordings[:1] for task, wordings in prompts.items()}
    require_inputs(recipe, files)
    rows = joined([read_rows(recipe, path) for path in files])
    prepare_process()
    device = pick_device(arguments.local_rank)
    model, processor = build_teacher(recipe.teacher)
    merge_lora(model)
    identity = cache_identity(recipe.teacher, cache, recipe.generation, prompts, rows, processor)
    fill_cache(
        model.to(device),
        processor,
        rows,
        prompts,
        cache,
        recipe.generation,
        identity,
        rank=int(os.environ.get("RANK", 0)),
        world=int(os.environ.get("WORLD_SIZE", 1)),
    )


if __name__ == "__main__":
    run_cli(main)
