"""Reading a recipe: the arguments that commands share, the file, the overrides, and what goes together."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from data.errors import InputError
from data.paths import resolve
from data.settings import read_settings
from distill.recipe.consistency import require_consistent
from distill.recipe.recipe import Recipe
from teacher.build import shapes_of_files


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
    """The recipe that a command was given; one at random weights keeps its runs and its cache apart.

    Where it states no sizes of its parts, they are those of their files, if they are on this machine.
    """
    recipe = read_recipe(arguments.config, arguments.set)
    if not arguments.random_weights:
        return recipe
    apart = [f"name={recipe.name}_random", "teacher.random_weights=true"]
    if recipe.cache:
        apart.append(f"cache.folder={recipe.cache.folder}_random")
    if recipe.teacher.shapes is None and (shapes := shapes_of_files(recipe.teacher)):
        apart.append(f"teacher.shapes={json.dumps(shapes)}")
    return read_recipe(arguments.config, [*arguments.set, *apart])


def read_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Reads configs/NAME.json.

    Raises:
        InputError: See `read_settings`; or its sections contradict each other.
    """
    recipe = read_settings(Recipe, resolve(path), overrides)
    asks_texts = recipe.trains_on_hypotheses or recipe.data.faults.no_text == "teacher"
    if recipe.cache and recipe.cache.hypotheses is None and asks_texts:
        recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"hypotheses": True})})
    try:
        require_consistent(recipe)
    except ValueError as error:
        raise InputError(f"{resolve(path)}: {error}") from error
    return recipe
