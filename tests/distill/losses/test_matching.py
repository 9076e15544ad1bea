"""Feature losses against naive computations, clip by clip and row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from distill.losses.distances import Spread, between_windows, distance, mean_of_columns
from distill.losses.matching import FeatureMatching, MatchSettings, TeacherFeatures
from distill.losses.settings import KdSettings, LossWeights
from distill.models.frozen import FrozenTeacher
from distill.training.objective import Example, Objective
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
        assert distance(own, teacher, kind, spread).item() == pytest.approx(value, rel=1e-5), kind
        assert distance(teacher, teacher, kind, spread).item() == pytest.approx(0, abs=1e-5)
        assert distance(own.bfloat16(), teacher, kind, spread).dtype == torch.float32
    mean = teacher.mean(0).expand(9, 4)
    assert distance(mean, teacher, "relative", spread).item() == pytest.approx(9, rel=1e-5)


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), shift=st.floats(-1e3, 1e3))
def test_the_spread_is_of_all_rows_however_they_come(sizes, shift):
    whole = rows(sum(sizes), 4, 3) + shift
    spread = Spread()
    for part in whole.split(sizes):
        spread.add(part)
    naive = (whole.double() - whole.double().mean(0)).square().sum(1).mean().item()
    assert spread.value() == pytest.approx(max(naive, 1e-6), rel=1e-6, abs=1e-6)


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
@pytest.mark.parametrize("kind", ["relative", "mse", "smooth_l1", "cosine"])
def test_a_batch_costs_what_its_clips_cost_alone(tiny_teacher, waves, kind, windows):
    teacher, processor = tiny_teacher
    student = shrink(teacher, STUDENT.model_copy(update={"encoder_layers": (1,)} | windows)).eval()
    own = SalmonnProcessor(processor.tokenizer, student.config)
    losses = {"encoder", "audio_tokens"}
    objective = objective_of(teacher, student, losses, encoder=kind, audio_tokens=kind, encoder_layers=((0, 1),))
    objective.matching.spreads = {"encoder": [3.0], "audio_tokens": [0.5]}
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
    heard = batch_of(processor, waves[:1])
    teacher_NH = objective.matching.answer(teacher, heard, states.frames_B, {"audio_tokens"}, llm=False).audio_NH
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
        ((2, 0), "the student has no layer 2 there"),
        ((0, -2), "the teacher has no layer -2 there"),
    ):
        with pytest.raises(InputError, match=line):
            FeatureMatching(student, teacher.config, MatchSettings(encoder_layers=(pair,)))


def test_hidden_states_are_matched_at_the_supervised_positions(models, waves):
    teacher, processor, student = models
    pairs = ((0, 0), (1, 2), (-1, -1))
    objective = objective_of(teacher, student, {"hidden"}, hidden="mse", hidden_layers=pairs)
    texts = ["press one", "a dog is barking", "hello"]
    clips = [Clip(wave, "transcribe", text) for wave, text in zip(waves, texts, strict=True)]
    batch = processor(clips)
    asked = []
    teacher.llm.get_decoder().register_forward_hook(lambda *_: asked.append(1))
    # The divergence's teacher is asked in the same pass.
    loss, sums = objective(Example(batch), LossWeights(hidden=1, kd=1), {"tokens": 5, "distilled": 5})
    assert asked == [1]

    @torch.no_grad()
    def states(model):
        """Each clip alone, at the positions that predict its text."""
        outs = []
        for clip in clips:
            one = processor([clip])
            hidden = model.llm.get_decoder()(
                inputs_embeds=model.embed(one, model.audio_tokens(one)),
                attention_mask=one.attention_mask_BT,
                output_hidden_states=True,
            ).hidden_states
            length = int((one.labels_BT != -100).sum())
            outs.append([layer[0, -length - 1 : -1] for layer in hidden])
        return [torch.cat(layer) for layer in zip(*outs, strict=True)]

    own, theirs = states(student), states(teacher)  # the embeddings, each layer, the last of them normed
    expected = sum(
        (own[a + 1 if a >= 0 else -1] - theirs[b + 1 if b >= 0 else -1]).square().mean(1).sum() for a, b in pairs[::2]
    )
    with_last = objective_of(teacher, student, {"hidden"}, hidden="mse", hidden_layers=pairs[::2])
    _, found = with_last(Example(batch), LossWeights(hidden=1), {"tokens": 5})
    torch.testing.assert_close(found["hidden"], expected / 2, rtol=1e-3, atol=1e-4)
    assert sums["hidden"] != found["hidden"]
    loss.backward()
    assert student.llm.get_decoder().layers[0].mlp.up_proj.weight.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_layer_learns_to_do_what_a_block_did(tiny_teacher, waves):
    """The student's layer 1 is the teacher's 1, the first of the block 1 and 2, and is to give what 2 gives."""
    teacher, processor = tiny_teacher
    student = shrink(teacher, STUDENT.model_copy(update={"llm_layers": (0, 1, 3)}))
    batch, layers = batch_of(processor, waves), student.llm.get_decoder().layers
    objective = objective_of(teacher, student, {"hidden"}, hidden="mse", hidden_layers=((1, 2),))

    def loss():
        return objective(Example(batch), LossWeights(hidden=1), {"tokens": len(waves)})[0]

    rest = {name: value.clone() for name, value in student.state_dict().items() if ".layers.1." not in name}
    student.requires_grad_(False)
    layers[1].requires_grad_(True)
    optimizer, before = torch.optim.Adam(layers[1].parameters(), lr=3e-3), loss().item()
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert 0 < loss().item() < 0.2 * before
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in rest.items())
    student.requires_grad_(True)
    loss().backward()
    # What comes after the block has no part in it.
    reached = {number for number, layer in enumerate(layers) for p in layer.parameters() if p.grad is not None}
    assert reached == {0, 1}


def test_hidden_states_of_another_width_have_a_projection_for_each_pair(models):
    teacher, _, student = models
    student.config.llm_config.hidden_size = 24
    matching = FeatureMatching(student, teacher.config, MatchSettings(hidden_layers=((0, 0), (-1, -1))), {"hidden"})
    own, theirs = [rows(6, 24, 1), rows(6, 24, 2)], [rows(6, 48, 3), rows(6, 48, 4)]
    matching.spreads = {"hidden": [2.0, 5.0]}
    spreads = zip(own, theirs, (2.0, 5.0), strict=True)
    expected = sum(
        distance(matching.project[f"hidden_{i}"](one), other, "relative", spread)
        for i, (one, other, spread) in enumerate(spreads)
    )
    torch.testing.assert_close(matching.hidden(own, theirs), expected / 2)
    assert set(matching.project) == {"hidden_0", "hidden_1"}


def test_what_beats_hears_is_matched_column_by_column(tiny_salmonn, waves):
    teacher, processor = tiny_salmonn()
    student = shrink(teacher, STUDENT.model_copy(update={"margin_s": 0.05})).eval()
    own = SalmonnProcessor(processor.tokenizer, student.config)
    objective = objective_of(teacher, student, {"beats"}, beats="mse")
    project = objective.matching.project["beats"]
    assert project.weight.shape == (8 * 32, 32)  # 128 bins are eight patches high

    def sums(clips):
        batch, heard = batch_of(own, clips), batch_of(processor, clips)
        columns_B = heard.features.fbank_frames_B // 16
        example = Example(batch, teacher_batch=heard, columns_B=columns_B)
        assert example.counts(student)["columns"] == int(columns_B.sum())
        return objective(example, LossWeights(beats=1), {"columns": 1})

    loss, found = sums(waves)
    alone = [sums([wave])[1]["beats"] for wave in waves]
    torch.testing.assert_close(found["beats"], sum(alone), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        expected = 0.0
        for wave in waves:
            features, heard = own.features([wave]), processor.features([wave])
            states = student.encoder(features.mel_BMT, features.mel_frames_B)[0]
            sound = teacher.beats(heard.fbank_BTF, teacher.beats.frames(heard.fbank_frames_B, 128))[0]
            for column in range(int(heard.fbank_frames_B) // 16):
                mean = states[8 * column : 8 * column + 8].mean(0)
                target = torch.cat([sound[8 * column + patch] for patch in range(8)])
                expected += (project(mean) - target).square().mean()
    torch.testing.assert_close(found["beats"], expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert project.weight.grad.any() and student.encoder.conv1.weight.grad.any()
    assert student.connector.query.grad is None


@torch.no_grad()
def test_past_a_clips_end_no_sound_is_matched(tiny_salmonn, waves):
    """The released BEATs is heard past the end of a clip; the student is not held against that."""
    teacher, processor = tiny_salmonn("teacher.reference_padding=true", "teacher.margin_s=null")
    student = shrink(teacher, STUDENT).eval()
    objective = objective_of(teacher, student, {"beats"}, beats="mse")
    own, heard = batch_of(SalmonnProcessor(processor.tokenizer, student.config), waves), batch_of(processor, waves)
    columns_B = heard.features.fbank_frames_B // 16
    assert columns_B.tolist() == [round(100 * len(wave) / 16_000) // 16 for wave in waves]
    _, sums = objective(Example(own, teacher_batch=heard, columns_B=columns_B), LossWeights(beats=1), {"columns": 1})
    sound_BPD, whole_B = teacher.hear_sounds(heard.features)
    states_BTD = student.encoder(own.features.mel_BMT, own.features.mel_frames_B)
    expected = 0.0
    for states, sound, columns in zip(states_BTD, sound_BPD, columns_B.tolist(), strict=True):
        mean_CD = states[: 8 * columns].view(columns, 8, -1).mean(1)
        target = sound[: 8 * columns].reshape(columns, -1)
        expected += (objective.matching.project["beats"](mean_CD) - target).square().mean(1).sum()
    torch.testing.assert_close(sums["beats"], expected, rtol=1e-4, atol=1e-4)
    assert (whole_B > 8 * columns_B).any()


def test_the_mean_of_each_column():
    states = rows(2 * 11, 3, 0).view(2, 11, 3)
    found = mean_of_columns(states, 4)
    assert found.shape == (2, 2, 3)
    torch.testing.assert_close(found[1, 1], states[1, 4:8].mean(0))


def test_states_that_several_layers_are_held_against_are_moved_once():
    states_BTD = torch.ones(1, 2, 3, dtype=torch.float16)
    first, second = TeacherFeatures(encoder=[states_BTD] * 2).to("cpu").encoder
    assert first is second and first.dtype == torch.float32
