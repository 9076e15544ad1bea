import json

import pytest
import torch

from data.errors import InputError
from distill.bench.encoder import student_encoder
from distill.models.loading import parameter_counts
from distill.models.sizes import operations
from distill.models.students import processor_of, student_of, untrained_student
from distill.recipe.reading import read_recipe
from student.low_rank import lower_rank
from student.neurons import neuron_importance
from student.shrink import set_trainable, shrink
from teacher.low_rank import LowRank, ranks_of
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import Clip
from teacher.settings import LoraSettings
from tests.teacher.test_build import SHAPES

WHOLE = ["student.encoder_layers=[0,1]", "student.llm_layers=null"]


@pytest.fixture
def heard(tiny_teacher, waves):
    """Clips, and the encoder frames of each."""
    return [(tiny_teacher[1]([Clip(wave, "transcribe", "press one") for wave in waves]), torch.tensor([50, 135, 82]))]


def states(model, heard):
    """The encoder's states of the clips' own frames, side by side."""
    batch, frames_B = heard[0]
    out = model.encoder(batch.features.mel_BMT, batch.features.mel_frames_B)
    return torch.cat([one[:length] for one, length in zip(out, frames_B, strict=True)])


def settings(recipe, *overrides):
    return read_recipe(recipe, [*WHOLE, *overrides]).student


@torch.no_grad()
@pytest.mark.parametrize("name", ["self_attn.k_proj", "fc1", "fc2"])
def test_a_layer_keeps_the_principal_directions_of_its_outputs(tiny_recipe, tiny_teacher, heard, name):
    teacher, _ = tiny_teacher
    student = shrink(teacher, settings(tiny_recipe, "student.encoder_rank=5"), heard=heard)
    assert student.config.encoder_ranks == ranks_of(student.encoder) and len(student.config.encoder_ranks) == 2 * 6
    assert set(student.config.encoder_ranks.values()) == {5}
    seen = []
    teacher.encoder.layers[0].get_submodule(name).register_forward_hook(lambda *of: seen.append((of[1][0], of[2])))
    states(teacher, heard)
    given_ND, out_ND = (torch.cat([of[i, :n] for i, n in enumerate(heard[0][1])]).double() for of in seen[0])
    mean = out_ND.mean(0)
    left, sizes, right = torch.linalg.svd(out_ND - mean, full_matrices=False)
    best = mean + left[:, :5] * sizes[:5] @ right[:5]  # nothing of rank 5 is nearer
    own = student.encoder.layers[0].get_submodule(name).double()
    torch.testing.assert_close(own(given_ND), best, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_share_of_the_variance_says_the_rank_of_each_layer(tiny_recipe, tiny_teacher, heard, tmp_path):
    teacher, _ = tiny_teacher
    student, finer = (
        shrink(teacher, settings(tiny_recipe, f"student.encoder_rank={share}"), heard=heard).eval()
        for share in (0.9, 0.97)
    )
    seen = []
    teacher.encoder.layers[1].fc1.register_forward_hook(lambda *of: seen.append(of[2]))
    states(teacher, heard)
    out_ND = torch.cat([seen[0][i, :n] for i, n in enumerate(heard[0][1])]).double()
    parts = torch.linalg.svdvals(out_ND - out_ND.mean(0)).square()
    shares, rank = parts.cumsum(0) / parts.sum(), student.config.encoder_ranks["layers.1.fc1"]
    assert shares[rank - 2] < 0.9 <= shares[rank - 1]
    coarse, fine = (model.config.encoder_ranks for model in (student, finer))
    # At as many directions as there are, nothing would be saved: such a layer stays whole.
    assert all(fine.get(name, 99) >= of for name, of in coarse.items()) and sum(coarse.values()) < 12 * 16
    theirs = states(teacher, heard)
    far, near = ((states(model, heard) - theirs).norm() for model in (student, finer))
    assert 0 < near < far < 0.5 * theirs.norm()
    student.save_pretrained(tmp_path)
    again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.encoder_ranks == coarse and torch.equal(states(again, heard), states(student, heard))


def test_parameters_and_operations_are_those_of_the_factors(tiny_recipe, tiny_teacher, heard):
    teacher, processor = tiny_teacher
    plain, low = (
        student_of(read_recipe(tiny_recipe, [*WHOLE, "student.calibration_clips=4", *more]), *tiny_teacher)
        for more in ([], ["student.encoder_rank=8"])
    )
    saved = 2 * (4 * (32 * 32 - 8 * 64) + 2 * (32 * 64 - 8 * 96)) - 2 * 32  # and a bias of the keys
    assert parameter_counts(plain)["encoder"] - parameter_counts(low)["encoder"] == saved
    own = processor_of(read_recipe(tiny_recipe), low, processor)
    flops = [operations(model.config, own, "transcribe")["encoder"] for model in (plain, low)]
    assert flops[0] - flops[1] == 2 * 505 * (saved + 2 * 32)
    none = shrink(teacher, settings(tiny_recipe, "student.encoder_rank=22"), heard=heard)
    assert none.config.encoder_ranks == {}  # 22 x 64 and 22 x 96 are more than 32 x 32 and 32 x 64


def test_a_student_of_low_rank_is_cut_further(tiny_recipe, tiny_teacher, tmp_path):
    first = ["student.encoder_layers=[0,1]", "student.encoder_rank=10", "student.calibration_clips=4"]
    student = student_of(read_recipe(tiny_recipe, first), *tiny_teacher).eval()
    student.save_pretrained(tmp_path / "model")
    tiny_teacher[1].save_pretrained(tmp_path / "model")
    second = [f"student.base={tmp_path / 'model'}", "student.llm_layers=null", *first[2:]]
    again = student_of(read_recipe(tiny_recipe, [*second, "student.encoder_ffn=20"]), *tiny_teacher)
    assert again.config.encoder_ranks == {
        name.replace("1", "0", 1): 10 for name in student.config.encoder_ranks if name.startswith("layers.1")
    }
    assert again.encoder.layers[0].fc2.down.weight.shape == (10, 20)
    lower = student_of(read_recipe(tiny_recipe, [*second, "student.encoder_rank=4"]), *tiny_teacher)
    assert set(lower.config.encoder_ranks.values()) == {4} and len(lower.config.encoder_ranks) == 6
    same = student_of(read_recipe(tiny_recipe, [*second, "student.encoder_rank=12"]), *tiny_teacher)
    assert set(same.config.encoder_ranks.values()) == {10}


def test_its_factors_may_have_lora(tiny_recipe, tiny_teacher, heard, tmp_path):
    lora = {"encoder": LoraSettings(r=2, lora_dropout=0.0, target_modules=("q_proj", "fc2"))}
    low = settings(tiny_recipe, "student.encoder_rank=8")
    plain = shrink(tiny_teacher[0], low, heard=heard).eval()
    student = shrink(tiny_teacher[0], low.model_copy(update={"part_lora": lora}), heard=heard).eval()
    assert torch.equal(states(student, heard), states(plain, heard))
    set_trainable(student, {"encoder"})
    names = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert len(names) == 2 * 2 * 2 * 2 and "encoder.layers.1.fc2.up.lora_A.default.weight" in names
    with torch.no_grad():
        for name in names:
            student.get_parameter(name).normal_(std=0.3)
        adapted = states(student, heard)
        assert not torch.allclose(adapted, states(plain, heard), atol=1e-2)
        student.save_pretrained(tmp_path)
        again = SalmonnForConditionalGeneration.from_pretrained(tmp_path).eval()
        assert torch.equal(states(again, heard), adapted)
        merge_lora(again)
        assert (
            isinstance(again.encoder.layers[0].fc2, LowRank) and type(again.encoder.layers[0].fc2.up) is torch.nn.Linear
        )
        torch.testing.assert_close(states(again, heard), adapted, atol=1e-4, rtol=1e-4)
    norms = neuron_importance(again, heard, {"encoder"})["encoder"]
    assert norms.shape == (2, 64) and bool((norms > 0).all())


def test_at_random_weights_a_rank_says_the_shape_and_a_share_is_refused(tiny_recipe):
    random = ["teacher.random_weights=true", "teacher.weights=null", f"teacher.shapes={json.dumps(SHAPES)}"]
    random += ["student.encoder_layers=[0]", "student.llm_layers=[0]"]
    recipe = read_recipe(tiny_recipe, [*random, "student.encoder_rank=6"])
    model, _ = untrained_student(recipe)
    assert set(model.config.encoder_ranks.values()) == {6}
    assert ranks_of(student_encoder(recipe)) == model.config.encoder_ranks
    with pytest.raises(InputError, match=r"student.encoder_rank: a share of the variance takes weights; name a rank"):
        untrained_student(read_recipe(tiny_recipe, [*random, "student.encoder_rank=0.9"]))


def test_silence_has_no_directions(tiny_teacher, heard):
    encoder = tiny_teacher[0].encoder.eval()
    with torch.no_grad():
        encoder.layers[0].fc1.weight.zero_()
    lower_rank(encoder, 0.99, heard)
    assert encoder.layers[0].fc1.rank == 1 and states(tiny_teacher[0], heard).isfinite().all()
