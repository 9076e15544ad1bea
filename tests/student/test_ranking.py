import pytest
import torch

from data.errors import InputError
from distill.models import student_of
from distill.recipe import read_recipe
from student.ranking import block_distances, layer_states, without_least_needed_block
from teacher.processor import Clip


def turned(*degrees):
    """States that each layer turns by so many degrees."""
    angles = torch.tensor([0.0, *degrees]).cumsum(0).deg2rad()
    return [torch.stack([angle.cos(), angle.sin()]).expand(5, 2) * (1 + i) for i, angle in enumerate(angles)]


def test_the_distance_is_the_angle_over_pi():
    states = turned(30, 10, 60, 5)
    torch.testing.assert_close(block_distances(states, 1), torch.tensor([30, 10, 60, 5.0]) / 180, atol=1e-4, rtol=0)
    torch.testing.assert_close(block_distances(states, 2), torch.tensor([40, 70, 65.0]) / 180, atol=1e-4, rtol=0)
    torch.testing.assert_close(block_distances(states, 4), torch.tensor([105.0]) / 180, atol=1e-4, rtol=0)


def test_the_block_that_turns_least_goes_and_first_and_last_stay():
    assert without_least_needed_block(turned(1, 30, 4, 5, 40, 2), 4) == (0, 1, 4, 5)
    assert without_least_needed_block(turned(1, 30, 4, 5, 40, 2), 6) == (0, 1, 2, 3, 4, 5)
    assert without_least_needed_block(turned(1, 30, 4, 5, 40, 2), 2) == (0, 5)
    assert without_least_needed_block(turned(10, 1, 5), 1) == (0,)


def test_the_states_are_those_between_the_layers(tiny_teacher, waves):
    model, processor = tiny_teacher
    batch = processor([Clip(wave, "transcribe", "press one") for wave in waves])
    states = layer_states(model, [batch, batch])
    assert len(states["encoder"]) == 3 and len(states["llm"]) == 5
    out = model.encode(batch.features)
    assert len(states["encoder"][0]) == 2 * int(out.frames_B.sum())
    assert len(states["llm"][0]) == 2 * int((batch.labels_BT != -100).sum())
    last = model.encoder.layer_norm(states["encoder"][-1][: int(out.frames_B[0])])
    torch.testing.assert_close(last, out.speech_BTD[0, : int(out.frames_B[0])])
    with torch.no_grad():
        hidden = model.llm.get_decoder().norm(states["llm"][-1])
        logits = model(batch).logits
    n = int((batch.labels_BT[0] != -100).sum())
    first = (batch.labels_BT[0] != -100).nonzero()[0, 0] - 1
    torch.testing.assert_close(model.llm.get_output_embeddings()(hidden[:n]), logits[0, first : first + n])


def test_a_recipe_names_how_many_and_the_ranking_which(tiny_recipe, tiny_teacher):
    ranked = ["student.layer_choice=ranked", "student.llm_layers=3", "student.encoder_layers=1"]
    recipe = read_recipe(tiny_recipe, [*ranked, "student.calibration_clips=5"])
    student = student_of(recipe, *tiny_teacher)
    assert len(student.encoder.layers) == 1 and student.config.llm_config.num_hidden_layers == 3
    teacher = tiny_teacher[0]
    own = [layer.mlp.up_proj.weight for layer in student.llm.get_decoder().layers]
    theirs = [
        getattr(layer.mlp.up_proj, "base_layer", layer.mlp.up_proj).weight for layer in teacher.llm.get_decoder().layers
    ]
    assert torch.equal(own[0], theirs[0]) and torch.equal(own[2], theirs[3])
    assert any(torch.equal(own[1], weight) for weight in theirs[1:3])
    even = student_of(read_recipe(tiny_recipe, ["student.llm_layers=2"]), *tiny_teacher)
    assert torch.equal(even.llm.get_decoder().layers[1].mlp.up_proj.weight, theirs[3])
    with pytest.raises(InputError, match="layers of another LLM cannot be ranked"):
        student_of(read_recipe(tiny_recipe, [*ranked, "student.llm=/some/llm"]).model_copy(), *tiny_teacher)
