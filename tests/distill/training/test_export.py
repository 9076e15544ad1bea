"""What is left of a run: the model that its users load."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from student import AudioLM
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor


@pytest.mark.parametrize("zero", [2, 3])
def test_adapters_are_folded_into_the_exported_student(
    command, tiny_recipe, tiny_teacher, fill_tiny_cache, waves, tmp_path, zero
):
    fill_tiny_cache()
    lora = json.dumps({"r": 2, "lora_dropout": 0.0})
    changes = [f"student.lora={lora}", f'student.part_lora={{"encoder": {lora}}}', "name=adapted"]
    changes += [f"deepspeed.zero_optimization.stage={zero}"]
    options = [word for override in changes for word in ("--set", override)]
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *options)
    assert status == 0, err
    run = tmp_path / "runs" / "adapted"
    assert_usable(run / "model", waves)
    exported = SalmonnForConditionalGeneration.from_pretrained(run / "model").eval()
    assert not exported.config.adapted
    assert not [name for name, _ in exported.named_parameters() if ".lora_" in name or "base_layer" in name]
    recipe = read_recipe(tiny_recipe, changes)
    student = student_of(recipe, *tiny_teacher).eval()
    batch = SalmonnProcessor(tiny_teacher[1].tokenizer, student.config)([Clip(w, "transcribe", "a") for w in waves])
    with torch.no_grad():
        untrained, found = student(batch).logits, exported(batch).logits
        assert not torch.allclose(untrained, found, atol=1e-2)
        if zero == 2:
            (states,) = (run / "checkpoints" / "step_6").glob("*model_states.pt")
            tensors = torch.load(states, weights_only=False)["module"]
            own = {key.removeprefix("student."): of for key, of in tensors.items() if key.startswith("student.")}
            assert any("encoder.layers.0.self_attn.q_proj.lora_B" in key for key in own)
            student.load_state_dict(own, strict=False)  # what was frozen is not in it
            torch.testing.assert_close(student(batch).logits, found, atol=1e-4, rtol=1e-4)


def assert_usable(folder, waves):
    """The folder needs nothing beside it: it says how it is used, and what it is."""
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "usage.json", "card.json", "README.md"}
    model = AudioLM.load(folder, dtype="fp32")
    assert model.usage.tasks["transcribe"].max_new_tokens == 8 and model.usage.tasks["caption"].trained
    assert model.caption([(wave, 16_000) for wave in waves])[2].segments[0].end_s == len(waves[2]) / 16_000
    card = (folder / "README.md").read_text()
    assert "transcribe" in card and "audiocaption" in card and "has not been scored" in card


def test_a_teacher_keeps_all_that_was_trained_of_it(command, tiny_recipe, waves, tmp_path):
    def train(name, lr, *changes):
        stage = {"name": "ce", "steps": 2, "max_seconds": 6, "warmup_steps": 0, "losses": {"ce": 1}, "lr": lr}
        changes = [f"name={name}", "student=null", "cache=null", f"train.stages={json.dumps([stage])}", *changes]
        status, _, err = command(
            "distill/train.py", "--config", tiny_recipe, *(w for c in changes for w in ("--set", c))
        )
        assert status == 0, err
        return tmp_path / "runs" / name / "model" / "trained.safetensors"

    first = train("first", {"encoder": 1e-2, "connector": 1e-2}, "teacher.weights=null")
    assert_usable(first.parent, waves)
    second = train("second", {"connector": 1e-2}, f"teacher.weights={first}")
    untrained, *built = (
        build_teacher(read_recipe(tiny_recipe, [f"teacher.weights={weights}"]).teacher)[0]
        for weights in ("null", first, second)
    )
    names = ["encoder.layers.0.fc1.weight", "connector.proj.weight"]
    before, once, twice = ([model.get_parameter(name) for name in names] for model in (untrained, *built))
    assert not torch.allclose(once[0], before[0], atol=1e-3) and torch.equal(twice[0], once[0])
    assert not torch.equal(twice[1], once[1])


def test_a_model_that_is_there_stays_until_the_next_is_whole(
    command, tiny_recipe, fill_tiny_cache, monkeypatch, tmp_path
):
    fill_tiny_cache()
    run = tmp_path / "runs" / "tiny"
    status, _, err = command("distill/train.py", "--config", tiny_recipe)
    assert status == 0, err
    first = (run / "model" / "model.safetensors").read_bytes()
    left = run / ".model.12345.tmp"  # by a run that was killed while it wrote
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    replace = os.replace

    def failing(source, target):
        if Path(target) == run / "model" and Path(source).name == "new":
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", failing)
        patch.setattr(SalmonnProcessor, "save_pretrained", lambda *_: None)
        status, _, err = command("distill/train.py", "--config", tiny_recipe)
    assert status != 0 and (run / "model" / "model.safetensors").read_bytes() == first
    assert (run / "model" / "tokenizer.json").is_file()
    status, _, err = command("distill/train.py", "--config", tiny_recipe)
    assert status == 0 and (run / "model" / "model.safetensors").read_bytes() == first
    assert not list(run.glob(".model.*"))
