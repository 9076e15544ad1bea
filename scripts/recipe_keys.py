"""Prints the keys of a recipe, what they mean, their types and defaults: `python scripts/recipe_keys.py [train.kd]`."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import BaseModel

from data.errors import InputError, run_cli
from data.settings import section_of
from distill.recipe.recipe import Recipe

_PLAIN = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Any: "anything",
    NoneType: "null",
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """Each key of a section and of the sections in it, with its meaning."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section:
            name += "[]" if str(field.annotation).startswith("tuple") else ""
            yield f"{above}{name}", field.description or section.__doc__.splitlines()[0]
            yield from keys(section, f"{above}{name}.")
        else:
            kind = typed(field.annotation, bounds(field.metadata))
            default = "" if field.is_required() else f"; default {json.dumps(field.default)}"
            yield f"{above}{name}", f"{field.description} ({kind}{default})"


def typed(kind: Any, limits: str = "") -> str:
    """What a person types for a value of a type and bounds: `whole number >= 1, list of whole numbers, or null`."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return typed(of[0], bounds(of[1:]))
    if origin is Literal:
        return f"{'one of ' * (len(of) > 1)}{', '.join(map(json.dumps, of))}"
    if origin in (Union, UnionType):
        # Several lists of names are one.
        names = tuple(name for one in of if get_origin(one) is Literal for name in get_args(one))
        ways = [typed(one, limits) for one in of if get_origin(one) is not Literal]
        *first, last = [*([typed(Literal[names])] if names else []), *ways]
        return f"{', '.join(first)}, or {last}" if first else last
    if origin is tuple:
        alike = of[-1] is Ellipsis or len(set(of)) == 1
        number = "" if of[-1] is Ellipsis else f"{len(of)} "
        return f"list of {number}{_many(typed(of[0]))}" if alike else f"list of {', then '.join(map(typed, of))}"
    if origin is dict:
        keys = f" under {typed(of[0])}" if get_origin(of[0]) is Literal else ""
        return "object" if of[1] is Any else f"object of {_many(typed(of[1]))}{keys}"
    return f"{_PLAIN.get(kind, 'object')}{limits if kind in (int, float) else ''}"


def bounds(metadata: Iterable[Any]) -> str:
    """The bounds of a number, as they stand behind its kind."""
    limits = [limit for one in metadata for limit in getattr(one, "metadata", [one])]
    signs = [f"{sign} {getattr(limit, key)}" for limit in limits for key, sign in _SIGNS.items() if hasattr(limit, key)]
    return f" {' and '.join(signs)}" if signs else ""


def _many(kind: str) -> str:
    """A kind of which there are several."""
    return re.sub(r"^(text|whole number|number|list|object)\b", r"\1s", kind).replace("one of", "any of")


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
