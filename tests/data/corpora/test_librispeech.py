import json
from pathlib import Path

import pytest

from data.corpora import CORPORA
from data.corpora.prepare import MISSING, TEXTLESS, TWICE, prepare
from data.errors import InputError
from data.rows.manifest_reader import read_manifest
from tests.data.corpora.conftest import shown, written


@pytest.fixture
def librispeech(root, sound):
    for split, speaker in (("train-clean-100", 84), ("dev-clean", 174), ("test-other", 367)):
        chapter = root / "LibriSpeech" / split / str(speaker) / "12"
        for number in range(2):
            sound(chapter / f"{speaker}-12-000{number}.flac")
        (chapter / f"{speaker}-12.trans.txt").write_text(
            f"{speaker}-12-0000 DON'T GO\n{speaker}-12-0001 HE SAID MR SMITH\n{speaker}-12-0002 NO SUCH FILE\n"
        )
    return root


def test_librispeech(librispeech, tmp_path):
    made, splits = written("librispeech", librispeech, tmp_path)
    assert set(splits) == {"train-clean-100", "dev-clean", "test-other"}
    assert shown(splits["dev-clean"]) == [
        ("librispeech/174-12-0000", "174-12-0000.flac", "don't go", "asr"),
        ("librispeech/174-12-0001", "174-12-0001.flac", "he said mr smith", "asr"),
    ]
    assert (
        made.left_out == {MISSING: 3}
        and made.first[MISSING].startswith("174-12-0002 (")
        and made.first[MISSING].endswith("trans.txt, line 3)")
    )
    assert {row.corpus for rows in splits.values() for row in rows} == {"librispeech"}


def test_a_relative_root(librispeech, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = prepare(CORPORA["librispeech"], librispeech.relative_to(tmp_path), tmp_path / "out")
    entries = json.loads(made.files["dev-clean"].read_text())["annotation"]
    assert entries[0]["path"] == "LibriSpeech/dev-clean/174/12/174-12-0000.flac"
    assert len(read_manifest(made.files["dev-clean"])) == 2


def test_librispeech_speakers(librispeech, tmp_path):
    (librispeech / "LibriSpeech" / "SPEAKERS.TXT").write_text(
        "; ID |SEX| SUBSET |MINUTES| NAME\n84   | F | train-clean-100 | 25 | A\n174  | M | dev-clean | 8 | B\n"
    )
    _, splits = written("librispeech", librispeech, tmp_path, tasks=["gender_recognition"])
    assert {split: [row.text for row in rows] for split, rows in splits.items()} == {
        "train-clean-100": ["female"] * 2,
        "dev-clean": ["male"] * 2,
    }


def test_a_broken_line_is_named(librispeech, tmp_path):
    chapter = librispeech / "LibriSpeech/dev-clean/174/12/174-12.trans.txt"
    chapter.write_text("174-12-0000 FINE\nHELLO THERE\n")
    with pytest.raises(InputError, match=r"174-12\.trans\.txt, line 2: must be SPEAKER-CHAPTER-NUMBER"):
        written("librispeech", librispeech, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_a_line_that_is_no_text_is_named(librispeech, tmp_path):
    (librispeech / "LibriSpeech/dev-clean/174/12/174-12.trans.txt").write_bytes(
        b"174-12-0000 FINE\n174-12-0001 CAF\xe9\n"
    )
    with pytest.raises(InputError, match=r"174-12\.trans\.txt, line 2: cannot be read as UTF-8"):
        written("librispeech", librispeech, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff1-2-0000 DON'T GO\r\n1-2-0001 GOOD BYE\r\n",
        "1-2-0000\tDON'T GO\n\n1-2-0001\t GOOD BYE",
        "1-2-0000 DON'T\u2028GO\n1-2-0001 GOOD\x0bBYE\n",
        "1-2-0000 DON'T GO\n1-2-0001 GOOD BYE\n1-2-0000 DON'T GO\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_transcripts_as_editors_write_them(root, sound, tmp_path, content, encoding):
    for number in range(2):
        sound(f"dev-clean/1/2/1-2-000{number}.flac")
    (root / "dev-clean/1/2/1-2.trans.txt").write_bytes(content.replace("\ufeff", "").encode(encoding))
    made, splits = written("librispeech", root, tmp_path)
    assert [row.text for row in splits["dev-clean"]] == ["don't go", "good bye"]
    assert made.left_out == ({TWICE: 1} if content.count("0000") == 2 else {})


def test_what_archives_and_editors_leave_is_passed_over(root, sound, tmp_path):
    chapter = root / "dev-clean/1/2"
    sound("dev-clean/1/2/1-2-0000.FLAC")
    (chapter / "1-2.TRANS.TXT").write_text("1-2-0000 YES\n1-2-0001\n1-2-0002 NOT THERE\n")
    for name in ("._1-2.trans.txt", "._1-2-0002.flac", ".1-2.trans.txt.swp", ".DS_Store"):
        (chapter / name).write_bytes(b"\0\5\x16\7")
    for folder in ("__MACOSX/dev-clean", ".ipynb_checkpoints", "dev-clean/.git"):
        (root / folder).mkdir(parents=True)
        (root / folder / "1-2.trans.txt").write_bytes(b"\xff\xff\xff")
    made, splits = written("librispeech", root, tmp_path)
    assert [(row.path.name, row.text) for row in splits["dev-clean"]] == [("1-2-0000.FLAC", "yes")]
    assert made.left_out == {TEXTLESS: 1, MISSING: 1}


@pytest.mark.parametrize(
    ("chapter", "root_at", "split"),
    [
        ("train/x/dev-clean/1/2", ".", "dev-clean"),
        ("dev-clean/1/2", "dev-clean", "dev-clean"),
        ("test-other/1/2", "test-other/1/2", "test-other"),
        ("train/1/2", "train", "train"),
        ("mini/train-clean-5/1/2", "mini", "train-clean-5"),
    ],
)
@pytest.mark.parametrize("as_dot", [False, True])
def test_the_split_is_that_of_the_folder(root, sound, tmp_path, monkeypatch, chapter, root_at, split, as_dot):
    sound(f"{chapter}/1-2-0000.flac")
    (root / chapter / "1-2.trans.txt").write_text("1-2-0000 YES\n")
    monkeypatch.chdir(root / root_at)
    _, splits = written("librispeech", Path(".") if as_dot else root / root_at, tmp_path)
    assert list(splits) == [split]


def test_no_split_is_guessed(tmp_path, sound, root):
    sound("mine/1/2/1-2-0000.flac")
    (root / "mine/1/2/1-2.trans.txt").write_text("1-2-0000 YES\n")
    with pytest.raises(InputError, match=r"1-2\.trans\.txt: in no folder of a split"):
        written("librispeech", root / "mine", tmp_path)


def test_one_utterance_in_two_ways_is_refused(librispeech, root, sound, tmp_path):
    sound("other/dev-clean/174-12-0000.flac")
    (root / "other/dev-clean/174-12.trans.txt").write_text("174-12-0000 SOMETHING ELSE\n")
    with pytest.raises(InputError, match=r'line 1: id "174-12-0000" is there twice, for other sounds or texts'):
        written("librispeech", librispeech, tmp_path)


def test_lists_apart_from_the_sounds(librispeech, root, tmp_path):
    lists = tmp_path / "lists"
    for path in root.rglob("*.trans.txt"):
        (lists / path.relative_to(root)).parent.mkdir(parents=True)
        path.rename(lists / path.relative_to(root))
    _, splits = written("librispeech", root, tmp_path, lists=lists)
    assert sum(map(len, splits.values())) == 6


def test_transcripts_as_they_are(librispeech, tmp_path):
    _, splits = written("librispeech", librispeech, tmp_path, normalised="none")
    assert [row.text for row in splits["dev-clean"]] == ["DON'T GO", "HE SAID MR SMITH"]


def test_sounds_that_are_not_there_at_all(root, tmp_path):
    (root / "dev-clean").mkdir(parents=True)
    (root / "dev-clean" / "1-1.trans.txt").write_text("1-1-1 HELLO")
    told = r"none of the sound files of 1 rows is there, the first of them 1-1-1 \(.*, line 1\); looked for"
    with pytest.raises(InputError, match=told):
        written("librispeech", root, tmp_path)
