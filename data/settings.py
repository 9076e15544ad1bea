"""Recipes as strict pydantic models: unknown keys refused with the nearest known one, `--set a.b=c` overrides."""

import difflib
import json
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import InputError
from data.strict_json import loads

T = TypeVar("T", bound=BaseModel)


class Settings(BaseModel):
    """Base of every section of a recipe: frozen, nothing unknown, nothing coerced between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    MOVED: ClassVar[dict[str, str]] = {}
    """Keys that a section once had, and what is written in their place."""


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, optional or in a list; None where it holds a plain value."""
    candidates = [annotation, *get_args(annotation)]
    # On Python 3.10 `tuple[str, ...]` passes for a class, but is none.
    classes = [c for c in candidates if isinstance(c, type) and get_origin(c) is None]
    return next((c for c in classes if issubclass(c, BaseModel)), None)


def add_options(parser: ArgumentParser, model: type[BaseModel]) -> None:
    """Gives a command an option for each field of a section; `settings_of` reads them back."""
    for name, field in model.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=str if choices else field.annotation,
            choices=choices,
            default=field.default,
            metavar=None if choices else "N",
            help=f"{field.description} (default: %(default)s)",
        )


def settings_of(model: type[T], arguments: Namespace) -> T:
    """The section that a command's options make.

    Raises:
        InputError: A value is out of bounds.
    """
    try:
        return model(**{name: getattr(arguments, name) for name in model.model_fields})
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} {fault['input']}: {fault['msg']}") from error


def _section_at(model: type[BaseModel], path: tuple) -> type[BaseModel]:
    """The section that `path` (of a validation error) lies in."""
    for step in path[:-1]:
        field = model.model_fields.get(step) if isinstance(step, str) else None
        model = (field and section_of(field.annotation)) or model
    return model


def _explain(model: type[BaseModel], source: str, error: ValidationError) -> str:
    # An unknown key first: it is why another one is missing.
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        section, name = _section_at(model, first["loc"]), str(first["loc"][-1])
        known = list(section.model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        hint = getattr(section, "MOVED", {}).get(name, hint)
        return f"{source}: unknown key '{key}'; {hint}"
    if first["type"] == "missing":
        return f"{source}: key '{key}' is missing; add it"
    if first["type"] == "value_error":  # a rule between keys, which says all that there is to say
        return f"{source}: {key + ': ' if key else ''}{first['ctx']['error']}"
    return f"{source}: key '{key}': {first['msg']} (it is {first['input']!r})"


def override(tree: dict[str, Any], assignment: str) -> None:
    """Applies one `a.b=c` in place; c is read as JSON where it is JSON, else as text. A list's entries are numbered."""
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise InputError(f"--set {assignment}: write it as section.key=value")
    try:
        value = loads(text)
    except json.JSONDecodeError:
        value = text
    except ValueError as error:
        raise InputError(f"--set {assignment[:80]}: {error}; mend it") from None
    *sections, key = path.split(".")
    node: Any = tree
    for section in sections:
        node = node.setdefault(section, {}) if isinstance(node, dict) else _item(node, section, assignment)
    if isinstance(node, dict):
        node[key] = value
    else:
        _item(node, key, assignment)
        node[int(key)] = value


def _item(node: Any, index: str, assignment: str) -> Any:
    """An entry of a list in a recipe, such as the second stage in `train.stages.1.steps`."""
    if not isinstance(node, list):
        raise InputError(f"--set {assignment}: what '{index}' is to be looked up in is neither a section nor a list")
    if not re.fullmatch("[0-9]{1,9}", index) or int(index) >= len(node):
        raise InputError(
            f"--set {assignment[:80]}: '{index[:80]}' is no entry of a list of {len(node)} (counted from 0)"
        )
    return node[int(index)]


def read_settings(
    model: type[T],
    path: Path,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    what: str = "recipe",
    where: str = "configs/",
) -> T:
    """Reads and validates one JSON file of settings.

    Args:
        model: What it holds.
        path: The file.
        overrides: Keys that are set, as `--set` has them.
        what: What messages call it.
        where: Where the repository's own are.

    Raises:
        InputError: The file is missing, not JSON, or does not fit the model; the line names the key and the mend.
    """
    absent = InputError(f"{path}: no such {what}; the repository's are in {where}")
    if "\0" in str(path):  # which no file's name has, and which no error of the system's names
        raise absent
    try:
        # A device is none, and may never end.
        tree = None if path.is_char_device() else loads(path.read_text())
    except FileNotFoundError:
        raise absent from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a JSON file") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({str(error).split(';')[0]}); mend the file") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a {what} is one JSON object")
    for assignment in overrides:
        override(tree, assignment)
    try:
        # By JSON rules: a list is a tuple, an integer is a float; a text is never a number.
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise InputError(_explain(model, str(path), error)) from error
