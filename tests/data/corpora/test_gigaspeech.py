import json

import pytest

from data.corpora import CORPORA
from data.corpora.gigaspeech import plain
from data.corpora.lengths import OUTSIDE
from data.corpora.prepare import MISSING, TEXTLESS, prepare
from data.errors import InputError
from data.rows.manifest_writer import write_manifest
from tests.data.corpora.conftest import written


def segment(number, start, end, text, *subsets):
    names = [f"{{{name}}}" for name in subsets]
    return {"sid": f"POD1_S{number}", "begin_time": start, "end_time": end, "text_tn": text, "subsets": names}


def gigaspeech_json(root, segments):
    recording = {"aid": "POD1", "path": "audio/podcast/P0000/POD1.opus", "subsets": ["{XL}"], "segments": segments}
    other = {"aid": "DEV1", "path": "audio/youtube/DEV1.opus", "subsets": ["{DEV}"], "segments": []}
    other["segments"] = [{**segment(9, 0, 1.5, "SO <COMMA> YES <PERIOD>"), "sid": "DEV1_S9", "subsets": []}]
    about = {"dataset": "GigaSpeech", "version": "v1.0.0", "audios": [recording, other]}
    (root / "GigaSpeech.json").write_text(json.dumps(about))


def test_gigaspeech(root, sound, tmp_path):
    sound("audio/podcast/P0000/POD1.opus", 8, 48_000)
    sound("audio/youtube/DEV1.wav", 2)  # converted
    texts = ["<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"]
    segments = [
        segment(0, 0.5, 2.25, "AS IT'S <COMMA> SAID <QUESTIONMARK>", "XL", "L", "M", "S", "XS"),
        segment(1, 3, 4.5, "WELL <EXCLAMATIONPOINT>", "XL", "L", "M"),
        *(segment(2 + number, 5, 6, text, "XL") for number, text in enumerate(texts)),
    ]
    gigaspeech_json(root, segments)
    made, splits = written("gigaspeech", root, tmp_path)
    assert {split: [row.text for row in rows] for split, rows in splits.items()} == {
        "train-xs": ["as it's said"],
        "train-m": ["well"],
        "valid": ["so yes"],
    }
    assert made.left_out == {TEXTLESS: 4}
    (row,) = splits["train-xs"]
    assert (row.id, row.start_s, row.end_s, row.duration_s) == ("gigaspeech/POD1_S0", 0.5, 2.25, 1.75)
    assert splits["valid"][0].path.name == "DEV1.wav"
    mapped = write_manifest(sorted(made.files.values()), tmp_path / "all.arrow", workers=1)
    assert (mapped.rows, mapped.seconds, mapped.left_out) == (3, pytest.approx(1.75 + 1.5 + 1.5), 0)


def test_gigaspeech_marks_leave_no_trace():
    assert plain("A <COMMA> B <PERIOD>") == "A, B." and plain("<COMMA>") == ","
    assert plain("<NOISE>") == plain("HELLO <SIL>") == plain("SO <UNK> IT") == ""


def test_gigaspeech_in_no_subset(root, sound, tmp_path):
    sound("audio/podcast/P0000/POD1.opus", 8, 48_000)
    gigaspeech_json(root, [segment(0, 0, 1, "YES", "XXL")])
    with pytest.raises(InputError, match=r"recording POD1: .*segment POD1_S0 is in none of \{DEV\}, \{TEST\}"):
        written("gigaspeech", root, tmp_path)


def test_gigaspeech_that_is_none(root, sound, tmp_path):
    sound("audio/podcast/P0000/POD1.opus", 8, 48_000)
    gigaspeech_json(root, [{"sid": "x"}])
    with pytest.raises(InputError, match=r"GigaSpeech\.json, recording POD1: not as GigaSpeech has it .*'begin_time'"):
        written("gigaspeech", root, tmp_path)


def test_stretches_that_are_not_in_their_recording(root, sound, tmp_path):
    sound("audio/podcast/P0000/POD1.opus", 4, 48_000)
    sound("audio/youtube/DEV1.opus", 2, 48_000)
    stretches = [("3.0", "3.5"), (3, 9), (5, 9), (2, 2), (0, 0), (3, 4.1)]
    segments = [segment(number, *of, "YES", "XL") for number, of in enumerate(stretches)]
    gigaspeech_json(root, [*segments, segment(9, 0, 1, "<COMMA>", "XL")])
    made, splits = written("gigaspeech", root, tmp_path)
    assert [(row.start_s, row.end_s, row.duration_s) for row in splits["train-xl"]] == [
        (3.0, 3.5, 0.5),
        (3.0, 0.0, pytest.approx(1.0, abs=0.01)),  # to the end: converted files are a little shorter
    ]
    assert made.left_out == {OUTSIDE: 4, TEXTLESS: 1} and made.first[OUTSIDE].startswith("POD1_S1 (3 to 9 s of 4.0")


@pytest.mark.parametrize("wrong", ["x", "nan", -1, None, [1]])
def test_times_that_are_none(root, sound, tmp_path, wrong):
    sound("audio/podcast/P0000/POD1.opus", 4, 48_000)
    gigaspeech_json(root, [segment(0, wrong, 1, "YES", "XL")])
    with pytest.raises(InputError, match=r"GigaSpeech\.json, recording POD1: not as GigaSpeech has it"):
        written("gigaspeech", root, tmp_path)


def test_a_recording_that_is_not_there(root, sound, tmp_path):
    sound("audio/youtube/DEV1.WAV", 2)
    gigaspeech_json(root, [segment(0, 0, 1, "YES", "XL")])
    made, splits = written("gigaspeech", root, tmp_path)
    assert list(splits) == ["valid"] and made.left_out == {MISSING: 1}


def test_what_is_made_of_it_is_not_read_again(root, sound, tmp_path):
    sound("audio/podcast/P0000/POD1.opus", 4, 48_000)
    sound("audio/youtube/DEV1.opus", 2, 48_000)
    gigaspeech_json(root, [segment(0, 0, 1, "YES", "XL")])
    for _ in range(2):
        made = prepare(CORPORA["gigaspeech"], root, root)
        assert set(made.files.values()) == {root / "gigaspeech_train-xl.json", root / "gigaspeech_valid.json"}
