"""What a page is made of, in two forms: Markdown beside its pictures, and one HTML file with all in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

from data.look import html
from data.look.html import Html
from distill.report.markup import CODE, fenced, heading_markdown, literal, sentence_markdown
from distill.report.table import markdown

_NUMBER = re.compile(r"[–+-]?[\d.,]*(\s*±.*)?(\s*\(.*\))?")
_RATIO = re.compile(r"^([\d.,]+) \(([\d.,]+ x)\)$")


class Block(Protocol):
    """A part of a page; pictures lie in its folder."""

    def to_markdown(self) -> str:
        """The part in Markdown."""

    def to_html(self, folder: Path) -> Html:
        """The part in HTML."""


@dataclass(frozen=True)
class Heading:
    """A section begins."""

    text: str

    def to_markdown(self) -> str:
        """See `Block`."""
        return heading_markdown(2, self.text)

    def to_html(self, folder: Path) -> Html:
        """See `Block`."""
        return html.heading(self.text)


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` in backquotes."""

    text: str

    def to_markdown(self) -> str:
        """See `Block`."""
        return sentence_markdown(self.text)

    def to_html(self, folder: Path) -> Html:
        """See `Block`."""
        return html.paragraph(_sentence(self.text))


@dataclass(frozen=True)
class Items:
    """A list."""

    texts: Sequence[str]

    def to_markdown(self) -> str:
        """See `Block`."""
        return "\n".join(f"- {sentence_markdown(text)}" for text in self.texts)

    def to_html(self, folder: Path) -> Html:
        """See `Block`."""
        return Html("<ul>" + "".join(f"<li>{_sentence(text)}</li>" for text in self.texts) + "</ul>")


@dataclass(frozen=True)
class Code:
    """Lines of even width."""

    text: str

    def to_markdown(self) -> str:
        """See `Block`."""
        return fenced(self.text)

    def to_html(self, folder: Path) -> Html:
        """See `Block`."""
        return Html(f"<pre>{escape(self.text)}</pre>")


@dataclass(frozen=True)
class Table:
    """A table; in HTML a line may begin with a player of its sound (MP3)."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    sounds: Sequence[bytes | None] = ()

    def to_markdown(self) -> str:
        """See `Block`."""
        return markdown(self.header, self.lines)

    def to_html(self, folder: Path) -> Html:
        """See `Block`."""
        right = [i for i in range(len(self.header)) if all(_NUMBER.fullmatch(line[i]) for line in self.lines)]
        header, rows = list(self.header), [[_cell(text) for text in line] for line in self.lines]
        if any(self.sounds):
            header, right = ["listen", *header], [1 + i for i in right]
            players = [html.player(sound) if sound else "" for sound in self.sounds]
            rows = [[player, *row] for player, row in zip(players, rows, strict=True)]
        return html.table(header, rows, right)


@dataclass(frozen=True)
class Picture:
    """A PNG in the page's folder."""

    file: str
    about: str

    def to_markdown(self) -> str:
        """See `Block`."""
        return f"![{literal(self.about)}]({self.file})"

    def to_html(self, folder: Path) -> Html:
        """See `Block`."""
        return html.image((folder / self.file).read_bytes(), self.about)


def markdown_page(title: str, blocks: Sequence[Block]) -> str:
    """The page in Markdown."""
    return "\n\n".join([heading_markdown(1, title), *(block.to_markdown() for block in blocks)]) + "\n"


def html_page(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The page as one file that needs no other; its pictures are read from the folder."""
    return html.page(title, *(block.to_html(folder) for block in blocks))


def _sentence(text: str) -> Html:
    return Html(CODE.sub(r"<code>\1</code>", escape(text)))


def _cell(text: str) -> Html:
    """A ratio in brackets stands small under its figure."""
    if match := _RATIO.match(text):
        return Html(f"{escape(match[1])}<small>{escape(match[2])}</small>")
    return Html(escape(text))
