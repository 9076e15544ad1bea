"""The command that writes what a trained model hears."""

import io
import json
from types import SimpleNamespace

import pytest
import soundfile

from tests.conftest import sound
from tests.student.use.conftest import loud, tiny_lm  # noqa: F401 (fixtures)

RATE = 16_000


@pytest.fixture
def model(tiny_lm, tmp_path):  # noqa: F811
    tiny_lm.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def files(tmp_path):
    for name, seconds in (("a", 1.5), ("b", 2.5)):
        soundfile.write(tmp_path / f"{name}.wav", sound(seconds, len(name)), RATE, subtype="PCM_16")
    (tmp_path / "bad.wav").write_text("no sound")
    return {name: tmp_path / f"{name}.wav" for name in ("a", "b", "bad")}


@pytest.fixture
def transcribe(command, model):
    return lambda *words: command("scripts/transcribe.py", *words, "--model", model)


def test_a_bad_file_is_told_in_a_line_and_the_others_are_written(transcribe, files, tiny_lm):  # noqa: F811
    status, out, err = transcribe(files["a"], files["bad"], files["b"])
    assert status == 2
    assert out.splitlines() == [f"{files[n]}\t{' '.join(tiny_lm.transcribe(files[n]).text.split())}" for n in "ab"]
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert str(files["bad"]) in line and "Traceback" not in err
    assert "transcribe: 4/4 s" in err


@pytest.mark.parametrize("form", ["text", "json", "srt", "vtt"])
def test_each_format_in_a_folder_and_on_the_screen(transcribe, files, tmp_path, form, tiny_lm):  # noqa: F811
    status, out, _ = transcribe(files["a"], files["b"], "--format", form, "--out", tmp_path / "out")
    assert status == 0 and not out
    suffix = {"text": "txt"}.get(form, form)
    assert sorted(path.name for path in (tmp_path / "out").glob("[ab].*")) == [f"a.{suffix}", f"b.{suffix}"]
    written = (tmp_path / "out" / f"a.{suffix}").read_text()
    result = tiny_lm.transcribe(files["a"])
    assert result.text in written or form == "json"
    _, out, _ = transcribe(files["a"], "--format", form)
    if form == "json":
        shown, written = json.loads(out), json.loads(written)
        for of in (shown, written):  # which was written in a batch
            assert of["segments"][0].pop("logp") == pytest.approx(result.segments[0].logp, abs=1e-3)
        assert shown == {"file": str(files["a"])} | written and written["text"] == result.text
    else:
        assert out == written


def test_in_a_folder_the_same_command_goes_on_where_it_was(transcribe, files, tmp_path):
    out = tmp_path / "out"
    status, _, err = transcribe(files["a"], files["bad"], "--out", out)
    assert status == 2 and "written already" not in err and "transcribe: 2/2 s" in err
    (out / "a.txt").write_text("mine")
    soundfile.write(files["bad"], sound(1.2, 3), RATE)
    status, _, err = transcribe(files["a"], files["bad"], files["b"], "--out", out)
    assert status == 0 and "1 of 3 are written already" in err and (out / "a.txt").read_text() == "mine"
    assert sorted(path.name for path in out.glob("*.txt")) == ["a.txt", "b.txt", "bad.txt"]
    soundfile.write(files["a"], sound(1.7, 3), RATE)  # another sound
    assert "written already" not in transcribe(files["a"], "--out", out)[2] and (out / "a.txt").read_text() != "mine"
    (out / "a.txt").write_text("mine")
    assert "written already" not in transcribe(files["a"], "--out", out, "--task", "caption")[2]


def test_standard_input_is_a_sound_like_others(transcribe, files, monkeypatch):
    expected = transcribe(files["a"])[1]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(files["a"].read_bytes())))
    status, out, _ = transcribe("-")
    assert status == 0 and out == expected


def test_an_answer_to_an_untrained_question_is_told_to_be_a_guess(transcribe, files):
    status, out, err = transcribe(files["a"], "--task", "ask", "--question", "who is it?")
    assert status == 0 and "not trained to ask" in err
    assert out != transcribe(files["a"], "--task", "caption")[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--task", "ask"], "--question"),
        (["--question", "who?"], "--question"),
        (["--format", "srt"], "--out DIR"),
        (["--out", "{out}", "{a}"], "both would be"),
        (["-", "-"], "twice"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(transcribe, files, tmp_path, words, complaint):
    words = [word.format(out=tmp_path / "out", a=files["a"]) for word in words]
    status, out, err = transcribe(files["a"], files["b"], *words)
    assert status == 2 and not out and not (tmp_path / "out").exists()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert complaint in line


def test_without_the_default_model_quickstart_is_named(command, files, monkeypatch):
    monkeypatch.setattr("data.paths.REPOSITORY", files["a"].parent)
    status, _, err = command("scripts/transcribe.py", files["a"])
    assert status == 2 and "runs/kd_mini/model: no trained model there; bash scripts/quickstart.sh" in err
