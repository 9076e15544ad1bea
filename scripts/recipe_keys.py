"""Prints the keys of a recipe, what they mean, their types and defaults: `python scripts/recipe_keys.py [train.kd]`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import BaseModel

from data.errors import run_cli
from data.settings import section_of
from distill.recipe import Recipe


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """Each key of a section and of the sections in it, with its meaning."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section:
            name += "[]" if str(field.annotation).startswith("tuple") else ""
            yield f"{above}{name}", field.description or section.__doc__.splitlines()[0]
            yield from keys(section, f"{above}{name}.")
        else:
            plain = isinstance(field.annotation, type) and get_origin(field.annotation) is None
            kind = field.annotation.__name__ if plain else str(field.annotation)
            default = "" if field.is_required() else f", default {json.dumps(field.default)}"
            yield f"{above}{name}", f"{field.description} ({kind.replace('typing.', '')}{default})"


def main() -> None:
    """Prints all of them, or those that begin with the argument."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for key, meaning in keys(Recipe):
        if key.startswith(wanted):
            print(f"{key}: {meaning}")


if __name__ == "__main__":
    run_cli(main)
