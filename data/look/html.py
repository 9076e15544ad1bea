"""Self-contained HTML pages: text, tables, pictures and sounds in one file, which opens without a network."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.7em } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 0.92em; margin: 1em 0 }
th, td { padding: 0.25em 0.8em; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: middle }
th { border-bottom: 2px solid #999; font-weight: 600; white-space: nowrap } td.number, th.number { text-align: right }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto } audio { height: 32px; width: 260px; display: block }
.wide { overflow-x: auto } small { color: #777; display: block }
pre { background: #f6f6f6; padding: 0.6em; overflow-x: auto } code { background: #f2f2f2; padding: 0 0.2em }
"""


class Html(str):
    """Text that is HTML already, and so is not escaped."""


def page(title: str, *parts: Html) -> str:
    """A whole page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def heading(text: str) -> Html:
    """A section begins."""
    return Html(f"<h2>{escape(text)}</h2>")


def paragraph(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{_inner(text)}</p>")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> Html:
    """A table; columns of numbers, and those named in `right`, stand to the right.

    Ints are shown with thousands apart, floats with two digits.
    """
    rows = [list(row) for row in rows]
    numeric = [
        i in right or (bool(rows) and all(isinstance(row[i], int | float) for row in rows)) for i in range(len(header))
    ]

    def cell(tag: str, value: object, right: bool) -> str:
        shown = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
        return f"<{tag}{' class=number' if right else ''}>{_inner(shown)}</{tag}>"

    lines = [[cell("th", name, right) for name, right in zip(header, numeric, strict=True)]]
    lines += [[cell("td", value, right) for value, right in zip(row, numeric, strict=True)] for row in rows]
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return Html(f'<div class="wide"><table>\n{body}\n</table></div>')


def image(png: bytes, about: str) -> Html:
    """A picture; `about` says what is in it, for those who do not see it."""
    return Html(f'<img alt="{escape(about)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">')


def player(mp3: bytes) -> Html:
    """A sound to listen to."""
    return Html(
        f'<audio controls preload="none" src="data:audio/mpeg;base64,{base64.b64encode(mp3).decode()}"></audio>'
    )


def _inner(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)
