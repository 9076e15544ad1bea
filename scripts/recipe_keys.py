"""Prints the keys of a recipe, what they mean, their types and defaults: `python scripts/recipe_keys.py [train.kd]`."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import get_origin

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import BaseModel

from data.errors import InputError, run_cli
from data.settings import section_of
from distill.recipe.recipe import Recipe


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("key", nargs="?", default="", help="only keys that begin so")
    wanted = re.sub(r"\.\d+(?=\.|$)", "[]", parser.parse_args().key)  # --set names list entries so
    known = dict(keys(Recipe))
    shown = [key for key in known if key.startswith(wanted)]
    if not shown:
        near = get_close_matches(wanted, known, n=1)
        advice = f"did you mean '{near[0]}'?" if near else "without an argument all are printed"
        raise InputError(f"no key of a recipe begins with '{wanted}'; {advice}")
    for key in shown:
        print(f"{key}: {known[key]}")


if __name__ == "__main__":
    run_cli(main)
