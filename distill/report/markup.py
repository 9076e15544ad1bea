"""Texts in Markdown as viewers show them: literally, whoever wrote them; a page's sentences may have `code` in them."""

import re

_ACTIVE = re.compile(r"[\\`*\[\]|<]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|:(?=//)|=(?==)|(?<=www)\.", re.IGNORECASE)
_IN_PAIRS = "~$^"  # a lone one marks nothing
_BACKSLASHED = frozenset("\\`*_[]|")
_AT_THE_START = re.compile(r"(?:[-+]|#{1,6})(?=\s|$)|-(?=[-\s]*$)|>")
_NUMBER = re.compile(r"(\d{1,9})([.)])(?=\s|$)")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
CODE = re.compile(r"`([^`]+)`")


def literal(text: str) -> str:
    """A text on one line of Markdown, within a cell or a heading: viewers show its very characters.

    A backslash stands before what all dialects let it escape; the others are entities.
    """
    line = _line(text)
    return _escaped(line, line)


def sentence_markdown(text: str) -> str:
    """A paragraph of one line in Markdown: but for its `code` it is literal, and begins no list, quote or heading."""
    parts = CODE.split(_line(text))
    plain = "".join(parts[::2])
    line = "".join(f"`{part}`" if i % 2 else _escaped(part, plain) for i, part in enumerate(parts))
    line = _NUMBER.sub(r"\1\\\2", line, count=1) if _NUMBER.match(line) else line
    return f"\\{line}" if _AT_THE_START.match(line) else line


def heading_markdown(level: int, text: str) -> str:
    """A heading; number signs at its end would be taken for the end of its markup."""
    return f"{'#' * level} " + re.sub(r"(?<!\S)(#+)$", r"\\\1", literal(text))


def fenced(text: str) -> str:
    """Lines of even width in Markdown, in a fence longer than any in them."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _line(text: str) -> str:
    """A text on one line, without characters that nobody sees."""
    return _UNSEEN.sub("\ufffd", " ".join(text.split()))


def _escaped(text: str, paragraph: str) -> str:
    pairs = "".join(re.escape(char) for char in _IN_PAIRS if paragraph.count(char) > 1)
    text = _ACTIVE.sub(lambda found: f"\\{found[0]}" if found[0] in _BACKSLASHED else f"&#{ord(found[0])};", text)
    # Not before: an entity has none of these, nor has what is escaped by a backslash.
    return re.sub(f"[{pairs}]", lambda found: f"&#{ord(found[0])};", text) if pairs else text
