"""JSON that is read to the letter: a key that is there twice is refused, and so is what Python cannot hold."""

import json
from typing import Any


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its keys and values, each key once (of two, `json` would take the last one without a word)."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)[:40]} is there twice")
    return made


def loads(text: str) -> Any:
    """A JSON text's value.

    Raises:
        ValueError: It is not JSON, has a key twice, a number of thousands of digits, or is nested too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deep") from None
