import copy
import json

import pytest
import torch
from torch import nn

from data.errors import InputError
from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from student.neurons import neuron_importance, stack_of
from student.shrink import shrink
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import Clip


@pytest.fixture
def batch(tiny_teacher, waves):
    return tiny_teacher[1]([Clip(wave, "transcribe", "press one") for wave in waves])


def encoder_norms(model, batches):
    return neuron_importance(model, batches, {"encoder"})["encoder"]


@torch.no_grad()
def test_the_neurons_of_greatest_norm_stay(tiny_recipe, tiny_teacher, waves):
    model, processor = tiny_teacher
    batch = processor([Clip(wave, "transcribe", "press one") for wave in waves])
    frames = [20, 90, 41]
    found = encoder_norms(model, [(batch, torch.tensor(frames))] * 2)
    hidden = torch.nn.functional.gelu(model.encoder.conv1(batch.features.mel_BMT[:1, :, :110]))
    hidden = torch.nn.functional.gelu(model.encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + model.encoder.embed_positions.weight[: hidden.shape[1]]
    first = model.encoder.layers[0]
    hidden = hidden + first.self_attn(first.self_attn_layer_norm(hidden))[0]
    active = first.activation_fn(first.fc1(first.final_layer_norm(hidden)))[0, :20]
    alone = encoder_norms(model, [(batch, torch.tensor([20, 0, 0]))])
    torch.testing.assert_close(alone[0].float(), active.norm(dim=0), atol=1e-4, rtol=1e-4)
    parts = [encoder_norms(model, [(batch, torch.tensor(frames) * torch.eye(3).long()[i])]) for i in range(3)]
    whole = 2 * sum(part.square() for part in parts)  # padding counts for nothing
    torch.testing.assert_close(found.square(), whole, atol=1e-5, rtol=1e-5)

    student = student_of(read_recipe(tiny_recipe, ["student.encoder_ffn=16"]), *tiny_teacher)
    assert student.encoder.layers[0].fc2.weight.shape == (32, 16)
    theirs = {tuple(row): number for number, row in enumerate(model.encoder.layers[1].fc1.weight.tolist())}
    kept = [theirs[tuple(row)] for row in student.encoder.layers[0].fc1.weight.tolist()]
    assert kept == sorted(kept)
    everything = student_of(read_recipe(tiny_recipe, ["student.encoder_ffn=64"]), *tiny_teacher)
    assert torch.equal(everything.encoder.layers[0].fc1.weight, model.encoder.layers[1].fc1.weight)
    with pytest.raises(InputError, match="encoder_ffn: 65 neurons of 64 cannot be kept"):
        student_of(read_recipe(tiny_recipe, ["student.encoder_ffn=65"]), *tiny_teacher)


@torch.no_grad()
def test_the_llms_neurons_are_ranked_over_all_that_it_reads(tiny_recipe, batch):
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["down_proj", "v_proj"]}
    changes = ["teacher.weights=null", f"teacher.lora={json.dumps(lora)}"]
    model, _ = build_teacher(read_recipe(tiny_recipe, changes).teacher)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.normal_(std=0.5)
    frames_B = torch.tensor([20, 90, 41])
    found = neuron_importance(model, [(batch, frames_B)] * 2, {"encoder", "llm"})
    assert torch.equal(found["encoder"], encoder_norms(model, [(batch, frames_B)] * 2))
    merged = copy.deepcopy(model)
    merge_lora(merged)
    states, first = [], merged.llm.get_decoder().layers[0]
    first.mlp.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    merged.hidden(batch)
    real_ND = states[0][batch.attention_mask_BT.bool()]
    active_NF = nn.functional.silu(first.mlp.gate_proj(real_ND)) * first.mlp.up_proj(real_ND)
    assert found["llm"].shape == (4, 96) and len(real_ND) < states[0].shape[0] * states[0].shape[1]
    expected = 2**0.5 * active_NF.norm(dim=0) * first.mlp.down_proj.weight.norm(dim=0)
    torch.testing.assert_close(found["llm"][0].float(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_neurons_that_stay_do_what_they_did(tiny_recipe, tiny_teacher, batch, tmp_path):
    teacher, _ = tiny_teacher
    merge_lora(teacher)
    everything = read_recipe(tiny_recipe, ["student.encoder_layers=[0,1]", "student.llm_layers=null"]).student
    kept = {
        part: [torch.randperm(there)[:40].sort().values for _ in range(layers)]
        for part, there, layers in (("encoder", 64, 2), ("llm", 96, 4))
    }
    student = shrink(teacher, everything, neurons=kept).eval()
    assert student.encoder.layers[1].fc1.weight.shape == (40, 32)
    assert student.config.encoder_config.encoder_ffn_dim == 40 and teacher.config.encoder_config.encoder_ffn_dim == 64
    assert student.config.llm_config.intermediate_size == 40 and teacher.config.llm_config.intermediate_size == 96
    for layers, part, last in (
        (teacher.encoder.layers, "encoder", "fc2"),
        (stack_of(teacher, "llm"), "llm", "mlp.down_proj"),
    ):
        for layer, stay in zip(layers, kept[part], strict=True):
            weight = layer.get_submodule(last).weight
            weight[:, torch.ones(weight.shape[1], dtype=torch.bool).index_fill(0, stay, False)] = 0
    torch.testing.assert_close(student(batch).logits, teacher(batch).logits, atol=1e-4, rtol=1e-4)
    student.save_pretrained(tmp_path)
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(again(batch).logits, student(batch).logits)


def test_a_recipe_says_how_wide_the_llms_layers_are(tiny_recipe, tiny_teacher):
    teacher, _ = tiny_teacher
    student = student_of(read_recipe(tiny_recipe, ["student.llm_ffn=24", "student.encoder_ffn=16"]), *tiny_teacher)
    assert [layer.mlp.down_proj.weight.shape for layer in stack_of(student, "llm")] == [(48, 24)] * 3
    assert student.encoder.layers[0].fc2.weight.shape == (32, 16)
    whole = {tuple(row): number for number, row in enumerate(stack_of(teacher, "llm")[3].mlp.up_proj.weight.tolist())}
    kept = [whole[tuple(row)] for row in stack_of(student, "llm")[2].mlp.up_proj.weight.tolist()]
    assert kept == sorted(kept)
    with pytest.raises(InputError, match=r"student.llm_ffn: 97 neurons of 96 cannot be kept; name fewer"):
        student_of(read_recipe(tiny_recipe, ["student.llm_ffn=97"]), *tiny_teacher)
    with pytest.raises(InputError, match="llm_ffn: neurons of another LLM cannot be ranked"):
        read_recipe(tiny_recipe, ["student.llm_ffn=24", "student.llm=/some/llm"])
    del stack_of(teacher, "llm")[0].mlp.down_proj
    with pytest.raises(InputError, match=r"student.llm_ffn: the layers of this LLM have no mlp.down_proj and"):
        student_of(read_recipe(tiny_recipe, ["student.llm_ffn=24"]), *tiny_teacher)


@pytest.mark.parametrize(
    "cut",
    [
        ["student.llm_ffn=24"],
        ["student.encoder_rank=4"],
        ["student.layer_choice=ranked", "student.llm_layers=2"],
    ],
)
def test_without_a_clip_with_a_text_nothing_is_ranked(tiny_recipe, tiny_teacher, own_data, cut):
    content = json.loads((own_data / "train.json").read_text())
    for entry in content["annotation"]:
        entry["text"] = ""
    (own_data / "train.json").write_text(json.dumps(content))
    recipe = read_recipe(tiny_recipe, ["data.faults.no_text=teacher", "train.stages.1.losses.ctc=0", *cut])
    with pytest.raises(InputError, match=r"student: no training clip with a text can be read.*; check data.train"):
        student_of(recipe, *tiny_teacher)
