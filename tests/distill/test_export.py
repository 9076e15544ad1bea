"""What is left of a run: the model that its users load."""

import json

import pytest
import torch

from distill.recipe import read_recipe
from distill.students import student_of
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
