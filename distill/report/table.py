"""Numbers of JSON blocks by dotted keys, and tables in Markdown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.paths import written_whole
from distill.report.markup import literal

MISSING = "–"


def is_number(entry: object) -> bool:
    """Whether a JSON value is a number (JSON's true and false are Python's ints)."""
    return isinstance(entry, int | float) and not isinstance(entry, bool)


def value(block: dict, key: str) -> float | None:
    """The number at a dotted key, or None where there is none."""
    entry = block
    for name in key.split("."):
        entry = entry.get(name) if isinstance(entry, dict) else None
    return entry if is_number(entry) else None


def shown(amount: float | None, digits: int) -> str:
    """A number as text; a dash where there is none."""
    return MISSING if amount is None else f"{amount:,.{digits}f}"


def figure(block: dict, key: str, digits: int, unit: float = 1) -> str:
    """The number at a dotted key as text, in a unit."""
    amount = value(block, key)
    return shown(None if amount is None else amount / unit, digits)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, whose cells are shown literally."""
    header, *cells = ([literal(cell) for cell in line] for line in [header, *lines])
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *cells])


def write_measured(out: Path, measured: dict, page: str) -> None:
    """Writes a page of measured figures, and the figures beside it as JSON; prints the page."""
    for path, text in ((out.with_suffix(".json"), json.dumps(measured, indent=2) + "\n"), (out, page)):
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(f"{page}written: {out}")
