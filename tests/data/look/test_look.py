import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from PIL import Image

from data.look.gathering import Entry, gather, joined, words_of
from data.look.html import Html, page, paragraph, table
from data.look.page import look_page
from data.look.plots import amounts, histograms
from data.sound.checks import SoundCheck
from scripts.eda import entries_of
from tests.conftest import SAMPLE_RATE, sound


@pytest.fixture
def annotations(tmp_path, monkeypatch):
    """Two files over five sounds; one row twice, one without a text, one whose sound is gone, one longer than 30 s."""
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    for folder in ("talk", "noise"):
        (tmp_path / folder).mkdir()
    seconds = {"talk/a.wav": 1.5, "talk/b.wav": 0.5, "noise/c.flac": 3.0, "noise/d.wav": 31.0}
    for number, (name, length) in enumerate(seconds.items()):
        samples = sound(length, number)
        samples = np.stack([samples, samples], 1) if name == "noise/d.wav" else samples
        soundfile.write(tmp_path / name, samples, SAMPLE_RATE)
    asr = [
        {"path": "/talk/a.wav", "text": "Don't <b>stop</b> & stop", "task": "asr"},
        {"path": "/talk/a.wav", "text": "who speaks? a man", "task": "QA", "id": "question"},
        {"path": "/talk/b.wav", "text": " ", "task": "asr"},
        {"path": "/talk/gone.wav", "text": "stop", "task": "asr", "duration": 2.0},
    ]
    sounds = [
        {"path": "noise/c.flac", "text": "a dog barks", "task": "audiocaption", "corpus": "Clotho"},
        {"path": "noise/d.wav", "text": "a cow", "task": "audiocaption", "corpus": "Clotho"},
    ]
    for name, rows in (("asr", asr), ("sounds", sounds)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"annotation": rows}))
    return tmp_path


class Reader(HTMLParser):
    """Texts of table cells, and the sources of pictures and sounds."""

    def __init__(self):
        super().__init__()
        self.cells, self.sources, self.tags, self.inside = [], [], [], False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def test_the_command(command, annotations):
    files = [annotations / "asr.json", annotations / "sounds.json"]
    status, out, _ = command("scripts/eda.py", *files, "--root", annotations, "--out", annotations / "out")
    assert status == 0 and str(annotations / "out" / "index.html") in out
    text = (annotations / "out" / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert "6 rows over 5 sound files of 0.01 hours" in text
    rows = [reader.cells[i : i + 12] for i in range(12, 48, 12)]
    assert [row[:3] for row in rows] == [["Clotho", "audiocaption", "2"], ["talk", "QA", "1"], ["talk", "asr", "3"]]
    assert rows[0][4:] == ["17.00", "17.00", "31.00", "0", "1", "2.50", "3", "0"]
    assert rows[2][4:] == ["1.33", "1.50", "2.00", "1", "0", "2.00", "5", "1"]
    assert ["wav", "16,000", "2", "1"] in [reader.cells[i : i + 4] for i in range(len(reader.cells))]
    assert "stop (3)" in text and "Don't <b>stop</b> & stop" in reader.cells and "b" not in reader.tags
    # Nothing is fetched: pictures and sounds are in the page, as they are beside it.
    assert all(source.startswith("data:") for source in reader.sources)
    pictures = sorted(path.name for path in (annotations / "out").glob("*.png"))
    kinds = ["amounts", "durations_by_corpus", "durations_by_task", "words_by_corpus", "words_by_task"]
    assert pictures == [f"{kind}.png" for kind in kinds]
    inside = [base64.b64decode(part) for part in re.findall(r'png;base64,([^"]+)"', text)]
    assert set(inside) == {(annotations / "out" / name).read_bytes() for name in pictures}
    heard = [soundfile.read(io.BytesIO(base64.b64decode(part))) for part in re.findall(r'mpeg;base64,([^"]+)"', text)]
    lengths = sorted(round(len(samples) / rate) for samples, rate in heard)
    assert lengths == [1, 2, 2, 3, 10]  # the longest is cut; the sound that is gone is not drawn


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ({"start": 1}, 2.0),
        ({"end": 2}, 2.0),
        ({"start": 1, "end": 2.5}, 1.5),
        ({"start": 1, "end": 9}, 2.0),
        ({"start": 1, "duration": 3}, 2.0),
        ({"duration": 9}, 3.0),
        ({"start": 4}, 0.0),
        ({"start": 2, "end": 1}, 0.0),
    ],
)
def test_a_clip_is_as_long_as_its_stretch_of_the_file(annotations, times, seconds):
    row = {"path": "noise/c.flac", "text": "a dog barks", "task": "audiocaption"} | times
    (annotations / "one.json").write_text(json.dumps({"annotation": [row]}))
    (entry,) = entries_of(annotations / "one.json", annotations)
    look = gather([entry], {entry.sound: SoundCheck(duration_s=3.0, rate=SAMPLE_RATE, channels=1)}, 1)
    (group,) = look.groups.values()
    assert list(group.durations_s) == [seconds]
    heard = re.findall(r'mpeg;base64,([^"]+)"', look_page("a look", look, {}))
    lengths = [len(soundfile.read(io.BytesIO(base64.b64decode(part)))[0]) / SAMPLE_RATE for part in heard]
    assert lengths == pytest.approx([seconds] if seconds else [], abs=0.1)


def test_of_a_sound_that_cannot_be_read_the_row_says_how_long_it_is(annotations):
    lengths = {"a": {"end": 2, "start": 0.5}, "b": {"duration": 4}, "c": {"start": 1}}
    rows = [{"path": f"{name}.wav", "text": "", "task": name} | times for name, times in lengths.items()]
    (annotations / "gone.json").write_text(json.dumps({"annotation": rows}))
    look = gather(entries_of(annotations / "gone.json", annotations), {}, 1)
    assert {task: list(group.durations_s) for (_, task), group in look.groups.items()} == {
        "a": [1.5],
        "b": [4],
        "c": [0],
    }


def test_nothing_to_look_at(command, annotations):
    (annotations / "none.json").write_text('{"annotation": []}')
    status, _, err = command("scripts/eda.py", annotations / "none.json", "--out", annotations / "out")
    assert status == 2 and "no rows" in err and not (annotations / "out").exists()


def test_samples_do_not_depend_on_the_order(tmp_path):
    entries = [Entry(f"row {i}", tmp_path / str(i), "a b", "asr", "talk", 1.0) for i in range(50)]
    checks = {entry.sound: SoundCheck(duration_s=1.0, rate=SAMPLE_RATE, channels=1) for entry in entries}
    drawn = gather(entries, checks, 3).samples
    assert drawn == gather(entries[::-1], checks, 3).samples and len(drawn["talk", "asr"]) == 3
    assert gather(entries, {}, 3).samples == {("talk", "asr"): []}
    twice = gather(entries[:1] * 2, checks, 3).samples["talk", "asr"]  # ids that are there twice are looked at too
    assert [entry.id for entry in twice] == ["row 0"] * 2
    durations, words = joined(gather(entries, checks, 0), 1)["asr"]
    assert durations.tolist() == [1.0] * 50 and words.tolist() == [2] * 50


def test_words():
    said = words_of("It's 2 o'clock, she said: 'well-known' café_!")
    assert said == ["it's", "2", "o'clock", "she", "said", "well-known", "café"]


def test_a_picture_has_a_panel_for_each_name():
    rng = np.random.default_rng(0)
    sizes = []
    for count in (1, 4, 7):
        values = {f"corpus {i}": rng.exponential(5, 100) for i in range(count)}
        picture = Image.open(io.BytesIO(histograms(values, "clip, seconds")))
        sizes.append(picture.size)
        assert len(picture.getcolors(1 << 24)) > 3
    assert sizes[0][0] == sizes[2][0] and sizes[0][1] < sizes[1][1] < sizes[2][1]


def test_html_is_escaped_unless_it_is_html():
    whole = page("a < b", paragraph("<script>"), table(["<x>", "n"], [["&", 1234], [Html("<i>yes</i>"), 5]]))
    assert "a &lt; b" in whole and "<script>" not in whole and "<i>yes</i>" in whole
    assert "<td>&amp;</td><td class=number>1,234</td>" in whole


ODD = [
    {"text": "<script>alert(1)</script>", "task": "<b>asr</b>", "corpus": "$x_{$"},
    {"text": "今天", "task": "$\\frac$", "corpus": "中文"},
    {"text": None, "task": None, "duration": "3"},
    {"text": 7, "task": ["asr"], "id": 5, "corpus": {"a": 1}},
    {"task": "_hidden", "duration": -1, "start": "x", "corpus": "_c"},
    {"text": "\ud800 lone", "task": "\ud800", "id": "\ud800", "corpus": "\udfff"},
    {"text": "x", "task": "a\0\nb", "corpus": "c" * 5000, "id": True},
    *(
        {"text": "x", "task": "asr", "duration": of}
        for of in (float("nan"), float("inf"), 1e300, 10**400, True, [1], 0)
    ),
    {"text": "long " * 20_000, "task": "asr"},
    *({"text": "x", "task": f"task {n}", "corpus": f"corpus {n}"} for n in range(100)),
]


def test_rows_whatever_is_wrong_with_them(command, annotations):
    path = annotations / "odd.json"
    path.write_text(json.dumps({"annotation": [{"path": "talk/a.wav"} | row for row in ODD]}))
    status, out, err = command("scripts/eda.py", path, "--out", annotations / "out", "--samples", 1)
    assert status == 0 and "written" in out and "Traceback" not in err
    reader = Reader()
    reader.feed((annotations / "out" / "index.html").read_text(encoding="utf-8"))
    assert "script" not in reader.tags and "\\ud800 lone" in reader.cells and "nan" not in reader.cells
    at = reader.cells.index("asr")
    assert reader.cells[at - 1 : at + 7] == ["talk", "asr", "8", "0.00", "1.50", "1.50", "1.50", "0"]


@pytest.mark.parametrize("below", ["", "out"])
def test_an_out_that_is_a_file(command, annotations, below):
    (annotations / "file").write_text("")
    status, _, err = command("scripts/eda.py", annotations / "asr.json", "--out", annotations / "file" / below)
    assert status == 2 and err.splitlines()[-1].startswith("error: ") and "Traceback" not in err


def test_pictures_of_many_and_odd_names(tmp_path):
    names = ["$x_{$", "_a", "_b", "a\0b", "\n", "x" * 9999, *(f"n{i}" for i in range(3000))]
    look = gather((Entry(n, tmp_path, "a", n, n, 1.0) for n in names), {}, 0)
    picture = Image.open(io.BytesIO(amounts(look)))
    assert max(picture.size) < 4000
    assert max(Image.open(io.BytesIO(histograms({n: np.ones(3) for n in names}, "seconds"))).size) < 6000
