import shutil

import pytest

from data.corpora.prepare import MISSING
from data.errors import InputError
from tests.data.corpora.conftest import shown, table, written


def test_audiocaps(root, sound, tmp_path):
    head = ["audiocap_id", "youtube_id", "start_time", "caption"]
    table(root / "dataset/train.csv", head, ["1", "-abc", "30", "A dog, barking"], ["2", "gone", "0", "A car"])
    fives = [[str(10 + n), "xyz", "20", f"Caption {n}"] for n in range(5)]
    table(root / "dataset/test.csv", head, *fives)
    table(root / "dataset/val.csv", head, ["20", "val", "0", "Wind"])
    sound("train/-abc.wav")
    sound("test/Yxyz_20000_30000.flac")
    sound("val/20.wav")
    made, splits = written("audiocaps", root, tmp_path, renamed={"audiocaption": "audiocaption_v2"})
    assert shown(splits["train"]) == [("audiocaps/1", "-abc.wav", "A dog, barking", "audiocaption_v2")]
    (row,) = splits["test"]
    assert row.references == tuple(f"Caption {n}" for n in range(5)) and row.text == "Caption 0"
    assert made.left_out == {MISSING: 1} and splits["valid"][0].path.name == "20.wav"


def test_two_lists_of_one_split_are_refused(root, sound, tmp_path):
    test_audiocaps(root, sound, tmp_path)
    shutil.copytree(root / "dataset", root / "dataset2.0")
    with pytest.raises(InputError, match=r"dataset/train\.csv and .*dataset2\.0/train\.csv: two lists of the same"):
        written("audiocaps", root, tmp_path)
    _, splits = written("audiocaps", root, tmp_path, lists=root / "dataset2.0")
    assert set(splits) == {"train", "valid", "test"}


def test_a_caption_with_a_comma_and_no_quotes(root, sound, tmp_path):
    sound("abc.wav")
    (root / "train.csv").write_text("audiocap_id,youtube_id,start_time,caption\n1,abc,30,A dog, barking\n")
    with pytest.raises(InputError, match=r"train\.csv, line 2: 5 values for 4 columns"):
        written("audiocaps", root, tmp_path)


def test_clips_of_one_video_share_no_sound(root, sound, tmp_path):
    head = ["audiocap_id", "youtube_id", "start_time", "caption"]
    table(root / "train.csv", head, ["1", "abc", "0", "A dog"], ["2", "abc", "30", "A car"])
    table(root / "test.csv", head, ["3", "abc", "60", "Wind"], ["4", "abc", "90", "Rain"])
    for name in ("abc", "abc_30", "Yabc_60000_70000", "4"):
        sound(f"{name}.wav")
    made, splits = written("audiocaps", root, tmp_path)
    assert {row.id: row.path.stem for rows in splits.values() for row in rows} == {
        "audiocaps/2": "abc_30",
        "audiocaps/test/abc_60": "Yabc_60000_70000",
        "audiocaps/test/abc_90": "4",
    }
    assert made.left_out == {MISSING: 1}
