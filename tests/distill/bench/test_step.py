"""`scripts/bench.py step` on the tiny recipe: that it measures what it says, not how fast this machine is."""

import json

import pytest

from distill.bench import step
from distill.recipe.reading import read_recipe
from distill.training.held_teacher import HeldTeacher
from teacher.build import build_teacher
from tests.teacher.test_build import SHAPES

SIZES = ["--seconds", 1.5, "--words", 3, "--steps", 2]


@pytest.mark.parametrize("way", ["cache", "memory", "on_policy"])
def test_a_step_is_timed_and_its_memory_measured(command, tiny_recipe, monkeypatch, way):
    held = []
    hold = HeldTeacher.hold
    monkeypatch.setattr(HeldTeacher, "hold", lambda self, parts: held.append(parts) or hold(self, parts))
    changes = ["deepspeed.gradient_accumulation_steps=2", "train.stages.1.losses.ctc=0"]
    # Of other rows than the noise.
    changes += ['train.stages.1.targets=["hypothesis"]', 'train.stages.1.mix=[{"corpus": "ours", "weight": 2}]']
    sets = [word for change in changes for word in ("--set", change)]
    arguments = ["--one", way, "--config", tiny_recipe, *SIZES, *sets]
    status, out, err = command("scripts/bench.py", "step", *arguments)
    assert status == 0, err
    figures = json.loads(out)
    assert figures["seconds"] > 0 and figures["peak_bytes"] > 2**27 and figures["build_peak_bytes"] > 2**27
    # 3 clips of 1.6 s in a micro-batch of 6 s, twice.
    assert figures["audio_s"] == pytest.approx(6 * 1.6)
    if way == "on_policy":
        assert 6 <= figures["tokens"] <= 6 * 64
    else:
        assert figures["tokens"] == 6 * tokens_of(tiny_recipe)
    assert held[0] == (None if way == "cache" else "whole")


def tokens_of(recipe_file):
    """Tokens of three words, the end symbol among them."""
    _, processor = build_teacher(read_recipe(recipe_file).teacher)
    return len(processor.text_ids("one one one"))


def test_without_weights_the_teacher_takes_no_memory_beside_the_student(command, tiny_recipe, monkeypatch):
    made = {}
    build = step._student
    monkeypatch.setattr(step, "_student", lambda recipe: made.setdefault("student", build(recipe)))
    targets, make = [], step._made_up_cache

    def looked_at(*of):
        cache = make(*of)
        targets.extend(cache[row_id].targets["reference"] for row_id in cache.ids())
        return cache

    monkeypatch.setattr(step, "_made_up_cache", looked_at)
    arguments = ["--one", "cache", "--config", tiny_recipe, "--random-weights", *SIZES]
    shapes = [f"teacher.shapes={json.dumps(SHAPES)}", "student.encoder_layers=[0]", "student.llm_layers=[0]"]
    status, out, err = command("scripts/bench.py", "step", *arguments, *[w for s in shapes for w in ("--set", s)])
    assert status == 0, err
    assert json.loads(out)["seconds"] > 0
    student, _ = made["student"]
    assert {parameter.device.type for parameter in student.parameters()} == {"cpu"}
    assert len(targets) == 3
    for of in targets:
        assert of.counts.min() >= 1 and 0 < of.tail.max() < 0.01 and of.counts.max() <= 16


def test_the_ratio_stands_in_the_table(command, tiny_recipe, monkeypatch, tmp_path):
    figures = {"tokens": 40.0, "audio_s": 20.0, "peak_bytes": 2**30, "build_peak_bytes": 2**31}
    told = []

    def measured(module, words):
        told.append([str(word) for word in words])
        return figures | {"seconds": 2.0 if "cache" in told[-1] else 7.0}

    monkeypatch.setattr(step, "measured_apart", measured)
    out_file = tmp_path / "step.md"
    status, out, err = command("scripts/bench.py", "step", "--config", tiny_recipe, *SIZES, "--out", out_file, "--json")
    assert status == 0, err
    assert json.loads(out)["ratio"] == 3.5 and "| 40 | 7.00 | 3.50 x | 1.00 | 2.00 |" in out_file.read_text()
    assert [words[1] for words in told] == ["cache", "memory", "on_policy"] and all(
        "--steps" in words for words in told
    )
    alone = ["--one", "cache", "--set", "train.stages.1.losses.kd=0"]
    status, _, err = command("scripts/bench.py", "step", "--config", tiny_recipe, *alone)
    assert status == 2 and "no stage has a kd weight; there is nothing that a teacher is asked" in err
