import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.t5.modeling_t5 import T5Attention

from data.sound.features import fbank
from teacher.beats import BeatsEncoder, BeatsSettings, relative_buckets
from tests.released import SIZES


def encoder():
    torch.manual_seed(0)
    model = BeatsEncoder(BeatsSettings(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "grep" in name:
                parameter.normal_()  # as made, every gate is the same
    return model


@settings(max_examples=20)
@given(length=st.integers(1, 300), buckets=st.sampled_from([8, 32, 320]), distance=st.sampled_from([100, 800]))
def test_buckets_are_t5s(length, buckets, distance):
    positions = torch.arange(length)
    theirs = T5Attention._relative_position_bucket(
        positions[None, :] - positions[:, None], bidirectional=True, num_buckets=buckets, max_distance=distance
    )
    assert torch.equal(relative_buckets(length, buckets, distance, torch.device("cpu")), theirs)


@torch.no_grad()
def test_a_clips_states_do_not_depend_on_the_batch(waves):
    model = encoder()
    fbank_BTF, frames_B = fbank(waves)
    states_B = model.frames(frames_B, fbank_BTF.shape[2])
    together = model(fbank_BTF, states_B)
    assert together.shape == (3, int(states_B.max()), 32)
    for wave, states_TD, length in zip(waves, together, states_B.tolist(), strict=True):
        alone_BTF, one = fbank([wave])
        alone = model(alone_BTF, model.frames(one, 128))
        assert alone.shape[1] == length
        torch.testing.assert_close(states_TD[:length], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_gate_scales_the_position_bias_by_the_query(waves):
    model = encoder()
    fbank_BTF, frames_B = fbank(waves[:1])
    states_B = model.frames(frames_B, 128)
    before = model(fbank_BTF, states_B)
    for layer in model.layers:
        layer.self_attn.grep_a.zero_()
    assert (model(fbank_BTF, states_B) - before).abs().max() > 1e-3


def test_a_short_clip_has_whole_patches_only():
    model = encoder()
    assert model.frames(98, 128) == 6 * 8
    assert model.frames(torch.tensor([15, 16, 235]), 128).tolist() == [0, 8, 112]
