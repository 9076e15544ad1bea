import pytest

from data.corpora.lengths import OUTSIDE
from data.errors import InputError
from tests.data.corpora.conftest import table, written


def musicnet(root, sound, instrument="41"):
    head = ["start_time", "end_time", "instrument", "note"]
    table(
        root / "musicnet_metadata.csv", ["id", "composer", "seconds"], ["1727", "Schubert", "31"], ["1759", "Bach", "2"]
    )
    late = str(35 * 44_100)
    notes = [["100", "200", "43", "60"], ["9", "20", instrument, "70"], ["5", "9", "1", "50"], [late, late, "74", "80"]]
    table(root / "train_labels/1727.csv", head, *notes)
    table(root / "test_labels/1759.csv", head, ["0", "9", "7", "60"])
    sound("train_data/1727.wav", 31)
    sound("test_data/1759.wav", 2)
    return root


@pytest.mark.parametrize("apart", [False, True])
def test_musicnet(root, sound, tmp_path, apart):
    musicnet(root, sound)
    if apart:  # the metadata is a download of its own, and the archive a folder
        (root / "musicnet").mkdir()
        for name in ("train_labels", "test_labels", "train_data", "test_data"):
            (root / name).rename(root / "musicnet" / name)
    _, splits = written("musicnet", root, tmp_path)
    (train,), (test,) = splits["train"], splits["test"]
    assert (train.task, train.question) == ("QA", "Which instruments are playing?")
    assert train.text == "piano, violin and cello" and test.text == "harpsichord"
    assert (train.end_s, train.duration_s, test.end_s) == (30.0, 30.0, 0.0)


def test_an_instrument_that_is_none(root, sound, tmp_path):
    with pytest.raises(InputError, match=r"1727\.csv, line 3: a note of instrument '99' is none of MusicNet's"):
        written("musicnet", musicnet(root, sound, "99"), tmp_path)


def test_seconds_that_are_none(root, sound, tmp_path):
    musicnet(root, sound)
    table(root / "musicnet_metadata.csv", ["id", "composer", "seconds"], ["1727", "Schubert", "half a minute"])
    with pytest.raises(InputError, match=r"musicnet_metadata\.csv, line 2: 'seconds' must be a number"):
        written("musicnet", root, tmp_path)


def test_a_recording_shorter_than_its_metadata_say(root, sound, tmp_path):
    musicnet(root, sound)
    sound("train_data/1727.wav", 20)
    made, splits = written("musicnet", root, tmp_path)
    assert list(splits) == ["test"] and made.left_out == {OUTSIDE: 1}
