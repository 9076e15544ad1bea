import os
import unicodedata

import pytest

from data.corpora import files
from data.corpora.files import Files
from data.errors import InputError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_links_to_parents_end(tmp_path):
    touch(tmp_path / "a" / "b" / "one.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    found = Files(tmp_path).named("*.wav")
    assert found == [tmp_path / "a/b/one.wav"]


def test_links_are_followed_and_real_folders_come_first(tmp_path):
    touch(tmp_path / "elsewhere" / "two.wav")
    touch(tmp_path / "root" / "dev-clean" / "one.wav")
    (tmp_path / "root" / "a_link").symlink_to(tmp_path / "root" / "dev-clean")
    (tmp_path / "root" / "disk").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "gone.wav").symlink_to(tmp_path / "nowhere")
    assert Files(tmp_path / "root").named("*.wav") == [
        tmp_path / "root/dev-clean/one.wav",
        tmp_path / "root/disk/two.wav",
    ]


def test_the_tree_is_walked_once(tmp_path, monkeypatch):
    for name in ("a/x.wav", "b/train_labels/1.csv", "b/x.csv"):
        touch(tmp_path / name)
    walked = []
    real = os.scandir
    monkeypatch.setattr(files.os, "scandir", lambda folder: walked.append(folder) or real(folder))
    looked = Files(tmp_path)
    assert looked.named("train_labels/*.csv") == [tmp_path / "b/train_labels/1.csv"]
    assert len(looked.named("*.CSV", "*.wav")) == 3 and looked.sound("x") == tmp_path / "a/x.wav"
    assert len(walked) == len(set(walked)) == 4


def test_the_best_of_several(tmp_path):
    for name in ("a/x.flac", "a/x.wav", "b/x.OPUS", "b/ x.wav"):
        touch(tmp_path / name)
    looked = Files(tmp_path)
    assert looked.sound("x") == tmp_path / "a/x.wav"
    assert looked.sound("x", beside=tmp_path / "b") == tmp_path / "b/x.OPUS"
    assert looked.sound("none", " x") == tmp_path / "b/ x.wav"
    assert looked.sound("x", within="a") == tmp_path / "a/x.wav" and looked.sound("x", within="c") is None


def test_odd_names_are_not_there(tmp_path):
    looked = Files(tmp_path)
    assert not any(map(looked.at, ["", ".", "/", "a\0b", "x" * 5000, "\ud800", "../" * 50]))


def test_two_lists_of_the_same(tmp_path):
    touch(tmp_path / "a/list.csv"), touch(tmp_path / "b/LIST.csv")
    with pytest.raises(InputError, match=r"a/list\.csv and .*b/LIST\.csv: two lists of the same"):
        Files(tmp_path).only("list.csv")
    assert Files(tmp_path / "a").only("list.csv") and Files(tmp_path / "a").only("other.csv") is None


@pytest.mark.parametrize(
    ("on_disk", "listed"),
    [
        ("clips/a.wav", "/clips/a.wav"),
        ("clips/a.wav", "clips\\a.wav"),
        ("clips/a.WAV", "clips/a.wav"),
        ("clips/a.wav", "clips/a.WAV"),
        ("clips/a.wav", " clips/a.wav "),
        ("clips/ a .wav", "clips/ a .wav"),
        (unicodedata.normalize("NFD", "Café/é.wav"), unicodedata.normalize("NFC", "Café/é.wav")),
        (unicodedata.normalize("NFC", "Café/é.FLAC"), unicodedata.normalize("NFD", "Café\\é.flac")),
    ],
)
def test_names_as_other_systems_write_them(tmp_path, on_disk, listed):
    path = touch(tmp_path / on_disk)
    assert Files(tmp_path).at(listed) == path


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch, capsys):
    touch(tmp_path / "a.wav"), touch(tmp_path / "lost+found" / "b.wav")
    real = os.scandir

    def scandir(folder):
        if folder.endswith("lost+found"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(files.os, "scandir", scandir)
    assert Files(tmp_path).named("*.wav") == [tmp_path / "a.wav"]
    assert f"note: {tmp_path}/lost+found: cannot be read (Permission denied)" in capsys.readouterr().err
