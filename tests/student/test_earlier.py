import json

import pytest
import torch

from data.errors import InputError
from distill.bench.encoder import student_encoder
from distill.models.students import processor_of, student_of, untrained_student
from distill.recipe.inputs import require_inputs
from distill.recipe.reading import read_recipe
from distill.training.same_run import run_identity
from student.neurons import stack_of
from teacher.low_rank import ranks_of
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import Clip
from teacher.weights import load_pretrained
from tests.teacher.test_build import SHAPES


@pytest.fixture
def first_step(tiny_recipe, tiny_teacher, tmp_path):
    """The model folder of a first step: both encoder layers, three of four LLM layers, trained a little."""
    recipe = read_recipe(tiny_recipe, ["student.encoder_layers=null", "student.llm_ffn=40"])
    student = student_of(recipe, *tiny_teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    student.save_pretrained(tmp_path / "first" / "model")
    processor_of(recipe, student, tiny_teacher[1]).save_pretrained(tmp_path / "first" / "model")
    return tmp_path / "first" / "model", student.eval()


@torch.no_grad()
def test_the_second_step_is_cut_from_the_first_ones_student(tiny_recipe, tiny_teacher, first_step, waves):
    folder, first = first_step
    keys = [f"student.base={folder}", "student.encoder_layers=null"]
    recipe = read_recipe(tiny_recipe, [*keys, "student.llm_layers=null"])
    student = student_of(recipe, *tiny_teacher).eval()
    batch = processor_of(recipe, student, tiny_teacher[1])([Clip(wave, "transcribe", "press one") for wave in waves])
    assert torch.equal(student(batch).logits, first(batch).logits)

    recipe = read_recipe(tiny_recipe, [*keys, "student.llm_layers=[0,2]", "student.llm_ffn=24"])
    student = student_of(recipe, *tiny_teacher)
    own, theirs = stack_of(student, "llm"), stack_of(first, "llm")
    assert len(own) == 2 and student.config.llm_config.intermediate_size == 24
    assert torch.equal(own[1].self_attn.q_proj.weight, theirs[2].self_attn.q_proj.weight)
    merge_lora(tiny_teacher[0])
    teacher = stack_of(tiny_teacher[0], "llm")
    assert not torch.equal(own[0].self_attn.q_proj.weight, teacher[0].self_attn.q_proj.weight)
    assert student_encoder(recipe).layers[0].fc1.weight.shape == (64, 32)
    ranked = ["student.llm_layers=2", "student.layer_choice=ranked", "student.calibration_clips=4"]
    assert len(stack_of(student_of(read_recipe(tiny_recipe, [*keys, *ranked]), *tiny_teacher), "llm")) == 2


def test_what_cannot_be_cut_further_is_refused_in_a_line(tiny_recipe, tiny_teacher, first_step, tmp_path):
    folder, _ = first_step
    base = f"student.base={folder}"
    with pytest.raises(InputError, match=r"student.llm_layers: \[0, 1, 3\] must name layers of 0 to 2"):
        student_of(read_recipe(tiny_recipe, [base, "student.encoder_layers=null"]), *tiny_teacher)
    with pytest.raises(InputError, match=r"student.beats: student.base has no BEATs"):
        student_of(read_recipe(tiny_recipe, [base, "student.llm_layers=null", "student.beats=true"]), *tiny_teacher)
    with pytest.raises(InputError, match=r"base: it has its own LLM, which is cut; leave llm out, or base"):
        read_recipe(tiny_recipe, [base, "student.llm=/some/llm"])
    absent = read_recipe(tiny_recipe, [f"student.base={tmp_path}/absent"])
    for asked in (lambda: student_of(absent, *tiny_teacher), lambda: require_inputs(absent, [], student=True)):
        with pytest.raises(InputError, match=r"student.base: .*absent holds no model; name the model folder"):
            asked()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 5}))
    recipe = read_recipe(tiny_recipe, [base, "student.llm_layers=null"])
    with pytest.raises(InputError, match=r"student.base: .* has another eos_token_id than the teacher"):
        student_of(recipe, *tiny_teacher)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["never"] = tokenizer["model"]["vocab"].pop("a")
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"student.base: .* has another vocabulary than the teacher's LLM"):
        student_of(recipe, *tiny_teacher)


def test_a_run_is_another_where_its_base_is(tiny_recipe, first_step):
    folder, student = first_step
    recipe = read_recipe(tiny_recipe, [f"student.base={folder}"])
    before = run_identity(recipe, [], 1)
    assert before == run_identity(recipe, [], 1)
    student.connector.query.data.add_(1)
    student.save_pretrained(folder)
    after = run_identity(recipe, [], 1)
    assert {key for key in after if after[key] != before[key]} == {"start"}


def test_an_untrained_student_of_a_base_has_its_shape(tiny_recipe, first_step):
    folder, _ = first_step
    shapes = SHAPES | {"llm": SHAPES["llm"] | {"vocab_size": 300}}
    random = ["teacher.random_weights=true", "teacher.weights=null", f"teacher.shapes={json.dumps(shapes)}"]
    keys = [f"student.base={folder}", "student.encoder_layers=[1]", "student.llm_layers=[0,2]"]
    model, _ = untrained_student(read_recipe(tiny_recipe, [*random, *keys]))
    assert model.config.llm_config.intermediate_size == 40 and len(stack_of(model, "llm")) == 2
    shapes["llm"]["vocab_size"] = 400
    random[-1] = f"teacher.shapes={json.dumps(shapes)}"
    with pytest.raises(InputError, match=r"student.base: .* has 301 ids, the teacher 401; name another model"):
        untrained_student(read_recipe(tiny_recipe, [*random, *keys]))


def test_a_recipe_a_step(train, tmp_path):
    """By the real command: the second run is cut from the first one's model, in all ways at once."""
    lora = '{"encoder": {"r": 2, "lora_dropout": 0.0, "target_modules": ["q_proj", "fc1"]}}'
    short = ["train.stages.0.steps=1", "train.stages.1.steps=1"]
    train("first", "student.encoder_layers=null", *short)
    cuts = ["student.encoder_layers=[0]", "student.llm_layers=[0,2]", "student.llm_ffn=24", "student.encoder_rank=6"]
    base = f"student.base={tmp_path}/runs/first/model"
    steps, _ = train("second", base, *cuts, *short, "student.calibration_clips=4", f"student.part_lora={lora}")
    assert len(steps) == 2 and all(0 < step["loss"] < float("inf") for step in steps)
    folder = tmp_path / "runs" / "second" / "model"
    model = load_pretrained(SalmonnForConditionalGeneration, folder, torch.float32)
    assert model.config.encoder_ranks == ranks_of(model.encoder) and set(ranks_of(model.encoder).values()) == {6}
    assert model.config.llm_config.intermediate_size == 24 and len(stack_of(model, "llm")) == 2
