import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher.connector import AudioStates, Connector

QFORMER = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32}


def connector(window, stride, sound_width=0):
    torch.manual_seed(0)
    return Connector(12, 20, QFORMER, window, stride, sound_width).eval()


@settings(max_examples=30)
@given(
    frames=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    window=st.integers(1, 20),
    stride=st.integers(1, 20),
    sound=st.sampled_from([None, 0.7, 1.3]),
)
@torch.no_grad()
def test_a_clip_has_its_windows_and_does_not_depend_on_the_batch(frames, window, stride, sound):
    model, frames_B = connector(window, stride, 8 if sound else 0), torch.tensor(frames)
    rng = torch.Generator().manual_seed(1)
    states = AudioStates(torch.randn(len(frames), max(frames), 12, generator=rng), frames_B)
    if sound:
        states.sound_frames_B = (sound * frames_B).ceil().long()
        states.sound_BTD = torch.randn(len(frames), int(states.sound_frames_B.max()), 8, generator=rng)
    audio_NH = model(states)
    counts = model.windows(frames_B).tolist()
    # A window starts wherever one fits whole; a clip shorter than a window has one.
    assert counts == [max(len(range(0, length - window + 1, stride)), 1) for length in frames]
    assert counts == [model.windows(length) for length in frames]
    assert audio_NH.shape == (sum(counts), 20)
    clips = states.split()
    for clip, own_NH in zip(clips, audio_NH.split(counts), strict=True):
        torch.testing.assert_close(own_NH, model(clip), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(AudioStates.collate(clips)), audio_NH)


@torch.no_grad()
def test_a_token_hears_its_own_window_only():
    model = connector(4, 4)
    states_BTD = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(1))
    before_NH = model(AudioStates(states_BTD, torch.tensor([12])))
    states_BTD[0, 5] = states_BTD[0, 5].flip(0)
    changed_N = (model(AudioStates(states_BTD, torch.tensor([12]))) - before_NH).abs().amax(1) > 1e-6
    assert changed_N.tolist() == [False, True, False]
