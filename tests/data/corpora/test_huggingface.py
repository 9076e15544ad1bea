import io

import numpy as np
import pytest
import soundfile

from data.corpora.contents import ending_of
from data.corpora.huggingface import name_of
from data.corpora.lengths import OUTSIDE, UNREADABLE
from data.corpora.prepare import MISSING, TEXTLESS
from data.errors import InputError
from data.rows.manifest_writer import write_manifest
from tests.data.corpora.conftest import RATE, table, written


def content(samples, format="FLAC"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=format)
    return buffer.getvalue()


def tone(seconds):
    return 0.3 * np.sin(np.arange(round(RATE * seconds)) * 0.1 * seconds)


def saved(place, sounds=None, **splits):
    """A dataset as `save_to_disk` leaves it: rows by split, whose sounds are bytes, or dictionaries."""
    from datasets import Audio, Dataset, DatasetDict

    tables = {}
    for split, rows in splits.items():
        rows = [
            row | {"audio": {"bytes": row["audio"], "path": None}} if isinstance(row["audio"], bytes) else row
            for row in rows
        ]
        tables[split] = Dataset.from_list(rows).cast_column("audio", Audio(decode=False))
    DatasetDict(tables).save_to_disk(place)
    return place


def parquet(place, rows):
    """A dataset as others write it: Parquet, without a word on what is sound."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place.mkdir(parents=True)
    rows = [
        row | {"audio": {"bytes": row["audio"], "path": None}} if isinstance(row["audio"], bytes) else row
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(rows), place / "train.parquet")
    return place


def heard(rows):
    return [round(soundfile.info(row.path).duration, 2) for row in rows]


def test_a_hugging_face_dataset(root, speech, tmp_path):
    from datasets import Audio, Dataset, DatasetDict

    rows = {
        "audio": [{"bytes": content(samples), "path": None} for samples in speech[:2]],
        "sentence": ["Hello, there!", "2 birds"],
    }
    captions = {"audio": [*rows["audio"], None, None], "captions": [["a", "b"], ["c", "d"], ["e", "f"], []]}
    speech_set = Dataset.from_dict(rows).cast_column("audio", Audio(decode=False))
    caption_set = Dataset.from_dict(captions).cast_column("audio", Audio(decode=False))
    DatasetDict({"validation": speech_set, "test": speech_set.select([1])}).save_to_disk(root / "speech")
    caption_set.save_to_disk(root / "captions")
    _, splits = written("huggingface", root / "speech", tmp_path)
    assert [(row.text, row.task) for row in splits["valid"]] == [("Hello, there!", "asr"), ("2 birds", "asr")]
    np.testing.assert_allclose(soundfile.read(splits["test"][0].path)[0], speech[1], atol=1e-4)
    _, splits = written("huggingface", root / "speech", tmp_path, normalised="english")
    assert [row.text for row in splits["valid"]] == ["hello there", "two birds"]
    made, splits = written("huggingface", root / "captions", tmp_path)
    assert made.left_out == {"that have no sound": 2}
    assert [(row.references, row.task) for row in splits["train"]] == [
        (("a", "b"), "audiocaption"),
        (("c", "d"), "audiocaption"),
    ]
    with pytest.raises(InputError, match="neither a folder that datasets reads"):
        (root / "empty").mkdir()
        written("huggingface", root / "empty", tmp_path)


def test_rows_share_a_sound_with_no_other(root, tmp_path):
    row = {"id": 7, "transcription": "the same sentence"}
    one = saved(
        root / "one",
        train=[row | {"audio": content(tone(1))}, row | {"audio": content(tone(2))}],
        test=[row | {"audio": content(tone(3))}],
    )
    two = saved(root / "two", train=[row | {"audio": content(tone(4))}])
    first, second = (written("huggingface", place, tmp_path) for place in (one, two))
    again = written("huggingface", one, tmp_path)  # a second start finds its own, and spoils nothing
    assert [heard(splits["train"]) for _, splits in (first, second, again)] == [[1, 2], [4], [1, 2]]
    assert heard(again[1]["test"]) == [3]
    files = [*again[0].files.values(), *second[0].files.values()]
    assert len({path.name for path in files}) == 3
    assert write_manifest(files, tmp_path / "all.arrow", workers=1).rows == 4  # ids are each row's own
    assert {row.corpus for _, splits in (again, second) for rows in splits.values() for row in rows} == {"one", "two"}
    named, splits = written("huggingface", two, tmp_path, name="three")
    assert named.files["train"].name == "three_train.json" and splits["train"][0].corpus == "three"


def test_languages_are_left_alone(root, tmp_path):
    texts = ["über drei Bücher für 2,50 €", "我有 3 本书", "मौसम"]
    rows = [{"audio": content(tone(1 + n)), "sentence": text} for n, text in enumerate(texts)]
    _, splits = written("huggingface", saved(root / "de", train=rows), tmp_path)
    assert [row.text for row in splits["train"]] == texts


def everything(folder):
    return {path for path in folder.rglob("*")}


def test_nothing_is_written_outside(root, tmp_path):
    names = ["../../../evil", "/tmp/evil.pth", "..", "a\0b", "CON", "x" * 300, "a/b.py"]
    rows = [
        {"id": name, "audio": {"bytes": content(tone(1 + n)), "path": f"{name}.pth"}, "sentence": "x"}
        for n, name in enumerate(names)
    ]
    place = saved(root / "bad", train=rows)
    before = everything(tmp_path)
    _, splits = written("huggingface", place, tmp_path)
    assert heard(splits["train"]) == list(range(1, 8))
    new = everything(tmp_path) - before - {tmp_path / "out"}
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
    assert {path.suffix for path in new if path.is_file()} == {".flac", ".json"}


def test_a_link_in_out_is_not_followed(root, tmp_path):
    place = saved(root / "bad", train=[{"audio": content(tone(1)), "sentence": "x"}])
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bad").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match=r"a link leads out of"):
        written("huggingface", place, tmp_path)
    assert not list((tmp_path / "victim").iterdir())


@pytest.mark.parametrize("bad", ["link", "other bytes", "cut off"])
def test_what_lies_at_a_sounds_place_is_compared(root, tmp_path, bad):
    place = saved(root / "set", train=[{"audio": content(tone(1)), "sentence": "x"}])
    _, splits = written("huggingface", place, tmp_path)
    path = splits["train"][0].path
    whole = path.read_bytes()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if bad == "link":
        path.unlink()
        path.symlink_to(victim)
    else:
        path.write_bytes(whole[:100] if bad == "cut off" else b"\0" * len(whole))
    written("huggingface", place, tmp_path)
    assert path.read_bytes() == whole and not path.is_symlink() and victim.read_bytes() == b"precious"


def test_what_is_no_sound_is_counted(root, sound, tmp_path):
    sound("outside.wav")
    outside = root / "outside.wav"
    rows = [
        {"audio": content(tone(1)), "sentence": "fine"},
        {"audio": b"", "sentence": "empty"},
        {"audio": None, "sentence": "none"},
        {"audio": {"bytes": None, "path": "clips/gone.wav"}, "sentence": "gone"},
        {"audio": {"bytes": None, "path": str(outside)}, "sentence": "not the dataset's own"},
        {"audio": {"bytes": None, "path": "../outside.wav"}, "sentence": "neither"},
        {"audio": {"bytes": None, "path": f"{root}/set/../outside.wav"}, "sentence": "nor this"},
        {"audio": b"\x80\x04pickle", "sentence": "unknown"},
        {"audio": b"RIFF\0\0\0\0WAVEgarbage", "sentence": "broken"},
        {"audio": content(tone(2)), "sentence": None},
    ]
    made, splits = written("huggingface", parquet(root / "set", rows), tmp_path)
    assert [row.text for row in splits["train"]] == ["fine"]
    assert made.left_out == {
        "that have no sound": 2,
        MISSING: 4,
        "whose sound is in no format that is known": 1,
        UNREADABLE: 1,
        TEXTLESS: 1,
    }
    assert len([path for path in (tmp_path / "out" / "set").rglob("*") if path.is_file()]) == 1


def test_stretches_and_other_columns(root, tmp_path, capsys):
    row = {"sentence": "x", "task": "QA", "question": "Who?", "speaker": 3, "id": 1}
    spans = [(0.5, 1.0), (None, None), (1.0, 3.0)]
    rows = [row | {"audio": content(tone(2)), "start": start, "end": end} for start, end in spans]
    made, splits = written("huggingface", saved(root / "set", train=rows), tmp_path)
    assert [(row.start_s, row.end_s, row.duration_s) for row in splits["train"]] == [(0.5, 1.0, 0.5), (0.0, 0.0, 2.0)]
    assert made.left_out == {OUTSIDE: 1} and splits["train"][0].question == "Who?"
    assert capsys.readouterr().err.count("not read: speaker, id\n") == 1


def test_a_missing_number_is_none_whichever_way_it_is_missing(root, tmp_path):
    times = [{"start": 0.5, "end": float("nan")}, {"start": float("nan"), "end": 1.0}, {"start": None, "end": 1.0}]
    rows = [{"sentence": "x", "audio": content(tone(2))} | of for of in times]
    splits = written("huggingface", saved(root / "set", train=rows), tmp_path)[1]
    spans = [(row.start_s, row.end_s, row.duration_s) for row in splits["train"]]
    assert spans == [(0.5, 0.0, 1.5), (0.0, 1.0, 1.0), (0.0, 1.0, 1.0)]


@pytest.mark.parametrize("column", ["struct", "bytes", "null"])
def test_plain_parquet(root, tmp_path, column):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    sounds = [content(tone(1)), content(tone(2), "WAV")]
    if column == "struct":
        sounds = [{"bytes": of, "path": "x.mp3"} for of in sounds]
    elif column == "null":
        (root / "clips").mkdir()
        sounds = [{"bytes": None, "path": f"clips/{n}.wav"} for n in range(2)]
        soundfile.write(root / "clips/0.wav", tone(1), RATE)
    pq.write_table(pa.table({"audio": sounds, "sentence": ["a", "b"]}), root / "train.parquet")
    made, splits = written("huggingface", root, tmp_path)
    assert heard(splits["train"]) == ([1] if column == "null" else [1, 2])
    assert made.left_out == ({MISSING: 1} if column == "null" else {})


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.CSV"])
def test_a_folder_of_sounds(root, sound, tmp_path, name):
    for split in ("train", "test"):
        sound(f"{split}/clips/a.wav", 1 + len(split))
        table(root / split / name, ["file_name", "transcription"], ["clips/a.wav", f"said in {split}"])
    _, splits = written("huggingface", root, tmp_path)
    assert {split: (rows[0].text, heard(rows)) for split, rows in splits.items()} == {
        "train": ("said in train", [6]),
        "test": ("said in test", [5]),
    }


def test_a_row_of_a_folders_table_is_named_by_its_line(root, sound, tmp_path):
    sound("a.wav")
    table(root / "metadata.csv", ["file_name", "transcription", "start"], ["a.wav", "x", "0"], ["a.wav", "y", "soon"])
    with pytest.raises(InputError, match=r"metadata\.csv, line 3: 'start' must be seconds"):
        written("huggingface", root, tmp_path)


def test_columns_of_another_kind(root, tmp_path):
    rows = [{"audio": content(tone(1)), "text": 3}]
    with pytest.raises(InputError, match="split train, row 0: 'text' must be a string, not int"):
        written("huggingface", saved(root / "set", train=rows), tmp_path)
    rows = [{"audio": content(tone(1)), "said": "x"}]
    with pytest.raises(InputError, match=r"no column named text, .*; it has audio, said"):
        written("huggingface", saved(root / "other", train=rows), tmp_path)


def test_sounds_without_a_text(root, tmp_path):
    rows = [{"audio": content(tone(1)), "sentence": None}, {"audio": content(tone(2)), "sentence": "x"}]
    splits = written("huggingface", saved(root / "some", train=rows), tmp_path, untexted=True)[1]
    assert [row.text for row in splits["train"]] == ["", "x"]
    rows = [{"audio": content(tone(seconds)), "speaker": 1} for seconds in (1, 2)]
    made, splits = written("huggingface", saved(root / "none", train=rows), tmp_path, untexted=True)
    assert [(row.text, row.task) for row in splits["train"]] == [("", "asr")] * 2 and not made.left_out


def test_the_ending_is_that_of_the_first_bytes():
    for format, ending in {
        "WAV": "wav",
        "FLAC": "flac",
        "OGG": "ogg",
        "MP3": "mp3",
        "AIFF": "aiff",
        "RF64": "wav",
    }.items():
        assert ending_of(content(tone(1), format)) == f".{ending}"
    assert ending_of(b"ID3\4") == ".mp3" and ending_of(b"\0\0\0\x20ftypM4A ") == ".m4a"
    for other in (
        b"",
        b"R",
        b"\x80\x04",
        b"PK\3\4",
        b"import os",
        b"\xff\xf1\x50\x80",
        b"RIFF\0\0\0\0AVI ",
        b"#!/bin/sh",
    ):
        assert ending_of(other) == ""


def test_names_of_datasets(tmp_path, monkeypatch):
    from pathlib import Path

    (tmp_path / "my data (2)").mkdir()
    monkeypatch.chdir(tmp_path / "my data (2)")
    assert name_of(Path(".")) == name_of(tmp_path / "my data (2)") == "my_data_2"
    assert name_of(Path("google/fleurs")) == "google_fleurs" and name_of(Path("/")) == "huggingface"


def test_two_datasets_of_one_name_are_not_mixed_up(root, tmp_path):
    one = saved(root / "one" / "data", train=[{"audio": content(tone(1)), "sentence": "x"}])
    two = saved(root / "two" / "data", train=[{"audio": content(tone(2)), "sentence": "x"}])
    written("huggingface", one, tmp_path)
    with pytest.raises(InputError, match=r"data_train\.json: made of other sounds"):
        written("huggingface", two, tmp_path)
    _, splits = written("huggingface", two, tmp_path, name="two")
    assert heard(splits["train"]) == [2] and heard(written("huggingface", one, tmp_path)[1]["train"]) == [1]
