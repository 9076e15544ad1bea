"""The test sets that a page tells of: each a block of a model's metrics, by its name, in the recipe's order."""

from collections.abc import Iterable

from data.kinds import Kind, kind_of, own_name


def sets_in(block: dict, kind: Kind | None = None) -> list[str]:
    """The test sets of a model's metrics, of a kind or of both, as they follow one another there."""
    names = [name for name, of in block.items() if isinstance(of, dict) and kind_of(name)]
    return [name for name in names if kind in (kind_of(name), None)]


def sets_of(blocks: Iterable[dict], kind: Kind | None = None) -> list[str]:
    """The test sets of several models, each once, in an order that keeps theirs.

    What only some were scored on stands before the set that follows it there.
    """
    order: list[str] = []
    for block in blocks:
        at = len(order)
        for name in reversed(sets_in(block, kind)):
            if name not in order:
                order.insert(at, name)
            at = order.index(name)
    return order


def titled(what: str, name: str) -> str:
    """A figure's name with that of its set, where that has one of its own: "WER speakers"."""
    return f"{what} {own_name(name)}".strip()
