import json
import shutil

import numpy as np
import pytest
import soundfile

from data.errors import InputError
from data.rows.faults import FaultPolicies, Lengths, Thresholds
from data.rows.manifest_writer import write_manifest
from data.rows.policy import read_training_rows
from data.scan.report import report_of
from data.sound.audio import load_clip
from tests.conftest import SAMPLE_RATE, sound

ALLOWED = {"max_dropped": 1.0, "unreadable": "drop"}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Eight sound rows beside these at fault; ids say which."""
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", sound(1.5, number), SAMPLE_RATE)
    soundfile.write(tmp_path / "short.wav", sound(0.4, 1), SAMPLE_RATE)
    soundfile.write(tmp_path / "long.wav", sound(64.0, 2), SAMPLE_RATE)
    soundfile.write(tmp_path / "zero.wav", sound(0.0, 2), SAMPLE_RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(30_000), SAMPLE_RATE)
    shutil.copy(tmp_path / "0.wav", tmp_path / "copy.wav")
    (tmp_path / "noise.wav").write_text("no sound at all")
    (tmp_path / "cut.flac").write_bytes(_flac(tmp_path)[:-3_000])
    rows = [{"path": f"{number}.wav", "text": f"this is {number}", "task": "asr"} for number in range(8)]
    faulty = ["short.wav", "zero.wav", "silent.wav", "copy.wav", "cut.flac"]
    rows += [{"path": name, "text": "something", "task": "asr", "id": name} for name in faulty]
    rows += [
        {"path": "long.wav", "text": "a long sound", "task": "audiocaption", "id": "long caption"},
        {"path": "long.wav", "text": "much is said", "task": "asr", "id": "long speech"},
        {"path": "0.wav", "text": " ", "task": "asr", "id": "blank"},
        {"path": "0.wav", "text": "", "task": "asr", "id": "textless"},
        {"path": "1.wav", "text": "word " * 400, "task": "asr", "id": "wordy"},
    ]
    return written(tmp_path / "rows.json", rows)


def _flac(folder):
    soundfile.write(folder / "whole.flac", sound(2.0, 5), SAMPLE_RATE)
    return (folder / "whole.flac").read_bytes()


def written(path, rows):
    path.write_text(json.dumps({"annotation": rows}))
    return path


def more(path, *rows):
    return written(path, json.loads(path.read_text())["annotation"] + list(rows))


def read(path, *, scan=None, limit=None, **policies):
    return read_training_rows(path, FaultPolicies(**ALLOWED | policies), Lengths(), scan=scan, limit=limit)


FINE = [f"{number}.wav#asr" for number in range(8)]


def test_what_is_found_in_reading(corpus, capsys):
    ids = [row.id for row in read(corpus)]
    others = ["short.wav", "silent.wav", "copy.wav", "cut.flac", "long caption", "long speech", "wordy"]
    assert ids == [*FINE, *others]
    assert capsys.readouterr().out == (
        "rows.json: 3 of 18 rows dropped: 1 zero_length (zero.wav), 2 no_text (blank, textless)\n"
    )
    strict = {"too_short": "drop", "too_long": "drop", "long_text": "drop"}
    assert [row.id for row in read(corpus, **strict)] == [*FINE, "silent.wav", "copy.wav", "cut.flac"]
    assert "1 too_short (short.wav), 2 too_long (long caption, long speech)" in capsys.readouterr().out


def test_what_a_scan_has_listed(corpus, tmp_path, capsys):
    report = report_of(corpus, None, Thresholds(), decode=True, quiet=True)
    (tmp_path / "scan.json").write_text(json.dumps(report.as_json()))
    ids = [row.id for row in read(corpus, scan=tmp_path / "scan.json", duplicate_audio="drop")]
    assert ids == [*FINE, "short.wav", "long caption", "long speech", "wordy"]
    out = capsys.readouterr().out
    assert all(f"1 {name}" in out for name in ("unreadable (cut", "silent (sil", "duplicate_audio (copy"))
    corpus.write_text(corpus.read_text() + "\n")
    with pytest.raises(InputError, match="changed since; make it again"):
        read(corpus, scan=tmp_path / "scan.json")


@pytest.mark.parametrize("name", ["zero_length", "too_short", "too_long", "no_text", "long_text"])
def test_stop_names_the_rows(corpus, name):
    with pytest.raises(InputError, match=rf"rows are {name}: .*data\.faults\.{name}") as error:
        read(corpus, **{name: "stop"})
    assert "\n" not in str(error.value)


def test_missing_files_and_unreadable_headers(corpus, capsys):
    gone = {"path": "gone.wav", "text": "lost", "task": "asr", "id": "gone"}
    more(corpus, gone)
    with pytest.raises(InputError, match=r"row 18: \"path\" names .*gone\.wav, which does not exist"):
        read(corpus)
    assert len(read(corpus, missing_file="drop")) == 15
    assert "4 of 19 rows dropped: 1 missing_file (gone)" in capsys.readouterr().out
    more(corpus, {"path": "noise.wav", "text": "hiss", "task": "asr", "id": "noise"}, {**gone, "id": "last"})
    ids = [row.id for row in read(corpus, missing_file="drop")]
    assert len(ids) == 15 and not {"noise", "last", "gone"} & set(ids)
    assert "2 missing_file (gone, last), 1 unreadable (noise)" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"noise\.wav: cannot be read as sound"):
        read(corpus, missing_file="drop", unreadable="stop")


def test_rows_that_state_other_lengths(corpus, tmp_path, monkeypatch, capsys):
    wrong = {"path": "0.wav", "text": "x", "task": "asr"}
    more(
        corpus,
        wrong | {"id": "stated", "duration": 9.0},
        wrong | {"id": "beyond", "start": 9.0},
        wrong | {"id": "end", "end": 9.0},
    )
    with pytest.raises(InputError, match=r'row 18: "duration" is 9 s, but there are 1.50 s'):
        read(corpus)
    assert len(read(corpus, wrong_length="drop")) == 15
    assert "3 wrong_length (stated, end, beyond)" in capsys.readouterr().out
    (tmp_path / "scan.json").write_text(
        json.dumps(report_of(corpus, None, Thresholds(), decode=False, quiet=True).as_json())
    )
    monkeypatch.setattr("data.rows.manifest_reader.SPOT_CHECKED", 0)  # as in a file of many rows
    assert len(read(corpus, wrong_length="drop")) == 17
    assert len(read(corpus, wrong_length="drop", scan=tmp_path / "scan.json")) == 15
    written(corpus, [row for row in json.loads(corpus.read_text())["annotation"] if row.get("id") != "beyond"])
    (tmp_path / "scan.json").write_text(
        json.dumps(report_of(corpus, None, Thresholds(), decode=False, quiet=True).as_json())
    )
    with pytest.raises(InputError, match=r"2 rows are wrong_length: stated, end; .*data\.faults\.wrong_length"):
        read(corpus, scan=tmp_path / "scan.json")


def test_a_folder_without_any_of_its_files_is_told_in_a_line(corpus):
    for path in corpus.parent.glob("*.*"):
        if path != corpus:
            path.unlink()
    with pytest.raises(InputError, match=r"18 of 18 rows are dropped, more than data\.faults\.max_dropped"):
        read(corpus, missing_file="drop", max_dropped=0.5)


def test_ids_that_are_there_twice(corpus, capsys):
    more(corpus, {"path": "3.wav", "text": "again", "task": "asr", "id": "short.wav"})
    with pytest.raises(InputError, match=r'id "short\.wav" is there twice'):
        read(corpus)
    kept = {row.id: row.text for row in read(corpus, duplicate_id="drop")}
    assert kept["short.wav"] == "something" and "1 duplicate_id (short.wav)" in capsys.readouterr().out


def test_rows_that_lack_a_text(corpus, tmp_path, capsys):
    more(
        corpus,
        {"path": "2.wav", "task": "asr", "id": "none"},
        {"path": "2.wav", "text": None, "task": "QA", "id": "null"},
    )
    assert len(read(corpus)) == 15 and "4 no_text (blank, textless, none, ...)" in capsys.readouterr().out
    assert read(corpus, no_text="teacher")[-1].text == ""
    written(corpus, [row for row in json.loads(corpus.read_text())["annotation"] if row["path"] != "cut.flac"])
    assert write_manifest([corpus], tmp_path / "rows.arrow", workers=1).rows == 19
    assert len(read(tmp_path / "rows.arrow")) == 14 and "4 no_text" in capsys.readouterr().out


def test_too_much_dropped_stops(corpus):
    with pytest.raises(InputError, match=r"3 of 18 rows are dropped, more than data\.faults\.max_dropped \(0\.1\)"):
        read(corpus, max_dropped=0.1)
    assert len(read(corpus, max_dropped=0.17)) == 15


def test_the_first_rows_alone(corpus, capsys):
    assert [row.id for row in read(corpus, limit=9)] == [*FINE, "short.wav"]
    assert not capsys.readouterr().out


def test_what_is_left_out_behind_the_first_rows_is_not_held_against_them(corpus):
    rows = [{"path": "0.wav", "text": str(number), "task": "asr"} for number in range(8)]
    gone = [{"path": f"gone{number}.wav", "text": "x", "task": "asr"} for number in range(2)]
    written(corpus, rows + gone)
    for limit in (None, 4):
        policies = {"missing_file": "drop", "max_dropped": 0.2}
        assert len(read(corpus, limit=limit, **policies)) == (limit or 8)
        with pytest.raises(InputError, match=r"2 of 10 rows are dropped, more than data\.faults"):
            read(corpus, limit=limit, **policies | {"max_dropped": 0.19})
    soundfile.write(corpus.parent / "0.wav", sound(0.4, 1), SAMPLE_RATE)
    with pytest.raises(InputError, match=r"4 of 4 rows are dropped.* 4 too_short"):
        read(written(corpus, rows), limit=4, too_short="drop", max_dropped=0.9)


@pytest.mark.parametrize("arrow", [False, True])
def test_captions_are_split(corpus, tmp_path, capsys, arrow):
    path = corpus
    if arrow:
        kept = [row for row in json.loads(corpus.read_text())["annotation"] if row["path"] != "cut.flac"]
        path = tmp_path / "rows.arrow"
        write_manifest([written(corpus, [{"text": "", **row} for row in kept])], path, workers=1)
    rows = read(path, too_long="split")
    assert "1 too_long (long speech)" in capsys.readouterr().out
    parts = [row for row in rows if row.id.startswith("long")]
    assert [(row.id, row.start_s, row.duration_s) for row in parts] == [
        ("long caption@0", 0.0, 30.0),
        ("long caption@30", 30.0, 30.0),
        ("long caption@60", 60.0, 4.0),
    ]
    assert {row.text for row in parts} == {"a long sound"}
    whole = soundfile.read(tmp_path / "long.wav", dtype="float32")[0]
    np.testing.assert_array_equal(np.concatenate([load_clip(row) for row in parts]), whole)
    assert [row.id for row in rows][:8] == FINE and len(rows) == len(set(rows.values("id")))
