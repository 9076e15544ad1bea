import json
import math
import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.sound.audio import load_audio
from distill.efficiency.measuring import REFERENCE, Measured, Protocol, cell_of, measure
from distill.efficiency.timing import TTFT_PARTS, Subject, timed
from distill.efficiency.workers import alone
from distill.recipe.reading import read_recipe
from distill.report.efficiency import efficiency_page
from student.shrink import shrink
from teacher.processor import Clip, SalmonnProcessor
from tests.teacher.test_build import SHAPES

FIELDS = ("parameters", "weight_bytes", "peak_memory_bytes", "ttft_s", "tpot_s", "end_to_end_s")


@pytest.fixture
def untrained(tiny_recipe) -> list[str]:
    """Overrides under which nothing is read but the test's own sounds, and its layers are those of the shapes."""
    return [
        *("teacher.encoder=/no/whisper", "teacher.llm=/no/llm", "teacher.weights=/no.pth", "teacher.beats=/no.pt"),
        *(f"teacher.shapes={json.dumps(SHAPES)}", "student.encoder_layers=[0]", "student.llm_layers=[1]"),
    ]


def test_exactly_the_tokens_that_were_asked_for_are_made_and_timed(tiny_teacher, waves):
    model, processor = tiny_teacher
    model.config.eos_token_id = int(
        model.generate(processor([Clip(waves[0], "transcribe")]), max_new_tokens=1)[0, 0]
    )  # a model that would end at once
    run = timed(model, processor, [Clip(wave, "transcribe") for wave in waves], 5)
    assert min(run.features, run.encoder, run.connector, run.prefill, run.step) > 0
    stages = run.features + run.encoder + run.connector + run.prefill + 5 * run.step
    assert stages <= run.total


@given(st.lists(st.tuples(*[st.floats(1e-4, 10)] * 6), min_size=1, max_size=12))
def test_the_parts_of_the_first_token_add_up_to_it(runs):
    names = (*TTFT_PARTS, "step", "total")
    runs = [dict(zip(names, run, strict=True)) | {"peak_memory_bytes": 1} for run in runs]
    for protocol in (Protocol(), REFERENCE):
        cell = cell_of(10.0, 1, runs, protocol)
        assert math.isclose(sum(cell["ttft_parts_s"].values()), cell["ttft_s"])
        assert ("features" in cell["ttft_parts_s"]) == protocol.counts_features
        assert cell["ttft_iqr_s"] >= 0 and cell["rtfx"] * cell["end_to_end_s"] == pytest.approx(10)


def test_the_headline_is_ten_seconds_and_further_batches_are_timed_at_it_alone():
    assert Protocol(seconds=(2, 10, 30), batches=(1, 8)).cells == [(10, 1), (2, 1), (30, 1), (10, 8)]
    assert Protocol(seconds=(2, 5), batches=(4,)).cells == [(5, 4), (2, 4)]


def test_an_untrained_student_has_its_shape_and_needs_no_teacher(tiny_recipe, tiny_teacher, untrained, monkeypatch):
    recipe = read_recipe(tiny_recipe, [*untrained, "teacher.random_weights=true"])
    subject = Subject(recipe, "student")
    model, about = subject.model, subject.about()
    assert (len(model.encoder.layers), model.config.llm_config.num_hidden_layers, model.beats) == (1, 1, None)
    assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {"cpu"}
    assert about["parameters"] == sum(p.numel() for p in model.parameters()) == sum(about["parts"].values())
    assert about["weight_bytes"] == 4 * about["parameters"] == sum(about["part_bytes"].values())
    for sound in ("speech", "noise"):
        run = subject.run(1.5, 2, 3, sound, fresh=True)
        assert set(run) == {*TTFT_PARTS, "step", "total", "peak_memory_bytes"}
    ranks = [
        "student.layer_choice=ranked",
        "student.encoder_layers=1",
        "student.llm_layers=1",
        "student.encoder_ffn=16",
    ]
    ranked = read_recipe(tiny_recipe, [*untrained, "teacher.random_weights=true", *ranks])
    other = Subject(ranked, "student").about()["parts"]
    assert other["llm"] == about["parts"]["llm"] and other["encoder"] == about["parts"]["encoder"] - 32 * (2 * 32 + 1)


def test_the_untrained_student_is_as_large_as_the_one_that_is_trained(tiny_recipe, tiny_teacher, untrained):
    from distill.models.students import untrained_student
    from teacher.build import build_teacher

    recipe = read_recipe(tiny_recipe, [*untrained, "teacher.random_weights=true"])
    real = shrink(build_teacher(recipe.teacher)[0], recipe.student)
    model, _ = untrained_student(recipe)
    assert {name: p.shape for name, p in model.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}


def test_the_command_measures_both_in_turn(command, tiny_recipe, untrained, tmp_path):
    settings = [word for override in untrained for word in ("--set", override)]
    short = ["--seconds", "1,2", "--batch", "1,2", "--tokens", 2, "--warmup", 0, "--runs", 2]
    status, out, err = command(
        "scripts/efficiency.py", "--config", tiny_recipe, "--random-weights", *settings, *short, "--json"
    )
    assert status == 0, err
    found = json.loads((tmp_path / "results" / "tiny_random" / "efficiency.json").read_text())
    assert json.loads(out) == found  # and nothing else
    assert found["random_weights"] and found["protocol"]["sound"] == "speech"
    assert found["protocol"]["sound_set"] == "asr" and "speech of the test set asr, " in efficiency_page(found)
    for name in ("teacher", "student"):
        block = found[name]
        assert all(block[field] > 0 for field in FIELDS) and set(block["rtfx"]) == {"1", "2"}
        assert sum(block["ttft_parts_s"].values()) == pytest.approx(block["ttft_s"])
        assert [(cell["seconds"], cell["batch"]) for cell in block["cells"]] == [(2, 1), (1, 1), (2, 2)]
    assert found["student"]["checkpoint"] == "untrained" and datetime.fromisoformat(
        found["at"]
    ).utcoffset() == timedelta(0)
    for field in FIELDS:
        assert found["ratio"][field] == found["student"][field] / found["teacher"][field]
    assert found["ratio"]["parameters"] < 1 and set(found["ratio"]["rtfx"]) == {"1", "2"}
    page = (tmp_path / "results" / "tiny_random" / "efficiency.md").read_text()
    assert page == efficiency_page(found) and "| 2 | 2 | student |" in page


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--model", "encoder"], "invalid choice: 'encoder'"),
        (["--quantise", "int3"], "quantisation 'int3': none of int8, int4"),
        (["--seconds", "2,x"], "--seconds 2,x: give seconds between 1 and 30, with commas between them"),
        (["--batch", "0"], "--batch 0: give batch between 1"),
        (["--runs", "0"], "--runs 0: must be at least 1"),
        (["--mode", "reference", "--seconds", "5"], "--mode reference: its clip, batch and tokens are fixed"),
        (["--checkpoint", "configs"], "configs: no trained model there"),
        (["--model", "teacher", "--checkpoint", "configs"], "measures no student"),
        (["--set", "student=null"], "the recipe has no student"),
        (["--set", "evaluation.measured_runs=0"], "nothing is measured; give --runs, 1 or more"),
        ([], "runs/tiny/model: no trained model there; run 'deepspeed distill/train.py'"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(command, tiny_recipe, tmp_path, words, complaint):
    if "student=null" in words:
        words = ["--set", "student=null", "--set", "cache=null", "--set", f"train.stages={json.dumps(CE)}"]
    status, _, err = command("scripts/efficiency.py", "--config", tiny_recipe, *words)
    assert status == 2 and "Traceback" not in err
    assert complaint in err.strip().splitlines()[-1]
    assert not (tmp_path / "results").exists()


CE = [{"name": "ce", "steps": 1, "losses": {"ce": 1}, "lr": {"connector": 1e-3}}]


def test_a_process_that_measures_is_no_rank_and_has_all_threads(tiny_recipe, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    everywhere = alone()
    for name in ("RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_SIZE"):
        assert name not in everywhere
        monkeypatch.setenv(name, "2")
    assert alone() == everywhere
    found = measure(read_recipe(tiny_recipe), [Measured("teacher")], Protocol(runs=1, warmup=0, tokens=1))
    monkeypatch.undo()
    count = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    assert found["teacher"]["threads"] == int(subprocess.check_output(count, env=everywhere))
    # torchrun gives its ranks one thread where nothing else is said.
    for extra, kept in (({"OMP_NUM_THREADS": "1"}, True), ({"OMP_NUM_THREADS": "3", "TORCHELASTIC_RUN_ID": "a"}, True)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", extra)
            assert ("OMP_NUM_THREADS" in alone()) == kept
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "a"})
    assert "OMP_NUM_THREADS" not in alone()


def test_held_out_clips_that_cannot_be_heard_are_passed_over(tiny_recipe, own_data):
    sounds = own_data / "sounds"
    (sounds / "test_asr_0.wav").unlink()
    (sounds / "test_asr_1.wav").write_bytes(b"no sound")
    subject = Subject(read_recipe(tiny_recipe), "teacher")
    (clip,) = subject.clips(2.0, 1, "speech")
    assert clip.wave[:16_000] == pytest.approx(load_audio(sounds / "test_asr_2.wav")[:16_000])
    for number in (2, 3):
        (sounds / f"test_asr_{number}.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"test_asr.json: no clip of it can be heard"):
        subject.clips(1.0, 1, "speech")


def test_a_model_that_cannot_be_loaded_says_so_in_its_process(tiny_recipe, tmp_path):
    recipe = read_recipe(tiny_recipe)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "salmonn"}')
    with pytest.raises(InputError, match=r"model: .*make") as caught:
        measure(recipe, [Measured("student", folder=tmp_path / "model")], Protocol(runs=1))
    assert "\n" not in str(caught.value)


def test_a_saved_student_is_measured_from_its_folder(tiny_recipe, tiny_teacher, tmp_path):
    teacher, processor = tiny_teacher
    recipe = read_recipe(tiny_recipe)
    student = shrink(teacher, recipe.student)
    student.save_pretrained(tmp_path / "model")
    SalmonnProcessor(processor.tokenizer, student.config).save_pretrained(tmp_path / "model")
    subject = Subject(recipe, "student", folder=tmp_path / "model")
    assert subject.about()["parameters"] == sum(p.numel() for p in student.parameters())
