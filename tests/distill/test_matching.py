"""Feature losses against naive computations, clip by clip and row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from distill.frozen import FrozenTeacher
from distill.matching import FeatureMatching, MatchSettings, between_windows, distance
from distill.objective import Example, Objective
from distill.recipe import KdSettings, LossWeights
from student.shrink import StudentSettings, shrink
from teacher.connector import windows_of
from teacher.processor import Clip, SalmonnProcessor
from teacher.settings import QFormerSettings

STUDENT = StudentSettings(
    encoder_layers=(0, 1),
    llm_layers=(0, 3),
    qformer=QFormerSettings(layers=1, width=32, heads=2, feed_forward=64, dropout=0.0),
    qformer_layers=(0,),
    margin_s=0.1,
)


def rows(number, width, seed):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def test_the_distances_are_those_of_their_definitions():
    own, teacher = rows(9, 4, 0), 3 * rows(9, 4, 1) + 2
    a, b = own.double().numpy(), teacher.double().numpy()
    spread = ((b - b.mean(0)) ** 2).sum(1).mean()
    inner = np.abs(a - b)
    expected = {
        "relative": ((a - b) ** 2).sum() / spread,
        "mse": ((a - b) ** 2).mean(1).sum(),
        "smooth_l1": np.where(inner < 1, inner**2 / 2, inner - 0.5).mean(1).sum(),
        "cosine": sum(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)),
    }
    for kind, value in expected.items():
        assert distance(own, teacher, kind).item() == pytest.approx(value, rel=1e-5), kind
        assert distance(teacher, teacher, kind).item() == pytest.approx(0, abs=1e-5)
        assert distance(own.bfloat16(), teacher, kind).dtype == torch.float32
    mean = teacher.mean(0).expand(9, 4)
    assert distance(mean, teacher, "relative").item() == pytest.approx(9, rel=1e-5)
    assert torch.isfinite(distance(own[:1], teacher[:1], "relative"))


@given(
    frames=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    theirs=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    own=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_tokens_between_windows_are_interpolated_clip_by_clip(frames, theirs, own):
    counts = [windows_of(t, *theirs) for t in frames]
    tokens = rows(sum(counts), 3, sum(frames))
    found = between_windows(tokens, torch.tensor(frames), theirs, own)
    expected = []
    for t, of_clip in zip(frames, tokens.split(counts), strict=True):
        centres, wanted = (np.arange(windows_of(t, *w)) * w[1] + w[0] / 2 for w in (theirs, own))
        expected.append(np.stack([np.interp(wanted, centres, column) for column in of_clip.T.numpy()], 1))
    np.testing.assert_allclose(found.numpy(), np.concatenate(expected), atol=1e-5)
    if theirs == own:
        assert torch.equal(found, tokens)


@pytest.fixture
def models(tiny_teacher):
    """Teacher, its processor, and a student with other weights."""
    teacher, processor = tiny_teacher
    student = shrink(teacher, STUDENT).eval()
    with torch.no_grad():
        for parameter in student.encoder.parameters():
            parameter.add_(0.05 * rows(1, parameter.numel(), 5).view_as(parameter))
    return teacher, processor, student


def batch_of(processor, waves):
    return processor([Clip(wave, "transcribe", "press one") for wave in waves])


def objective_of(teacher, student, losses, **settings):
    matching = FeatureMatching(student, teacher.config, MatchSettings(**settings), losses)
    return Objective(student, KdSettings(), None, FrozenTeacher(teacher), matching)


def test_layers_are_matched_by_pairs(models, waves):
    teacher, processor, student = models
    batch = batch_of(processor, waves)
    pairs = ((0, 1), (1, 0), (-1, -1))
    objective = objective_of(teacher, student, {"encoder"}, encoder="mse", encoder_layers=pairs)
    _, sums = objective(Example(batch), LossWeights(encoder=1), {"frames": 1})

    @torch.no_grad()
    def states(model, layer):
        """Alone, without padding, and without the layers after it."""
        kept = model.encoder.layers[: layer + 1] if layer >= 0 else model.encoder.layers
        outs = []
        for wave in waves:
            features = processor([Clip(wave, "transcribe")]).features
            hidden = torch.nn.functional.gelu(model.encoder.conv1(features.mel_BMT))
            hidden = torch.nn.functional.gelu(model.encoder.conv2(hidden)).transpose(1, 2)
            hidden = hidden + model.encoder.embed_positions.weight[: hidden.shape[1]]
            for one in kept:
                hidden = one(hidden, None)
            outs.append((model.encoder.layer_norm(hidden) if layer == -1 else hidden)[0])
        return torch.cat(outs)

    expected = sum((states(student, a) - states(teacher, b)).square().mean(1).sum() for a, b in pairs) / len(pairs)
    torch.testing.assert_close(sums["encoder"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("windows", [{}, {"window_frames": 12, "window_stride": 5}])
@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine"])
def test_a_batch_costs_what_its_clips_cost_alone(tiny_teacher, waves, kind, windows):
    teacher, processor = tiny_teacher
    student = shrink(teacher, STUDENT.model_copy(update={"encoder_layers": (1,)} | windows)).eval()
    own = SalmonnProcessor(processor.tokenizer, student.config)
    losses = {"encoder", "audio_tokens"}
    objective = objective_of(teacher, student, losses, encoder=kind, audio_tokens=kind, encoder_layers=((0, 1),))
    weights = LossWeights(encoder=1, audio_tokens=1)

    def sums(clips):
        example = Example(batch_of(own, clips))
        assert example.counts(student)["windows"] == int(
            student.connector.windows(example.batch.features.mel_frames_B // 2).sum()
        )
        return objective(example, weights, example.counts(student))[1]

    whole, alone = sums(waves), [sums([wave]) for wave in waves]
    for name in losses:
        torch.testing.assert_close(whole[name], sum(one[name] for one in alone), rtol=1e-4, atol=1e-4)
        assert whole[name] > 0


def test_other_windows_of_the_same_length_are_the_teachers_at_their_times(models, waves):
    teacher, processor, _ = models
    student = shrink(teacher, STUDENT.model_copy(update={"window_stride": 4})).eval()
    objective = objective_of(teacher, student, {"audio_tokens"}, audio_tokens="mse")
    batch = batch_of(SalmonnProcessor(processor.tokenizer, student.config), waves[:1])
    states = student.encode(batch.features)
    _, teacher_NH = objective.matched(Example(batch), states, LossWeights(audio_tokens=1))
    every_other = student.connector(states)[::2]  # the weights are the teacher's
    torch.testing.assert_close(every_other, teacher_NH, atol=1e-4, rtol=1e-4)
    found = objective.matching.audio_tokens(student.connector(states), teacher_NH, states.frames_B)
    between = student.connector(states)[1::2]
    halves = (teacher_NH[:-1] + teacher_NH[1:]) / 2
    expected = (between[: len(halves)] - halves).square().mean(1).sum()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_tokens_of_another_width_are_projected(models, waves):
    teacher, processor, student = models
    student.connector.proj = torch.nn.Linear(32, 24)
    student.config.llm_config.hidden_size = 24
    objective = objective_of(teacher, student, {"audio_tokens"}, audio_tokens="mse")
    batch = batch_of(processor, waves)
    loss, sums = objective(Example(batch), LossWeights(audio_tokens=1), {"windows": 7})
    project = objective.matching.project["audio_tokens"]
    expected = (project(student.audio_tokens(batch)) - teacher.audio_tokens(batch)).square().mean(1).sum()
    torch.testing.assert_close(sums["audio_tokens"], expected.detach())
    loss.backward()
    assert project.weight.grad.any() and student.connector.query.grad.any()
    assert [*objective_of(teacher, student, {"encoder"}).matching.parameters()] == []


def test_a_layer_that_is_not_there_is_refused(models):
    teacher, _, student = models
    for pair, line in (
        ((2, 0), "the student's encoder has no layer 2"),
        ((0, -2), "the teacher's encoder has no layer -2"),
    ):
        with pytest.raises(InputError, match=line):
            FeatureMatching(student, teacher.config, MatchSettings(encoder_layers=(pair,)))
