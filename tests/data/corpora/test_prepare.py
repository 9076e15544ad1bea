import json
import types

import pytest

from data.corpora import CORPORA
from data.corpora.lengths import UNREADABLE
from data.corpora.prepare import MISSING, TEXTLESS, TWICE, prepare
from data.errors import InputError
from data.paths import REPOSITORY
from data.rows.manifest_reader import read_manifest
from tests.data.corpora.conftest import written


@pytest.mark.parametrize("name", [name for name in CORPORA if name != "huggingface"])
def test_a_wrong_folder_says_what_was_looked_for(name, root, tmp_path):
    root.mkdir()
    (root / "readme.txt").write_text("nothing here")
    with pytest.raises(InputError) as error:
        written(name, root, tmp_path)
    assert CORPORA[name].LAYOUT in str(error.value) and str(root) in str(error.value)
    assert "\n" not in str(error.value) and not list((tmp_path / "out").glob("*"))


def test_the_corpus_of_the_contributors_page(root, sound, tmp_path):
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    corpus = types.ModuleType("commonvoice")
    exec(page.split("## A corpus")[1].split("```python")[1].split("```")[0], corpus.__dict__)
    sound("clips/a.mp3")
    (root / "dev.tsv").write_text('client_id\tpath\tsentence\n1\ta.mp3\t"Hello," she said\n2\tb.mp3\tNot there\n')
    made = prepare(corpus, root, tmp_path / "out")
    (row,) = read_manifest(made.files["valid"])
    assert (row.id, row.text, row.corpus) == ("commonvoice/a.mp3", "hello she said", "commonvoice")
    assert made.left_out == {MISSING: 1}


@pytest.fixture
def librispeech(root, sound):
    """A chapter of two utterances and one that is not there."""
    for number in range(2):
        sound(f"dev-clean/174/12/174-12-000{number}.flac")
    (root / "dev-clean/174/12/174-12.trans.txt").write_text(
        "174-12-0000 DON'T GO\n174-12-0001 YES\n174-12-0002 NO SUCH FILE\n"
    )
    return root


def test_sounds_that_cannot_be_read_are_counted(librispeech, root, tmp_path):
    (root / "dev-clean/174/12/174-12-0000.flac").write_bytes(b"")
    made, splits = written("librispeech", root, tmp_path)
    assert len(splits["dev-clean"]) == 1 and made.left_out == {UNREADABLE: 1, MISSING: 1}
    assert made.first[UNREADABLE].startswith("174-12-0000 (") and "empty" in made.first[UNREADABLE]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "../up", "x" * 101, "café", "a b", "a\n"])
def test_a_name_that_is_a_path_is_refused(librispeech, tmp_path, name):
    if name:
        with pytest.raises(InputError, match=r"the name .* must be letters"):
            written("librispeech", librispeech, tmp_path, name=name)
    with pytest.raises(InputError, match=r"line 1: the task .* must be letters") as error:
        written("librispeech", librispeech, tmp_path, renamed={"asr": name})
    assert "\n" not in str(error.value)


def test_two_corpora_in_one_place(librispeech, tmp_path):
    one, _ = written("librispeech", librispeech, tmp_path)
    two, splits = written("librispeech", librispeech, tmp_path, name="other", normalised="none")
    assert set(one.files.values()).isdisjoint(two.files.values())
    row = splits["dev-clean"][0]
    assert (row.id, row.corpus, row.text) == ("other/174-12-0000", "other", "DON'T GO")


def test_another_corpus_of_the_name_is_not_replaced(librispeech, root, sound, tmp_path):
    made, _ = written("librispeech", librispeech, tmp_path)
    before = made.files["dev-clean"].read_text()
    root.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"dev-clean\.json: made of other sounds, or of another root; give .* --name"):
        written("librispeech", tmp_path / "moved", tmp_path)
    assert made.files["dev-clean"].read_text() == before
    made.files["dev-clean"].write_text("{}")
    assert len(written("librispeech", tmp_path / "moved", tmp_path)[1]["dev-clean"]) == 2


@pytest.mark.parametrize("wrong", ["file", "parent is a file", "folder in the way"])
def test_an_out_that_cannot_be(librispeech, tmp_path, wrong, command):
    out = tmp_path / "out"
    if wrong == "folder in the way":
        (out / "librispeech_dev-clean.json" / "x").mkdir(parents=True)
    else:
        out.write_text("")
        out = out / "below" if wrong == "parent is a file" else out
    status, _, err = command("scripts/prepare_data.py", "librispeech", "--root", librispeech, "--out", out)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_the_command(librispeech, tmp_path, command):
    status, out, _ = command("scripts/prepare_data.py", "librispeech", "--root", librispeech, "--out", tmp_path / "out")
    assert status == 0 and "librispeech_dev-clean.json: 2 rows (2 asr)" in out
    assert "left out: 1 rows whose sound file is not there, the first of them 174-12-0002" in out
    files = sorted((tmp_path / "out").glob("*.json"))
    status, out, _ = command("scripts/make_manifest.py", *files, "--out", tmp_path / "all.arrow", "--workers", 1)
    assert status == 0 and "all.arrow: 2 rows" in out and len(read_manifest(tmp_path / "all.arrow")) == 2
    for wrong in (["--root", tmp_path / "none"], ["--root", tmp_path, "--task", "asr"]):
        status, _, err = command("scripts/prepare_data.py", "librispeech", "--out", tmp_path, *wrong)
        assert status == 2 and err.count("\n") == 1


def test_rows_without_a_text_are_kept_where_one_asks_for_them(root, sound, tmp_path, command):
    for split, name in (("train-clean", "174-12"), ("dev-clean", "175-12")):
        for number in range(2):
            sound(f"{split}/{name}-000{number}.flac")
        (root / split / f"{name}.trans.txt").write_text(f"{name}-0000 DON'T GO\n{name}-0001 ...\n")
    assert written("librispeech", root, tmp_path)[0].left_out == {TEXTLESS: 2}
    made, splits = written("librispeech", root, tmp_path, untexted=True)
    assert [(row.id, row.text) for row in splits["train-clean"]] == [
        ("librispeech/174-12-0000", "don't go"),
        ("librispeech/174-12-0001", ""),
    ]
    # What is held out is scored, and needs its texts.
    assert len(splits["dev-clean"]) == 1 and made.left_out == {TEXTLESS: 1}
    status, out, _ = command(
        *("scripts/prepare_data.py", "librispeech", "--root", root, "--out", tmp_path / "out", "--keep-untexted")
    )
    assert status == 0 and "librispeech_train-clean.json: 2 rows (2 asr), 1 of them without a text" in out
    assert "librispeech_dev-clean.json: 1 rows (1 asr)\n" in out


@pytest.mark.parametrize("name", ["calls.csv", "calls.tsv", "calls.jsonl"])
def test_a_table_of_sounds_alone(root, sound, tmp_path, name):
    for of in "ab":
        sound(f"{of}.wav")
    if name.endswith("jsonl"):
        lines = [json.dumps({"path": f"{of}.wav", "task": "asr"}) for of in "aab"]
    else:
        between = "," if name.endswith("csv") else "\t"
        lines = [between.join(of) for of in (("path", "task"), *((f"{of}.wav", "asr") for of in "aab"))]
    (root / name).write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"no (column )?'text'"):
        written("table", root, tmp_path)
    made, splits = written("table", root, tmp_path, untexted=True)
    assert [(row.path.name, row.text) for row in splits["calls"]] == [("a.wav", ""), ("b.wav", "")]
    assert made.left_out == {TWICE: 1}  # the same sound, asked the same


def test_what_is_held_out_needs_its_texts(root, sound, tmp_path):
    sound("a.wav")
    for name in ("test", "test_calls", "dev-2", "valid", "evaluation"):
        (root / f"{name}.csv").write_text("path,text,task\na.wav,,asr\na.wav,yes,asr\n")
    (root / "testimonies.csv").write_text("path,text,task\na.wav,,asr\na.wav,yes,asr\n")
    made, splits = written("table", root, tmp_path, untexted=True)
    assert {split: len(rows) for split, rows in splits.items() if len(rows) > 1} == {"testimonies": 2}
    assert made.left_out == {TEXTLESS: 5}
