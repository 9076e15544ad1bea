import numpy as np
import pytest
import soundfile
import torch

from data.errors import InputError
from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from student.ranking import angles, block_distances, least_needed
from teacher.processor import Clip


def turned(*degrees):
    """States that each layer turns by so many degrees."""
    angles = torch.tensor([0.0, *degrees]).cumsum(0).deg2rad()
    return [torch.stack([angle.cos(), angle.sin()]).expand(5, 2) * (1 + i) for i, angle in enumerate(angles)]


def test_the_angle_of_each_block():
    states = turned(30, 10, 60, 5)
    for length, degrees in ((1, [30, 10, 60, 5.0]), (2, [40, 70, 65.0]), (4, [105.0])):
        found = angles(states, length)
        assert found.shape == (5 - length, 5)
        torch.testing.assert_close(found.mean(1).rad2deg(), torch.tensor(degrees), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("distances", "layers", "kept"),
    [
        ([31, 34, 9, 45, 42], 6, (0, 1, 4, 5)),
        ([1, 34, 35, 45, 2], 6, (0, 3, 4, 5)),  # first and last stay
        ([1, 40, 2], 6, (0, 5)),
        ([11, 6], 3, (0,)),
        ([6, 11], 3, (2,)),
    ],
)
def test_the_block_that_turns_least_goes(distances, layers, kept):
    assert least_needed(torch.tensor(distances), layers) == kept


def test_the_distances_are_those_of_the_states_between_the_layers(tiny_teacher, waves):
    model, processor = tiny_teacher
    batch = processor([Clip(wave, "transcribe", "press one") for wave in waves])
    frames_B = torch.tensor([20, 90, 41])
    found = block_distances(model, [(batch, frames_B), (batch, frames_B)], {"encoder": 2, "llm": 1})
    with torch.no_grad():
        hidden = model.llm.get_decoder()(
            inputs_embeds=model.embed(batch, model.audio_tokens(batch)),
            attention_mask=batch.attention_mask_BT,
            output_hidden_states=True,
        ).hidden_states
    rows_N = batch.rows_N
    for layer in range(3):  # the last state of `hidden_states` is normed
        before, after = (hidden[i].flatten(0, 1)[rows_N] for i in (layer, layer + 1))
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
        torch.testing.assert_close(found["llm"][layer], cosine.arccos().mean() / torch.pi)
    assert found["llm"].shape == (4,) and found["encoder"].shape == (1,)
    other = block_distances(model, [(batch, torch.tensor([1, 1, 1]))], {"encoder": 2})
    assert other["encoder"] != found["encoder"] and "llm" not in other


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
    even = student_of(read_recipe(tiny_recipe, ["student.llm_layers=2", "student.layer_choice=even"]), *tiny_teacher)
    assert torch.equal(even.llm.get_decoder().layers[1].mlp.up_proj.weight, theirs[3])
    with pytest.raises(InputError, match="llm_layers: 40 layers of 4 cannot be kept"):
        student_of(read_recipe(tiny_recipe, [*ranked, "student.llm_layers=40"]), *tiny_teacher)
    with pytest.raises(InputError, match="layers of another LLM cannot be ranked"):
        student_of(read_recipe(tiny_recipe, [*ranked, "student.llm=/some/llm"]).model_copy(), *tiny_teacher)


def test_clips_that_cannot_be_read_do_not_stop_the_ranking(tiny_recipe, tiny_teacher, own_data):
    soundfile.write(own_data / "sounds" / "train_0.wav", np.zeros(16_000), 16_000)  # silent
    ranked = ["student.layer_choice=ranked", "student.llm_layers=3", "student.calibration_clips=12"]
    assert student_of(read_recipe(tiny_recipe, ranked), *tiny_teacher).config.llm_config.num_hidden_layers == 3
