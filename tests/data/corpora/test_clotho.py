import unicodedata

import pytest
import soundfile

from data.corpora.prepare import TEXTLESS
from data.errors import InputError
from tests.data.corpora.conftest import RATE, table, written


def clotho(root, sound, columns=5):
    head = ["file_name", *(f"caption_{n}" for n in range(1, columns + 1))]
    for split in ("development", "evaluation"):
        table(
            root / f"clotho_captions_{split}.csv", head, ["Rain, heavy.wav", *(f"{split} {n}" for n in range(columns))]
        )
        sound(f"{split}/Rain, heavy.wav")
    return root


def test_clotho(root, sound, tmp_path):
    _, splits = written("clotho", clotho(root, sound), tmp_path)
    assert [row.text for row in splits["train"]] == [f"development {n}" for n in range(5)]
    assert {row.path.parent.name for row in splits["train"]} == {"development"}
    (row,) = splits["test"]
    assert row.references == tuple(f"evaluation {n}" for n in range(5)) and row.path.parent.name == "evaluation"


def test_a_folder_of_another_splits_name_does_not_mix_them(tmp_path, speech):
    root = tmp_path / "evaluation" / "corpus"
    for split in ("development", "evaluation"):
        captions = [f"{split} {n}" for n in range(5)]
        table(
            root / f"clotho_captions_{split}.csv",
            ["file_name", *(f"caption_{n}" for n in range(1, 6))],
            ["a.wav", *captions],
        )
        (root / split).mkdir()
        soundfile.write(root / split / "a.wav", speech[0], RATE)
    _, splits = written("clotho", root, tmp_path)
    assert splits["test"][0].path.parent.name == "evaluation" and splits["train"][0].path.parent.name == "development"


def test_a_missing_column_is_named(root, sound, tmp_path):
    with pytest.raises(InputError, match=r"clotho_captions_development\.csv: no column 'caption_5'; it has file_name"):
        written("clotho", clotho(root, sound, columns=4), tmp_path)


@pytest.mark.parametrize("on_disk", [" quiet street", "quiet street"])
@pytest.mark.parametrize("listed", [" quiet street.wav", "quiet street.wav"])
def test_names_that_begin_with_a_blank(root, sound, tmp_path, on_disk, listed):
    captions = [f"c{n}" for n in range(5)]
    table(
        root / "clotho_captions_evaluation.csv",
        ["file_name", *(f"caption_{n}" for n in range(1, 6))],
        [listed, *captions],
    )
    sound(f"evaluation/{on_disk}.wav")
    _, splits = written("clotho", root, tmp_path)
    assert [row.path.name for row in splits["test"]] == [f"{on_disk}.wav"]


@pytest.mark.parametrize(("on_disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_as_macs_write_them(root, sound, tmp_path, on_disk, listed):
    name = unicodedata.normalize(listed, "Café à Paris.wav")
    captions = ["c0", "", "c2", "c3", "c4"]
    table(
        root / "clotho_captions_evaluation.csv",
        ["file_name", *(f"caption_{n}" for n in range(1, 6))],
        [name, *captions],
    )
    table(
        root / "clotho_captions_development.csv",
        ["file_name", *(f"caption_{n}" for n in range(1, 6))],
        [name, *captions],
    )
    sound(f"evaluation/{unicodedata.normalize(on_disk, name)}")
    sound(f"development/{unicodedata.normalize(on_disk, name)}")
    made, splits = written("clotho", root, tmp_path)
    assert splits["test"][0].references == ("c0", "c2", "c3", "c4") and len(splits["train"]) == 4
    assert made.left_out == {TEXTLESS: 1}
