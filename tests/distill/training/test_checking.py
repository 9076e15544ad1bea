import json

import pytest

from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from distill.training.building import train_parts
from distill.training.checking import check

LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


def test_what_will_be_trained_is_what_is_built(tiny_recipe, tiny_teacher):
    changes = [f"student.lora={json.dumps(LORA)}", 'train.stages.1.tasks=["asr"]']
    recipe = read_recipe(tiny_recipe, changes)
    told, refused = check(recipe)
    student = student_of(recipe, *tiny_teacher)
    train_parts(recipe, student)
    assert not refused
    for part in ("encoder", "connector", "llm"):
        of = [*getattr(student, part).parameters()]
        numbers = [sum(p.numel() for p in of), sum(p.numel() for p in of if p.requires_grad)]
        (line,) = [line for line in told.splitlines() if line.startswith(f"{part} ")]
        assert line.split()[1:] == [f"{number / 1e6:.3f}" for number in numbers]
    assert told.startswith("tiny: 6 steps in 2 stages\n") and "train.json: " in told
    assert "stage distil: 4 steps; losses: ce 0.5, kd 0.5, ctc 0.1; rates: encoder 0.001, connector" in told


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("train.match.hidden_layers=[[9, 0]]", "train.match.hidden_layers: the student has no layer 9 there"),
        ("train.match.encoder_layers=[[0, 9]]", "train.match.encoder_layers: the teacher has no layer 9 there"),
        ("student.llm_layers=[0, 99]", "student.llm_layers: [0, 99] must name layers of 0 to"),
        ("student.llm_ffn=100000", "student.llm_ffn: 100000 neurons of"),
        (
            f"student.lora={json.dumps(LORA | {'target_modules': ['q_proj', 'w_proj']})}",
            "LoRA of the llm: no layer is called 'w_proj'; name linear layers that it has",
        ),
        (
            f"student.part_lora={json.dumps({'encoder': LORA | {'target_modules': ['query']}})}",
            "LoRA of the encoder: no layer is called 'query'",
        ),
        ("student.weights=/none", "student.weights: /none holds no model"),
    ],
)
def test_what_does_not_exist_is_told_before_anything_is_loaded(tiny_recipe, monkeypatch, change, line):
    monkeypatch.setattr("teacher.build.load_pretrained", None)
    refused = check(read_recipe(tiny_recipe, [change]))[1]
    assert len(refused) == 1 and refused[0].startswith(line)


def test_everything_is_told_at_once(command, tiny_recipe, tmp_path):
    settings = {
        "train.match.hidden_layers": "[[9, 0]]",
        "data.train": tmp_path / "none.json",
        "teacher.weights": "none",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    status, out, err = command("distill/train.py", "--check", "--config", tiny_recipe, *words)
    assert status == 2 and "valid.json: " in out and "stage distil: 4 steps" in out
    for said in ("weights: ", "none.json", "the student has no layer 9 there"):
        assert said in err
    assert not (tmp_path / "runs").exists()
