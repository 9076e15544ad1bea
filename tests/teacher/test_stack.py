import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from teacher.connector import AudioStates
from teacher.stack import EPS, StackConnector


def connector(frames):
    torch.manual_seed(0)
    model = StackConnector(12, 20, frames, 16).eval()
    for norm in (model.norm_pre, model.norm_mid):
        nn.init.normal_(norm.weight, mean=1, std=0.2)
    return model


@settings(max_examples=30)
@given(frames=st.lists(st.integers(1, 60), min_size=1, max_size=4), stacked=st.integers(1, 20))
@torch.no_grad()
def test_a_clip_has_its_tokens_and_does_not_depend_on_the_batch(frames, stacked):
    model, frames_B = connector(stacked), torch.tensor(frames)
    rng = torch.Generator().manual_seed(1)
    states = AudioStates(torch.randn(len(frames), max(frames), 12, generator=rng), frames_B)
    audio_NH, counts = model(states), model.windows(frames_B).tolist()
    assert counts == [max(length // stacked, 1) for length in frames] and audio_NH.shape == (sum(counts), 20)
    clips = states.split()
    for clip, own_NH in zip(clips, audio_NH.split(counts), strict=True):
        torch.testing.assert_close(own_NH, model(clip), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(AudioStates.collate(clips)), audio_NH)


@torch.no_grad()
def test_a_token_is_what_ultravox_makes_of_its_frames():
    model = connector(4)
    states_BTD = torch.randn(1, 10, 12, generator=torch.Generator().manual_seed(1))
    found_NH = model(AudioStates(states_BTD, torch.tensor([10])))
    assert len(found_NH) == 2
    for number, found_H in enumerate(found_NH):
        stacked = torch.cat([states_BTD[0, 4 * number + i] for i in range(4)])
        stacked = stacked / (stacked.square().mean() + EPS).sqrt() * model.norm_pre.weight
        value, gate = (model.linear_1.weight @ stacked).chunk(2)
        inner = value * gate * gate.sigmoid()
        inner = inner / (inner.square().mean() + EPS).sqrt() * model.norm_mid.weight
        torch.testing.assert_close(found_H, model.linear_2.weight @ inner, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_trained_in_its_own_precision(dtype):
    model = connector(4).to(dtype)
    audio_NH = model(AudioStates(torch.randn(2, 9, 12, dtype=torch.bfloat16), torch.tensor([9, 3])))
    assert audio_NH.dtype == dtype
    audio_NH.float().square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
