"""A recipe's student as each process of a run makes it, by itself."""

import torch

from distill.models.students import student_of
from distill.recipe.reading import read_recipe

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
