"""Runs the frozen teacher over the rows of a split and caches what it says of them.

The training rows go into the recipe's `cache.folder`; those of another split, with the instructions' fixed wording,
into a folder beside it that has the split's name at its end.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import INTERRUPTED, InputError, run_cli
from data.ranks import launched_rank, launched_world
from distill.recipe.inputs import require_inputs, written_together
from distill.recipe.meeting import meeting
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.splits import files_of, read_split
from distill.training.stopping import StopRequest
from teacher.build import build_teacher, hashed_files
from teacher.cache import cache_identity, fill_cache
from teacher.device import pick_device, prepare_process
from teacher.model import merge_lora


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="train", help="whose rows are cached")
    arguments = parser.parse_args()
    with meeting() as together:
        recipe = recipe_of(arguments)
        if recipe.cache is None:
            raise InputError(f"{arguments.config}: the recipe has no cache section; there is nothing to cache")
        files = files_of(recipe, arguments.split)
        require_inputs(recipe, files)
        together.agree(recipe, files, hashed_files(recipe.teacher), written_together(recipe))
    split = read_split(recipe, arguments.split)
    prepare_process()
    device = pick_device(arguments.local_rank)
    model, processor = build_teacher(recipe.teacher)
    merge_lora(model)
    settings = (split.prompts, split.cache, recipe.generation)
    identity = cache_identity(recipe.teacher, split.cache, recipe.generation, split.prompts, split.rows, processor)
    stop = StopRequest()
    fill_cache(
        model.to(device),
        processor,
        split.rows,
        *settings,
        identity,
        rank=launched_rank(),
        world=launched_world(),
        stopping=lambda: bool(stop),
    )
    if stop:
        print("stopped; what was cached is written, and the same command goes on from there", flush=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run_cli(main)
