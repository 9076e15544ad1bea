"""Tables and other lists of one's own clips, as scripts/prepare_data.py takes them."""

import csv
import io
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpora import annotation, table
from data.corpora.prepare import prepare
from data.rows.manifest_reader import read_manifest
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_bytes, spoilt_json, spoilt_lines, spoilt_tree
from tests.fuzz.test_rows import ROWS, require_sensible

HEADER = ["path", "text", "task", "id", "split", "references", "start", "end", "question", "corpus"]
LINES = [
    ["sounds/valid_0.wav", "press one", "asr", "a", "train", "", "", "", "", "c"],
    ["sounds/valid_1.wav", "a cow, then a bell", "audiocaption", "b", "test", "a cow|a bell", "0.1", "0.9", "", ""],
    ["sounds/test_asr_0.wav", 'he said "no"', "QA", "", "train", "", "", "", "what?", ""],
]
OBJECTS = [dict(zip(HEADER, line, strict=True)) for line in LINES]
for entry in OBJECTS:
    entry.update(references=["x"], start=0, end=0.5)


@pytest.fixture(scope="module")
def folder(tiny_data, tmp_path_factory):
    """Sounds, with nothing that is waited for: a file that is written here need not be on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield shutil.copytree(tiny_data / "sounds", tmp_path_factory.mktemp("tables") / "corpus" / "sounds").parent


@st.composite
def spoilt_table(draw: st.DrawFn, delimiter: str) -> bytes:
    lines = [HEADER, *LINES]
    spoil = draw(st.sampled_from(("cells", "cells", "bytes", "both", "none")))
    if spoil in ("cells", "both"):
        lines = draw(spoilt_tree(lines))
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=draw(st.sampled_from((delimiter, delimiter, ";"))),
        lineterminator=draw(st.sampled_from(("\n", "\r\n", "\r"))),
    )
    for line in lines if isinstance(lines, list) else [lines]:
        writer.writerow(line if isinstance(line, list) else [line])
    content = text.getvalue().encode(
        draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be"))), "surrogatepass"
    )
    return draw(spoilt_bytes([content])) if spoil in ("bytes", "both") else content


def require_prepared(corpus, folder, name, content):
    """What is prepared can be read back."""
    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    lists = folder.parent / "lists"
    shutil.rmtree(lists, ignore_errors=True)
    lists.mkdir()
    (lists / name).write_bytes(content)

    def read():
        for path in prepare(corpus, folder, out, lists).files.values():
            require_sensible(read_manifest(path))

    if not ends_well(read, lists, folder, out):
        assert not list(out.rglob("*")) if out.exists() else True


@inputs()
@given(data=st.data())
def test_tables(folder, data):
    kind = data.draw(st.sampled_from(("csv", "tsv")))
    content = data.draw(spoilt_table("," if kind == "csv" else "\t"))
    require_prepared(table, folder, f"list.{kind}", content)


@inputs()
@given(content=spoilt_lines(OBJECTS))
def test_json_lines(folder, content):
    require_prepared(table, folder, "list.jsonl", content)


@inputs(share=0.2)
@given(content=spoilt_json(ROWS))
def test_annotations_of_others(folder, content):
    require_prepared(annotation, folder, "list.json", content)
