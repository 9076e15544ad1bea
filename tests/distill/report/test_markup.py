"""Texts of models in pages: every viewer shows their very characters, and nothing in them is markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.image import imread

from distill.report import print_table, write_report
from distill.report.blocks import Code, Heading, Items, Table, Text, html_page, markdown_page
from distill.report.runs import read_run
from tests.distill.report.conftest import TEACHER, put, put_log, student

VIEWERS = [MarkdownIt("commonmark").enable(["table", "strikethrough"]), MarkdownIt("js-default", {"typographer": True})]
VIEWERS[1].disable(["replacements", "smartquotes"])
NASTY = [
    *("<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "![a](x.png)", "`code`", "``", "a | b", "\\| x \\"),
    *("*a* **b** _c_ __d__ ~~e~~ $x$", "snake_case", "&lt;b&gt; &#60; & co", "https://a.b www.a.b <a@b.c>", "# a #"),
    *("- a", "1. a", "10) a", "+ a", "> a", "---", "***", "===", "```", "~~~", "[ ] a", "    a", "a\nb", "a  \nb\\\nc"),
    *("<!-- a", "<script>", "]]>", "a\x00b", "\ud800", "[a]: b", "[^1]", "==a==", "H~2~O x^2^", "-", "#", "##", "1."),
]
texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.one_of(st.sampled_from("\\`*_[]()<>&#+-.!|~$^=:/ \n\tw19a"), st.characters()), max_size=30),
    st.lists(st.sampled_from(NASTY), max_size=3).map(" ".join),
)


def seen(text: str) -> str:
    """The characters that a viewer can show of a text on one line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


def shown(viewer: MarkdownIt, page: str) -> list[tuple[str, str]]:
    """The blocks of a page, each with its text; a test fails where something in one is more than text."""
    tokens = viewer.parse(page)
    found = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in ("fence", "code_block", "html_block", "hr"):
            found.append((token.type, token.content))
        elif token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.children
            found.append((before.type, "".join(child.content for child in token.children)))
    return found


@pytest.mark.parametrize("viewer", VIEWERS, ids=["commonmark", "js"])
@given(text=texts, other=texts)
def test_a_table_shows_the_very_text(viewer, text, other):
    page = markdown_page("p", [Table([text, "b", other], [[other, text, "c"]])])
    cells = [("th_open", seen(text)), ("th_open", "b"), ("th_open", seen(other))]
    cells += [("td_open", seen(other)), ("td_open", seen(text)), ("td_open", "c")]
    assert shown(viewer, page) == [("heading_open", "p"), *cells]


@pytest.mark.parametrize("viewer", VIEWERS, ids=["commonmark", "js"])
@given(text=texts)
def test_headings_sentences_and_lists_show_the_very_text(viewer, text):
    text = text.replace("`", "'")  # which makes code of a page's own sentences
    blocks = [Heading(text), Text(text), Items([text, "b"]), Text("c")]
    found = [("paragraph_open", seen(text))] if seen(text) else []
    expected = [("heading_open", seen(text)), *found, *found, ("paragraph_open", "b"), ("paragraph_open", "c")]
    assert shown(viewer, markdown_page(text, blocks)) == [("heading_open", seen(text)), *expected]


@given(text=texts.filter(lambda text: "\x00" not in text and "\r" not in text))
def test_code_shows_the_very_lines(text):
    assert shown(VIEWERS[0], markdown_page("p", [Code(text), Text("b")]))[1:] == [
        ("fence", text + "\n"),
        ("paragraph_open", "b"),
    ]


@given(text=texts)
@example("a `b` c")
def test_a_sentence_has_its_code_and_no_other_markup(text):
    text = text.replace("`", "'")
    (*_, inline, _) = VIEWERS[0].parse(markdown_page("p", [Text(f"checkpoint `runs/a_b*c` {text}")]))
    kinds = [child.type for child in inline.children]
    assert kinds[:2] == ["text", "code_inline"] and set(kinds[2:]) <= {"text", "text_special"}
    assert inline.children[1].content == "runs/a_b*c"
    assert "".join(child.content for child in inline.children[2:]).strip() == seen(text)


class Characters(HTMLParser):
    """The tags of a page, and the text of each cell."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.cells = set(), []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@given(text=texts.filter(lambda text: not re.search(r"[\x00\r\ud800-\udfff]", text)))
@example("(1 x)")
@example("heard (2 x)")
def test_html_shows_the_very_text_too(text):
    page = Characters(html_page("p", [Table(["a"], [[text]])], Path(".")))
    assert page.cells[1].rstrip("\n") == text.rstrip("\n")
    assert page.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "div", "table", "tr", "th", "td"}


def test_what_a_model_wrote_changes_nothing_of_a_report(tmp_path, pictures, capsys):
    name = "kd$x_{$[/b]<img src=x>"
    block = student() | {"recipe": name}
    block["examples"] = [row | {"hypothesis": "\ud800 ".join(NASTY)} for row in block["examples"]]
    block["asr"]["worst"] = [{"id": "```", "alignment": "```\n<img src=x onerror=alert(1)>"}]
    put(tmp_path / "a", TEACHER | {"recipe": name})
    (tmp_path / "a" / "student").mkdir()
    (tmp_path / "a" / "student" / "metrics.json").write_text(json.dumps(block))
    put(tmp_path / "b", student() | {"recipe": "b", "dtype": "[red]"})
    put_log(tmp_path / "a")
    put_log(tmp_path / "b")
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "page")
    page = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    kinds = {token.type for token in VIEWERS[0].parse(page)}
    assert not {"html_block", "link_open"} & kinds
    inline = [child for token in VIEWERS[0].parse(page) for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special", "code_inline", "image"}
    assert {child.attrs["src"] for child in inline if child.type == "image"} <= {
        "report.png",
        "losses.png",
        "durations.png",
    }
    html = Characters((tmp_path / "page" / "report.html").read_text(encoding="utf-8"))
    assert "script" not in html.tags and imread(tmp_path / "page" / "losses.png").std() > 0
    print_table([read_run(tmp_path / "a"), read_run(tmp_path / "b")])
    assert "[/b]" in capsys.readouterr().out.replace("\n", "")
    assert [*(tmp_path / "page").glob("report.json")]


def test_figures_and_names_stand_as_they_are():
    row = [
        "kd_mini_long",
        "1,024.0 (0.50 x)",
        "–",
        "-3.0 ± 4.3",
        "bf16, llm int4",
        "a dog's bark, 2 times!",
        "50%",
        "a = 1, b = 2",
    ]
    assert Table(["WER, %", *"abcdefg"], [row]).to_markdown().splitlines()[2] == f"| {' | '.join(row)} |"
