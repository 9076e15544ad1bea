"""JSON that is read to the letter: a key that is there twice is refused, and so is what Python cannot hold."""

import json
import re
import sys
from types import UnionType
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How half a character beyond the first 65,536 is written; two halves make one."""
_MOST_DIGITS = sys.float_info.max_10_exp


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its keys and values, each key once (of two, `json` would take the last one without a word)."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)[:40]} is there twice")
    return made


def loads(text: str, *, halves: bool = False) -> Any:
    """A JSON text's value.

    Args:
        text: The text.
        halves: Whether half a character may be in it: what a model wrote is shown as it is.

    Raises:
        ValueError: It is not JSON, has a key twice, a whole number that no floating-point one comes near, half a
            character, or is nested too deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_int=_whole)
        if not halves and _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character, which no file can") from None
    return value


def has(value: Any, **kinds: type | UnionType) -> bool:
    """Whether a value is an object with values of these kinds; true and false are no numbers."""
    return isinstance(value, dict) and all(
        isinstance(value.get(key), kind) and not (kind is int and isinstance(value[key], bool))
        for key, kind in kinds.items()
    )


def _whole(digits: str) -> int:
    """A whole number, which is to be a float at times."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
