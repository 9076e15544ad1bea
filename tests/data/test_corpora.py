"""Every corpus in miniature, in the layout that it is distributed in, with real sound and with faults."""

import csv
import io
import json
import types

import numpy as np
import pytest
import soundfile

from data.corpora import CORPORA
from data.corpora.gigaspeech import GARBAGE, plain
from data.corpora.prepare import prepare
from data.errors import InputError
from data.paths import REPOSITORY, cache_dir
from data.rows.manifest import read_manifest
from data.rows.manifest_writer import write_manifest

RATE = 16_000
RECORDINGS = cache_dir() / "mini" / "test_asr.json"


@pytest.fixture(scope="session")
def speech():
    """Some real speech; tones where the mini recipe's sounds are not fetched."""
    if not RECORDINGS.is_file():
        return [0.3 * np.sin(np.arange(RATE * seconds) * 0.1 * (seconds + 1)) for seconds in (1, 2, 3)]
    return [soundfile.read(row.path)[0] for row in read_manifest(RECORDINGS)[:6]]


@pytest.fixture
def root(tmp_path):
    """The folder that a corpus is unpacked in."""
    return tmp_path / "corpus"


@pytest.fixture
def sound(root, speech):
    """A function that writes a sound file into the corpus."""
    number = iter(range(1000))

    def write(name, seconds=None, rate=RATE):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = speech[next(number) % len(speech)]
        samples = samples if seconds is None else np.resize(samples, round(seconds * rate))
        soundfile.write(path, samples, rate, **({"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}))

    return write


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def written(name, root, tmp_path, **options):
    """What is made of a corpus, by split: as rows, through the annotation file."""
    made = prepare(CORPORA[name], root, tmp_path / "out", **options)
    assert made.rows.total() == sum(len(read_manifest(path)) for path in made.files.values())
    return made, {split: list(read_manifest(path)) for split, path in made.files.items()}


def shown(rows):
    return [(row.id, row.path.name, row.text, row.task) for row in rows]


# The six


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
    assert (made.missing, made.first_missing, made.textless) == (3, "174-12-0002", 0)
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
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_file_that_is_no_text_is_named(librispeech, tmp_path):
    (librispeech / "LibriSpeech/dev-clean/174/12/174-12.trans.txt").write_bytes(b"174-12-0000 CAF\xe9\n")
    with pytest.raises(InputError, match=r"174-12\.trans\.txt: cannot be read as UTF-8"):
        written("librispeech", librispeech, tmp_path)


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
    texts = [f"{tag}" for tag in GARBAGE]
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
    assert made.textless == 4
    (row,) = splits["train-xs"]
    assert (row.id, row.start_s, row.end_s, row.duration_s) == ("gigaspeech/POD1_S0", 0.5, 2.25, 1.75)
    assert splits["valid"][0].path.name == "DEV1.wav"
    mapped = write_manifest(sorted(made.files.values()), tmp_path / "all.arrow", workers=1)
    assert (mapped.rows, mapped.seconds, mapped.left_out) == (3, pytest.approx(1.75 + 1.5 + 1.5), 0)


def test_gigaspeech_marks_leave_no_trace():
    assert plain("A <COMMA> B <PERIOD>") == "a b"
    assert plain("<NOISE>") == plain("HELLO <SIL>") == ""


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


def test_wavcaps(root, sound, tmp_path):
    clips = {
        "AudioSet_SL/as_final.json": [("Yb0.wav", "A dog barks."), ("Yblocked.wav", "A test clip.")],
        "BBC_Sound_Effects/bbc_final.json": [("NHU05104086", "Birds sing."), ("NHU1", "Not fetched.")],
        "FreeSound/fsd_final.json": [("17", "A bell rings."), ("18", "")],
        "SoundBible/sb_final.json": [("17", "Rain falls.")],
    }
    for name, items in clips.items():
        path = root / "json_files" / name
        path.parent.mkdir(parents=True)
        data = [{"id": clip, "caption": caption, "duration": 2.5} for clip, caption in items]
        path.write_text(json.dumps({"num_captions_per_audio": 1, "data": data}))
    for name in ("AudioSet_SL/Yb0", "AudioSet_SL/Yblocked", "BBC_Sound_Effects/NHU05104086", "FreeSound/17"):
        sound(f"Zip_files/{name}.flac")
    sound("Zip_files/SoundBible/mnt/WavCaps/data/waveforms/SoundBible_flac/17.flac")
    blacklist = root / "json_files/blacklist/blacklist_exclude_test_ac.json"
    blacklist.parent.mkdir()
    blacklist.write_text(json.dumps({"AudioSet": ["Yblocked.wav"], "FreeSound": []}))
    made, splits = written("wavcaps", root, tmp_path)
    assert [(row.path.parent.name, row.text, row.duration_s) for row in splits["train"]] == [
        ("AudioSet_SL", "A dog barks.", 2.5),
        ("BBC_Sound_Effects", "Birds sing.", 2.5),
        ("FreeSound", "A bell rings.", 2.5),
        ("SoundBible_flac", "Rain falls.", 2.5),
    ]
    assert (made.missing, made.first_missing, made.textless) == (1, "BBC_Sound_Effects/NHU1", 1)
    assert len({row.id for row in splits["train"]}) == 4


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
    assert made.missing == 1 and splits["valid"][0].path.name == "20.wav"


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
    with pytest.raises(InputError, match=r"1727\.csv: a note of instrument '99' is none of MusicNet's"):
        written("musicnet", musicnet(root, sound, "99"), tmp_path)


# Lists in other forms


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
    assert (made.missing, made.textless) == (1, 2)


def test_tables(root, sound, tmp_path):
    sound("a.wav")
    table(root / "mine.csv", ["path", "text", "task", "split", "references"], ["a.wav", "x", "aac", "test", "x|y"])
    (root / "more.jsonl").write_text(
        json.dumps({"path": str(root / "a.wav"), "text": "b", "task": "QA", "question": "Who?"}) + "\n\n"
    )
    (root / "tabs.tsv").write_text("path\ttext\ttask\na.wav\t1, 2\tasr\n")
    _, splits = written("table", root, tmp_path)
    assert splits["test"][0].references == ("x", "y")
    assert splits["more"][0].question == "Who?" and splits["tabs"][0].text == "1, 2"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "path,txt,task\na,b,c\n", "no column 'text'; it has path, txt, task"),
        ("a.csv", "path,text,task\na,b\n", "line 2: too short, it has no 'task'"),
        ("a.jsonl", '{"path": "a"}\n', "line 1: must be an object with path, text and task"),
        ("a.jsonl", '{"path": "a", "text": 3, "task": "asr"}\n', "line 1: 'text' must be a string"),
        ("a.csv", "", "no column 'path'; it has none"),
        ("a.txt", "hello", "no rows of table; looked for"),
    ],
)
def test_tables_with_faults(root, tmp_path, name, content, told):
    root.mkdir()
    (root / name).write_text(content)
    with pytest.raises(InputError, match=told):
        written("table", root, tmp_path)


def test_a_hugging_face_dataset(root, speech, tmp_path):
    from datasets import Audio, Dataset, DatasetDict

    def content(samples):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE, format="FLAC")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = {"audio": [content(samples) for samples in speech[:2]], "sentence": ["Hello, there!", "2 birds"]}
    captions = {"audio": [*rows["audio"], None, None], "captions": [["a", "b"], ["c", "d"], ["e", "f"], []]}
    speech_set = Dataset.from_dict(rows).cast_column("audio", Audio(decode=False))
    caption_set = Dataset.from_dict(captions).cast_column("audio", Audio(decode=False))
    DatasetDict({"validation": speech_set, "test": speech_set.select([1])}).save_to_disk(root / "speech")
    caption_set.save_to_disk(root / "captions")
    _, splits = written("huggingface", root / "speech", tmp_path)
    assert [(row.text, row.task) for row in splits["valid"]] == [("hello there", "asr"), ("two birds", "asr")]
    np.testing.assert_allclose(soundfile.read(splits["test"][0].path)[0], speech[1], atol=1e-4)
    made, splits = written("huggingface", root / "captions", tmp_path)
    assert (made.missing, made.textless) == (1, 1)
    assert [(row.references, row.task) for row in splits["train"]] == [
        (("a", "b"), "audiocaption"),
        (("c", "d"), "audiocaption"),
    ]
    with pytest.raises(InputError, match="neither a folder that datasets reads"):
        (root / "empty").mkdir()
        written("huggingface", root / "empty", tmp_path)


# All


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
    assert (row.id, row.text, row.corpus, made.missing) == ("commonvoice/a.mp3", "hello she said", "commonvoice", 1)


def test_sounds_in_another_folder(librispeech, root, sound, tmp_path):
    with pytest.raises(
        InputError, match="none of the sound files of 1 rows is there, the first of them 1-1-1; looked for"
    ):
        (root / "lists").mkdir()
        (root / "lists" / "1-1.trans.txt").write_text("1-1-1 HELLO")
        written("librispeech", root, tmp_path, lists=root / "lists")


def test_the_command(librispeech, tmp_path, command):
    status, out, _ = command("scripts/prepare_data.py", "librispeech", "--root", librispeech, "--out", tmp_path / "out")
    assert status == 0 and "librispeech_dev-clean.json: 2 rows (2 asr)" in out
    assert "left out: 3 rows whose sound file is not there, the first of them 174-12-0002" in out
    files = sorted((tmp_path / "out").glob("*.json"))
    status, out, _ = command("scripts/make_manifest.py", *files, "--out", tmp_path / "all.arrow", "--workers", 1)
    assert status == 0 and "all.arrow: 6 rows" in out and len(read_manifest(tmp_path / "all.arrow")) == 6
    for wrong in (["--root", tmp_path / "none"], ["--root", tmp_path, "--task", "asr"]):
        status, _, err = command("scripts/prepare_data.py", "librispeech", "--out", tmp_path, *wrong)
        assert status == 2 and err.count("\n") == 1
