import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

import distill.scoring.writing
from data.errors import InputError
from data.hashing import hash_of
from data.rows.manifest_reader import read_manifest
from data.sound.audio import load_clip
from distill.recipe.reading import read_recipe
from distill.scoring.hypothesis_writer import HypothesisWriter
from distill.scoring.sources import InTorch
from distill.scoring.writing import batch_hash, faults_of_files, fixed_batches, require_readable, write_set
from teacher.build import build_teacher
from teacher.hypotheses import GenerationSettings
from teacher.processor import Clip
from tests.conftest import sound, write_annotation_of

SETTINGS = GenerationSettings(max_new_tokens=6)
SECONDS = [1.0 + (7 * i % 11) * 0.17 for i in range(21)]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(distill.scoring.writing, "BATCH_SECONDS", 6.0)
    monkeypatch.setattr(distill.scoring.writing, "WINDOW_ROWS", 8)


@pytest.fixture
def rows(tmp_path):
    write_annotation_of(tmp_path, "set", [("asr", seconds, "press one") for seconds in SECONDS])
    return list(read_manifest(tmp_path / "set.json"))


@pytest.fixture
def write(rows, tmp_path):
    """A function that writes the set into a file of a name, and gives the lines of its ids without their times."""

    def write(model, settings, name, *, ranks=(0,), world=1, rows=rows, **how):
        path = tmp_path / name / "hypotheses.jsonl"
        for rank in ranks:
            with HypothesisWriter(path, "one", {}, rank, world) as writer:
                pairs = [(row, "transcribe") for row in rows]
                write_set(InTorch(*model, settings), writer, "asr", pairs, rank=rank, world=world, **how)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {line["id"]: line | {"seconds": 0} for line in lines}

    return write


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("beams", [1, 4])
def test_a_text_is_the_models_alone(tiny_recipe, small_batches, write, rows, tmp_path, dtype, beams):
    own = [f"teacher.dtype={dtype}", f"generation.num_beams={beams}", "generation.tokens_per_second=2"]
    recipe = read_recipe(tiny_recipe, [*own, "generation.max_new_tokens=20"])
    model, processor = build_teacher(recipe.teacher)
    # A token that is written often becomes the end symbol, so that texts end here and there.
    prompts = processor([Clip(load_clip(row), "transcribe") for row in rows])
    end = model.generate(prompts, max_new_tokens=12).flatten()
    model.config.eos_token_id = processor.config.eos_token_id = int(end.bincount().argsort(descending=True)[3])
    of, settings = (model, processor), recipe.generation
    whole = write(of, settings, "whole")
    assert len({line["hypothesis"] for line in whole.values()}) > 10
    assert whole == write(of, settings, "dealt", ranks=(3, 2, 1, 0), world=4)
    for max_seconds in (1.0, 1000.0):
        assert whole == write(of, settings.model_copy(update={"max_seconds": max_seconds}), f"by_{max_seconds}")
    # The batches of the first rows alone, whole; then all.
    few = write(of, settings, "limited", limit=3)
    assert {"set_0", "set_1", "set_2"} < few.keys() and len(few) < 9 and few == {name: whole[name] for name in few}
    assert whole == write(of, settings, "limited")
    # Killed in the middle of a batch, and in the middle of a line.
    path = tmp_path / "limited" / "hypotheses.jsonl"
    path.write_text("\n".join(path.read_text().split("\n")[:10])[:-9])
    assert whole == write(of, settings, "limited", ranks=(1, 0), world=2)


def test_in_16_bits_numbers_do_depend_on_the_batch(tiny_recipe, write, monkeypatch):
    """What the test above is for: without fixed batches it would fail."""
    recipe = read_recipe(tiny_recipe, ["teacher.dtype=bf16"])
    model, found = build_teacher(recipe.teacher), []
    for seconds in (1.0, 6.0):
        monkeypatch.setattr(distill.scoring.writing, "BATCH_SECONDS", seconds)
        found.append(write(model, recipe.generation, f"by_{seconds}"))
    assert any(found[0][name]["logp"] != found[1][name]["logp"] for name in found[0])


def test_batches_are_of_like_length_and_made_by_the_rows_near_them(small_batches):
    seconds = np.random.default_rng(0).uniform(1, 4, 50)
    batches = fixed_batches(seconds)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert all(len(batch) * seconds[batch].max() <= 6 and len({i // 8 for i in batch}) == 1 for batch in batches)
    # Rows behind change nothing, nor do other windows.
    assert fixed_batches(seconds[:40]) == [batch for batch in batches if max(batch) < 40]


def test_a_clip_that_can_be_heard_again_is_written_with_its_whole_batch(tiny_teacher, small_batches, write, rows):
    whole = write(tiny_teacher, SETTINGS, "whole")
    kept = rows[5].path.read_bytes()
    rows[5].path.write_bytes(kept[:30])
    broken = write(tiny_teacher, SETTINGS, "mended")
    assert broken["set_5"]["hypothesis"] == "" and str(rows[5].path) in broken["set_5"]["fault"]
    assert [name for name, line in broken.items() if "fault" in line] == ["set_5"]
    assert broken == write(tiny_teacher, SETTINGS, "mended")
    rows[5].path.write_bytes(kept)
    assert whole == write(tiny_teacher, SETTINGS, "mended")


def test_another_sound_of_the_same_name_and_length_is_heard(tiny_teacher, small_batches, write, rows):
    whole = write(tiny_teacher, SETTINGS, "replaced")
    soundfile.write(rows[5].path, sound(SECONDS[5], 99), 16_000, subtype="PCM_16")
    replaced = write(tiny_teacher, SETTINGS, "replaced")
    anew = {name for name in whole if replaced[name]["batch"] != whole[name]["batch"]}
    assert "set_5" in anew and len(anew) < 5
    assert replaced == write(tiny_teacher, SETTINGS, "anew")
    rows[5].path.unlink()
    gone = write(tiny_teacher, SETTINGS, "replaced")
    assert "fault" in gone["set_5"] and gone == write(tiny_teacher, SETTINGS, "without")


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "\xe9", "kind": "asr"}'.encode("latin-1"),
        b'{"id": "set_0", "identity": "one"}',
        b'{"id": ["set_0"], "kind": "asr", "hypothesis": "", "batch": "x", "identity": "one"}',
        b'{"id": "set_0", "kind": "asr", "batch": "x", "identity": "one"}',
        b"[1]}",
        b"\0\0",
    ],
)
def test_lines_that_are_none_of_ours_do_not_count(rows, tmp_path, line):
    path = tmp_path / "hypotheses.jsonl"
    own = {"id": "set_1", "kind": "asr", "hypothesis": "a", "batch": "x", "identity": "one"}
    path.write_bytes(line + b"\n" + json.dumps(own).encode() + b"\n")
    with HypothesisWriter(path, "one", {}) as writer:
        assert not writer.has("asr", rows[:1], "x") and writer.has("asr", rows[1:2], "x")
    assert path.read_text() == json.dumps(own) + "\n"


def test_files_beside_it_that_are_no_rank_s_stay(tmp_path):
    other = tmp_path / "hypotheses.greedy.jsonl"
    other.write_text("kept")
    with HypothesisWriter(tmp_path / "hypotheses.jsonl", "one", {}):
        pass
    assert other.read_text() == "kept"


def test_a_set_of_which_too_much_cannot_be_heard_is_refused(tiny_teacher, write, rows):
    for row in rows[:4]:
        row.path.unlink()
    faults = faults_of_files(rows)
    assert list(faults) == [row.id for row in rows[:4]] and str(rows[0].path) in faults["set_0"]
    with pytest.raises(InputError, match=r"the asr set: 4 of 21 clips cannot be heard, more than evaluation.max_unre"):
        write(tiny_teacher, SETTINGS, "refused", max_unreadable=0.05)
    assert len(write(tiny_teacher, SETTINGS, "allowed", max_unreadable=0.2)) == 21


@pytest.mark.parametrize(
    ("count", "clips", "share", "refused"),
    [
        *[(0, 1, 0, False), (1, 2, 0.05, False), (3, 4, 0.05, False), (4, 5, 0.05, True), (5, 100, 0.05, False)],
        *[(6, 100, 0.05, True), (1, 100, 0, True), (1, 1, 1, True), (4, 4, 1, True), (99, 100, 1, False)],
    ],
)
def test_three_clips_may_always_be_silent_but_never_all(count, clips, share, refused):
    faults = {str(i): f"{i}.wav: silent" for i in range(count)}
    if not refused:
        return require_readable("aac", faults, clips, share)
    with pytest.raises(InputError, match=r"the first: 0\.wav: silent"):
        require_readable("aac", faults, clips, share)


def test_another_thing_asked_of_a_row_is_another_batch(rows):
    changes = {
        "text": "b",
        "task": "c",
        "question": "d",
        "start_s": 1.0,
        "end_s": 2.0,
        "duration_s": 3.0,
        "mono": "mix",
    }
    hashes = {batch_hash([rows[0], replace(rows[1], **{name: value})]) for name, value in changes.items()}
    assert len(hashes | {batch_hash(rows[:2]), batch_hash(rows[:1]), hash_of("")}) == len(changes) + 3
