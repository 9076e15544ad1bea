"""Runs the frozen teacher over the training rows and caches what it says of them."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import os

from data.errors import InputError, run_cli
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
    arguments = parser.parse_args()
    recipe = recipe_of(arguments)
    if recipe.cache is None:
        raise InputError(f"{arguments.config}: the recipe has no cache section; there is nothing to cache")
    require_inputs(recipe, [recipe.data.train])
    prepare_process()
    device = pick_device(arguments.local_rank)
    model, processor = build_teacher(recipe.teacher)
    merge_lora(model)
    rows = read_rows(recipe, recipe.data.train)
    settings = (recipe.teacher, recipe.cache, recipe.generation, recipe.data.prompts)
    identity = cache_identity(*settings, rows, processor)
    fill_cache(
        model.to(device),
        processor,
        rows,
        recipe.data.prompts,
        recipe.cache,
        recipe.generation,
        identity,
        rank=int(os.environ.get("RANK", 0)),
        world=int(os.environ.get("WORLD_SIZE", 1)),
    )


if __name__ == "__main__":
    run_cli(main)
