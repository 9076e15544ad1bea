"""Files that are nearly right: valid ones whose bytes or values were spoilt in the ways that files get spoilt."""

import codecs
import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_TOKENS = [
    *(b"\0", b"\n", b"\r", b'"', b"\\", b",", b"|", b";", b"\t", b"{", b"}", b"[", b"]", b"=", b"\x1b[31m", b"\xff"),
    *(codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8"),
    *(b"NaN", b"Infinity", b"null", b"1e999", b"-1", b"9" * 5000, b"[" * 100_000, b'{"a":' * 100_000, b"a" * 70_000),
    *(b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff" * 8, b"\0" * 4096),
]


class Content(bytes):
    """A file's bytes; a failing test shows only where they begin, and the blob that makes them again."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes: {self[:200]!r}>"


_KINDS = ("flip", "set", "cut", "drop", "repeat", "insert", "overwrite", "splice", "swap")
_Place = st.one_of(st.integers(0, 300), st.integers(-300, -1), st.integers(-(2**18), 2**18))


@st.composite
def spoilt_bytes(draw: st.DrawFn, contents: Sequence[bytes], least: int = 1, most: int = 4) -> Content:
    """One of some files, with bytes flipped, cut off, dropped, repeated, put in, or taken of another."""
    content = bytearray(draw(st.sampled_from(contents)))
    for kind, at, size, value in draw(
        st.lists(
            st.tuples(st.sampled_from(_KINDS), _Place, st.sampled_from((1, 2, 4, 8, 30, 400)), st.integers(0, 255)),
            min_size=least,
            max_size=most,
        )
    ):
        at %= len(content) + 1
        end = min(at + size, len(content))
        if kind == "flip" and at < end:
            content[at] ^= 1 << value % 8
        elif kind == "set":
            content[at:end] = bytes([value]) * (end - at)
        elif kind == "cut":
            del content[at:]
        elif kind == "drop":
            del content[at:end]
        elif kind == "repeat":
            content[at:at] = content[at:end] * (1 + value % 3)
        elif kind == "insert":
            content[at:at] = _TOKENS[value % len(_TOKENS)]
        elif kind == "overwrite":
            token = _TOKENS[value % len(_TOKENS)][:8]
            content[at : at + len(token)] = token
        elif kind == "splice":
            other = contents[value % len(contents)]
            content[at:] = other[at % (len(other) + 1) :]
        elif kind == "swap":
            content[at:end] = content[at:end][::-1]
    return Content(content)


_DEEP, _DIGITS, _HUGE = "@deep", "@digits", "@huge"
"""What stands for values that `json` does not write."""
_WRITTEN = {_DEEP: "[" * 3000 + "]" * 3000, _DIGITS: "9" * 5000, _HUGE: "-1e999"}
_ODD = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.5, 1e-320, 1e308, 10**10, 2**63, -(2**70), 10**400),
    *(float("nan"), float("inf"), _DEEP, _DIGITS, _HUGE, [], {}, [[]], [None], [1], ["a"], {"a": 1}, {"": None}),
    *(
        "",
        " ",
        "\0",
        "\n",
        "\r\n",
        "\t",
        "\ud800",
        "\udcff",
        "\u2028",
        "\ufeff",
        "é",
        "\u0301",
        "𝄞",
        "\x1b[2J",
        "%s",
        "{}",
    ),
    *(
        "/",
        "..",
        "../..",
        "~",
        "/dev/null",
        "/dev/zero",
        ".",
        "a/" * 3000,
        "a" * 300,
        "a" * 30_000,
        "{cache}",
        "1",
        "nan",
    ),
]


def odd() -> st.SearchStrategy[Any]:
    """A value that nobody would expect where it stands."""
    return st.one_of(st.sampled_from(_ODD), st.text(max_size=6), st.integers(), st.floats())


@st.composite
def spoilt_tree(draw: st.DrawFn, tree: Any, least: int = 1, most: int = 3) -> Any:
    """A JSON value with some values replaced, moved, taken away, put in twice, or keys renamed."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(least, most))):
        places = list(_places(root))
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("odd", "odd", "drop", "rename", "move", "add")))
        if kind == "odd" or holder is root:
            holder[key] = copy.deepcopy(draw(odd()))
        elif kind == "drop":
            del holder[key]
        elif kind == "move":
            other, at = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(other[at])
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(draw(odd()) if kind == "rename" else holder[key]))
        elif kind == "rename":
            holder[draw(_keys(key))] = holder.pop(key)
        else:
            holder[draw(_keys(key))] = copy.deepcopy(draw(odd()))
    return root[0]


def _keys(key: str) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from((key.upper(), key[:-1], f"{key}s", "", "\n", "\ud800", "x")), st.text(max_size=3))


def _places(holder: Any):
    for key in list(range(len(holder)) if isinstance(holder, list) else holder):
        yield holder, key
        if isinstance(holder[key], list | dict):
            yield from _places(holder[key])


@st.composite
def spoilt_json(draw: st.DrawFn, tree: Any, most: int = 3) -> bytes:
    """The text of a spoilt JSON value; of some the bytes are spoilt too, or a key is there twice."""
    spoil = draw(st.sampled_from(("tree", "tree", "tree", "bytes", "both", "twice")))
    if spoil in ("tree", "both"):
        tree = draw(spoilt_tree(tree, most=most))
    content = as_json(tree, draw(st.booleans()))
    if spoil == "twice":
        key = draw(st.sampled_from(sorted({key for holder, key in _places([tree]) if isinstance(key, str)})))
        content = content.replace(f'"{key}": '.encode(), f'"{key}": null, "{key}": '.encode(), draw(st.integers(1, 2)))
    return draw(spoilt_bytes([content])) if spoil in ("bytes", "both") else content


@st.composite
def spoilt_lines(draw: st.DrawFn, entries: list[Any]) -> bytes:
    """Spoilt JSON lines."""
    spoil = draw(st.sampled_from(("tree", "tree", "bytes", "both")))
    if spoil in ("tree", "both"):
        entries = draw(spoilt_tree(entries).filter(lambda tree: isinstance(tree, list)))
    content = b"".join(as_json(entry, draw(st.booleans())) + b"\n" for entry in entries)
    return draw(spoilt_bytes([content])) if spoil in ("bytes", "both") else content


def as_json(tree: Any, ascii_only: bool = True) -> bytes:
    """A JSON value's text, in UTF-8 but for halves of characters."""
    text = json.dumps(tree, ensure_ascii=ascii_only)
    for name, written in _WRITTEN.items():
        text = text.replace(f'"{name}"', written)
    return text.encode("utf-8", "surrogatepass")
