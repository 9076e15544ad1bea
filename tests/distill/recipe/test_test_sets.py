import json
import sys
from subprocess import run

import pytest
import soundfile

from data.errors import InputError
from data.sound.audio import load_clip
from distill.recipe.reading import read_recipe
from distill.recipe.test_sets import Selection, grouped, of_kind, speech_file, speech_rows
from tests.conftest import REPOSITORY, sound


def write(file, *rows):
    """An annotation file of clips of its folder; a row is what differs from a plain one of speech."""
    folder = file.parent / "sounds"
    plain = {"path": "sounds/test_asr_0.wav", "text": "press one", "task": "asr"}
    file.write_text(
        json.dumps({"annotation": [plain | {"id": f"{file.stem}_{i}"} | row for i, row in enumerate(rows)]})
    )
    return folder


@pytest.mark.parametrize("split", ["test", "valid"])
def test_a_set_is_scored_on_the_rows_of_its_task(tiny_recipe, own_data, split):
    gender = {"task": "gender_recognition", "text": "female"}
    caption = {"path": "sounds/test_aac_0.wav", "task": "audiocaption_v2"}
    for name in ("test_asr", "valid"):
        write(own_data / f"{name}.json", {}, gender, caption, {"path": "sounds/test_asr_1.wav"})
    write(own_data / "test_aac.json", gender, {}, caption)
    recipe = read_recipe(tiny_recipe, [f"data.test.aac={own_data}/test_aac.json"])
    rows = Selection(split=split).rows(recipe)
    assert {kind: [row.task for row in of] for kind, of in rows.items()} == {
        "asr": ["asr", "asr"],
        "aac": ["audiocaption_v2"],
    }
    assert len(Selection(split=split, limit=1).rows(recipe)["asr"]) == 1
    write(own_data / "test_asr.json", gender)
    with pytest.raises(InputError, match=r"test sets have no rows for asr \(their tasks: gender_recognition\)"):
        Selection(names=("asr",)).rows(recipe)


@pytest.fixture
def named(tiny_recipe, own_data):
    """The tiny recipe with sets of speech of two names, around a set of sounds."""
    write(own_data / "test_voice.json", {}, {"path": "sounds/test_asr_1.wav"})
    write(own_data / "test_asr.json", {})
    files = {name: f"{own_data}/test_{name.removeprefix('asr_')}.json" for name in ("asr_voice", "aac", "asr")}
    return read_recipe(tiny_recipe, [f"data.test={json.dumps(files)}"])


def test_a_kind_stands_for_its_sets_and_a_name_for_one_in_the_recipe_s_order(named):
    def selected(*names, **how):
        return {name: len(rows) for name, rows in Selection(*([names] if names else []), **how).rows(named).items()}

    assert list(selected()) == ["asr_voice", "aac", "asr"]
    assert list(selected("asr")) == ["asr_voice", "asr"]
    assert list(selected("aac", "asr_voice")) == ["asr_voice", "aac"]
    assert selected(limit=1) == {"asr_voice": 1, "aac": 1, "asr": 1}
    assert Selection(("aac",)).files(named) == [named.data.test["aac"]]
    assert list(selected(split="valid")) == ["asr"]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("asr_speakers", "test", "the recipe has no test set asr_speakers; it has asr_voice, aac, asr"),
        ("asr_voice", "valid", "the recipe has no valid set asr_voice; it has asr, aac"),
    ],
)
def test_a_set_that_the_recipe_has_not_is_refused(named, name, split, message):
    with pytest.raises(InputError, match=message):
        Selection((name,), split=split).rows(named)


def test_speech_is_taken_of_the_first_set(named, tiny_recipe, own_data):
    assert speech_file(named) == f"{own_data}/test_voice.json"
    assert [row.id for row in speech_rows(named)] == ["test_voice_0", "test_voice_1"]
    sounds = read_recipe(tiny_recipe, [f'data.test={{"aac": "{own_data}/test_aac.json"}}'])
    assert speech_file(sounds) is None
    with pytest.raises(InputError, match=r"the recipe has no test set of speech; name one in data\.test"):
        speech_rows(sounds)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_clips_are_heard_as_the_recipe_says(tiny_recipe, own_data, split):
    left, right = sound(1.2, 1), sound(1.2, 2)
    for name in ("test_asr", "valid"):
        folder = write(own_data / f"{name}.json", {"path": "sounds/stereo.wav"}, {"path": "sounds/gone.wav"})
    soundfile.write(folder / "stereo.wav", [[a, b] for a, b in zip(left, right, strict=True)], 16_000, subtype="FLOAT")
    for mono, expected in (("first", left), ("mix", (left + right) / 2)):
        rows = Selection(names=("asr",), split=split).rows(read_recipe(tiny_recipe, [f"data.mono={mono}"]))["asr"]
        assert load_clip(rows[0]) == pytest.approx(expected, abs=1e-6)
        assert {row.mono for row in rows} == {mono}


def test_what_cannot_be_read_stays_among_the_rows(tiny_recipe, own_data):
    folder = write(
        own_data / "test_asr.json",
        {"path": "sounds/gone.wav", "duration": 2.5},
        {},
        {"path": "sounds/broken.wav"},
        {"path": "sounds/gone.wav", "start": 1.0, "end": 2.0},
        {"path": "sounds/nothing.wav", "duration": 3.0},
        {"path": "sounds/test_asr_1.wav", "duration": 9.0},
        {"path": "sounds/test_asr_1.wav", "start": 0.5},
    )
    (folder / "broken.wav").write_bytes(b"RIFF no sound")
    soundfile.write(folder / "nothing.wav", [], 16_000)
    rows = Selection().rows(read_recipe(tiny_recipe))["asr"]
    assert [row.id for row in rows] == [f"test_asr_{i}" for i in range(7)]
    assert [row.duration_s for row in rows] == pytest.approx([2.5, 1.0, 0.0, 1.0, 3.0, 9.0, 1.8])
    load_clip(rows[6])
    for i in (0, 2, 3, 4, 5):
        with pytest.raises(InputError):
            load_clip(rows[i])
    assert len(Selection().rows(read_recipe(tiny_recipe, ["data.limit=2"]))["asr"]) == 2
    (own_data / "test_asr.json").unlink()
    with pytest.raises(InputError, match=r"test_asr.json: no such annotation file"):
        Selection().rows(read_recipe(tiny_recipe))


def test_two_rows_of_one_id_are_refused(tiny_recipe, own_data):
    for name in ("valid", "more"):
        write(own_data / f"{name}.json", {"id": "one"})
    recipe = read_recipe(tiny_recipe, [f'data.valid=["{own_data}/valid.json", "{own_data}/more.json"]'])
    with pytest.raises(InputError, match='id "one" is in two of the valid files'):
        Selection(split="valid").rows(recipe)


def test_equal_references_are_as_many_as_the_clip_has(tiny_recipe, own_data):
    def references(*rows):
        write(own_data / "test_aac.json", *({"task": "audiocaption"} | row for row in rows))
        recipe = read_recipe(tiny_recipe, [f"data.test.aac={own_data}/test_aac.json"])
        return [row.references for row in Selection(names=("aac",)).rows(recipe)["aac"]]

    texts = ["rain falls", "a dog barks", "rain falls"]
    assert references(*({"text": text} for text in texts)) == [tuple(texts)]
    assert references(*({"text": text, "references": [text]} for text in texts)) == [tuple(texts)]
    assert references({"references": texts}) == [tuple(texts)]
    assert references(*({"text": text, "references": texts} for text in texts)) == [tuple(texts)]
    assert references(*({"text": text, "start": i} for i, text in enumerate(texts))) == [(text,) for text in texts]


@pytest.mark.parametrize("others", ["elsewhere/valid.json", "valid.arrow", "valid.json"])
def test_validation_files_of_one_name_are_refused(tiny_recipe, own_data, others):
    names = f'["{own_data}/valid.json", "{own_data}/{others}"]'
    with pytest.raises(InputError, match=r"data\.valid: two files of one name"):
        read_recipe(tiny_recipe, [f"data.valid={names}"])


def test_scoring_of_texts_loads_no_model():
    """`scripts/score.py` takes rows from here."""
    code = "import sys, distill.recipe.test_sets; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_speech_has_no_groups(tiny_recipe):
    rows = Selection().rows(read_recipe(tiny_recipe))["asr"]
    assert grouped([*rows, *rows], "asr") == [*rows, *rows]
    assert of_kind(rows, "aac") == []
