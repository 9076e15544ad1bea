"""A recipe's student as each process of a run makes it, by itself."""

import pytest
import torch

from distill.models.students import cut_from_llm, student_of
from distill.recipe.reading import read_recipe
from teacher.build import build_teacher

CALIBRATED = [
    *("student.llm_layers=3", "student.encoder_layers=1", "student.layer_choice=ranked"),
    *("student.llm_ffn=40", "student.encoder_ffn=40", "student.encoder_rank=0.9", "student.calibration_clips=4"),
]


def test_what_is_ranked_on_clips_is_the_same_on_every_rank(tiny_recipe, tiny_teacher, monkeypatch, capsys):
    recipe, made = read_recipe(tiny_recipe, CALIBRATED), []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        torch.manual_seed(rank)  # whatever was drawn before
        made.append(student_of(recipe, *tiny_teacher))
    first, *others = (student.state_dict() for student in made)
    for other, student in zip(others, made[1:], strict=True):
        assert student.config.to_dict() == made[0].config.to_dict() and student.config.encoder_ranks
        assert other.keys() == first.keys() and all(torch.equal(other[name], first[name]) for name in first)
    assert capsys.readouterr().out.count("ranked: student.llm_layers=") == 1  # the first one says it


@pytest.mark.parametrize("changes", [[], ["student.layer_choice=ranked", "student.encoder_layers=1"]])
def test_a_student_of_another_llm_is_made_without_the_teachers(tiny_recipe, tiny_weights, tiny_teacher, changes):
    own = [f"student.llm={tiny_weights}/llm", "student.encoder_ffn=40", "student.calibration_clips=4", *changes]
    recipe = read_recipe(tiny_recipe, own)
    assert cut_from_llm(read_recipe(tiny_recipe)) and not cut_from_llm(recipe)
    without = build_teacher(recipe.teacher, torch.float32, with_llm=False)
    made = [student_of(recipe, *teacher).state_dict() for teacher in (tiny_teacher, without)]
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[1][name], tensor) for name, tensor in made[0].items())
