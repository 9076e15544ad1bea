"""Reading a recipe: the arguments that commands share, the file, the overrides, and what goes together."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.errors import InputError
from data.paths import resolve
from data.ranks import launched_rank, on_several_hosts
from data.settings import read_settings
from distill.recipe.consistency import require_consistent
from distill.recipe.recipe import Recipe
from teacher.build import shapes_of_files
from teacher.device import cpu_has_bf16, get_accelerator

_QUOTES_LOST = (
    "on the way to other hosts deepspeed keeps the quotation marks of an override only where a space is in it: put one "
    "in, or write it into the recipe"
)


def recipe_parser(about: str) -> ArgumentParser:
    """The arguments that all commands over a recipe share; `recipe_of` reads the recipe from them."""
    parser = ArgumentParser(description=about)
    parser.add_argument("--config", default="configs/kd_1b.json", help="the recipe")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="overrides one key of the recipe")
    parser.add_argument(
        "--random-weights", action="store_true", help="untrained models of the recipe's shapes: nothing is downloaded"
    )
    return parser


def recipe_of(arguments: Namespace) -> Recipe:
    """The recipe that a command was given, in this machine's precision; one at random weights keeps its runs and its
    cache apart.

    Where it states no sizes of its parts, they are those of their files, if they are on this machine.
    """
    try:
        recipe = read_recipe(arguments.config, arguments.set)
    except InputError as error:
        if arguments.set and on_several_hosts():
            raise InputError(f"{error}; {_QUOTES_LOST}") from error
        raise
    if not arguments.random_weights:
        return in_own_precision(recipe)
    apart = [f"name={recipe.name}_random", "teacher.random_weights=true"]
    if recipe.cache:
        apart.append(f"cache.folder={recipe.cache.folder}_random")
    if recipe.teacher.shapes is None and (shapes := shapes_of_files(recipe.teacher)):
        apart.append(f"teacher.shapes={json.dumps(shapes)}")
    return in_own_precision(read_recipe(arguments.config, [*arguments.set, *apart]))


def in_own_precision(recipe: Recipe, *, quiet: bool = False) -> Recipe:
    """The recipe as this machine runs it: on a CPU that does not compute in bf16, in fp32, which is told unless quiet.

    What is made of it (a cache's identity, metrics, the saved recipe) knows the precision that was taken.
    """
    on_cpu = get_accelerator().device_name() == "cpu"
    if not on_cpu or recipe.bf16_on_cpu == "always" or cpu_has_bf16():
        return recipe
    taken, block = [], recipe.deepspeed
    if recipe.teacher.dtype == "bf16":
        taken.append("teacher.dtype")
        recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"dtype": "fp32"})})
    if block.get("bf16", {}).get("enabled"):
        taken.append("deepspeed.bf16")
        recipe = recipe.model_copy(update={"deepspeed": block | {"bf16": block["bf16"] | {"enabled": False}}})
    if taken and launched_rank() == 0 and not quiet:
        print(
            f"fp32 in place of bf16 ({', '.join(taken)}), as this CPU does not compute in bf16; "
            "--set bf16_on_cpu=always takes bf16",
            file=sys.stderr,
            flush=True,
        )
    return recipe


def read_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Reads configs/NAME.json.

    Raises:
        InputError: See `read_settings`; or its sections contradict each other.
    """
    recipe = read_settings(Recipe, resolve(path), overrides)
    if recipe.cache and recipe.cache.hypotheses is None and recipe.asks_hypotheses:
        cache = recipe.cache.model_copy(update={"hypotheses": recipe.asks_hypotheses})
        recipe = recipe.model_copy(update={"cache": cache})
    try:
        require_consistent(recipe)
    except ValueError as error:
        raise InputError(f"{resolve(path)}: {error}") from error
    return recipe
