import json

import pytest

from data.corpora.prepare import MISSING, TEXTLESS
from data.errors import InputError
from tests.data.corpora.conftest import written


def test_annotation_files_that_are_there(root, sound, tmp_path):
    sound("LibriSpeech/a.flac")
    rows = [{"path": "/LibriSpeech/a.flac", "text": "Hello", "task": task} for task in ("asr", "QA")]
    rows += [{"path": "/LibriSpeech/none.flac", "text": "x", "task": "asr"}]
    rows += [
        {"path": "/LibriSpeech/a.flac", "text": None, "task": "asr"},
        {"path": "/LibriSpeech/a.flac", "task": "asr"},
    ]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "stage1_train.json").write_text(json.dumps({"annotation": rows}))
    made, splits = written("annotation", root, tmp_path, lists=lists)
    assert [(row.text, row.task, row.corpus) for row in splits["stage1_train"]] == [
        ("Hello", "asr", "librispeech"),
        ("Hello", "QA", "librispeech"),
    ]
    assert made.left_out == {MISSING: 1, TEXTLESS: 2}


def lists_of(tmp_path, *rows):
    path = tmp_path / "lists" / "train.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"annotation": [{"text": "x", "task": "asr"} | row for row in rows]}))
    return path


def test_paths_as_others_write_them(root, sound, tmp_path):
    sound("My Sounds/a.wav")
    sound("b.wav")
    lists = lists_of(
        tmp_path,
        {"path": "My Sounds\\a.wav"},
        {"path": str(root / "My Sounds/a.wav"), "text": "y"},
        {"path": "b.wav"},
        {"path": ""},
    )
    made, splits = written("annotation", root, tmp_path, lists=lists)
    assert [row.path.name for row in splits["train"]] == ["a.wav", "a.wav", "b.wav"]
    assert [row.corpus for row in splits["train"]][::2] == ["annotation", "annotation"] and made.left_out == {
        MISSING: 1
    }


def test_the_first_folder_is_the_corpus(root, sound, tmp_path):
    sound("My Sounds/a.wav")
    _, splits = written("annotation", root, tmp_path, lists=lists_of(tmp_path, {"path": "My Sounds/a.wav"}))
    assert splits["train"][0].corpus == "my_sounds"


def test_joined_sounds_are_refused(root, sound, tmp_path):
    sound("a.wav")
    rows = [{"path": "a.wav", "expand_wav": []}, {"path": "a.wav", "expand_wav": ["b.wav"]}]
    with pytest.raises(InputError, match=r'train\.json, row 1: "expand_wav"'):
        written("annotation", root, tmp_path, lists=lists_of(tmp_path, *rows))


def test_stated_lengths_that_are_not_the_sounds_are_corrected_and_counted(root, sound, tmp_path):
    sound("a.wav", 3)
    stated = ({"duration": 30}, {"duration": 3.1}, {"start": 1, "duration": 3}, {"start": 1, "end": 2}, {})
    rows = [{"path": "a.wav", "text": str(number)} | more for number, more in enumerate(stated)]
    made, splits = written("annotation", root, tmp_path, lists=lists_of(tmp_path, *rows))
    assert [row.duration_s for row in splits["train"]] == [3, 3, 2, 1, 3] and made.corrected == 2
