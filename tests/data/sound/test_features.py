import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.compliance import kaldi
from transformers import WhisperFeatureExtractor

from data.sound.features import fbank, log_mel


@pytest.mark.parametrize("mel_bins", [80, 128])
def test_the_features_are_whispers_at_thirty_seconds(waves, mel_bins):
    mel_BMT, frames_B = log_mel(waves, mel_bins=mel_bins, margin_s=None)
    theirs = WhisperFeatureExtractor(feature_size=mel_bins)(waves, sampling_rate=16_000, return_tensors="pt")
    assert frames_B.tolist() == [3000] * len(waves)
    torch.testing.assert_close(mel_BMT, theirs.input_features, atol=1e-4, rtol=0)


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=4), margin_s=st.sampled_from([0.0, 0.1, None]))
def test_a_clips_features_do_not_depend_on_the_batch(lengths, margin_s):
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=length).astype(np.float32) for length in lengths]
    together, frames_B = log_mel(waves, mel_bins=80, margin_s=margin_s)
    for wave, mel_MT, frames in zip(waves, together, frames_B.tolist(), strict=True):
        alone, own = log_mel([wave], mel_bins=80, margin_s=margin_s)
        assert own.tolist() == [frames]
        assert torch.equal(mel_MT[:, :frames], alone[0])
        assert not mel_MT[:, frames:].any()


def test_frames_are_the_clips_own_length_and_its_margin(waves):
    frames_B = log_mel(waves, mel_bins=80, margin_s=0.1)[1]
    assert frames_B.tolist() == [110, 280, 174]  # 1.00, 2.70 and 1.64 s, and a tenth
    assert log_mel([np.zeros(29_999 * 16 + 100, np.float32)], mel_bins=80, margin_s=1.0)[1].tolist() == [3000]


@pytest.mark.parametrize("reference_padding", [False, True])
def test_filter_banks_are_kaldis(waves, reference_padding):
    fbank_BTF, frames_B = fbank(waves, reference_padding=reference_padding)
    assert fbank_BTF.shape == (3, 268, 128)
    longest = max(map(len, waves))
    for wave, bank_TF, frames in zip(waves, fbank_BTF, frames_B.tolist(), strict=True):
        heard = np.pad(wave, (0, longest - len(wave))) if reference_padding else wave
        options = {"num_mel_bins": 128, "sample_frequency": 16_000, "frame_length": 25, "frame_shift": 10}
        theirs = (kaldi.fbank(torch.from_numpy(heard)[None] * 2**15, **options) - 15.41663) / (2 * 6.55582)
        torch.testing.assert_close(bank_TF[: len(theirs)], theirs, atol=1e-4, rtol=0)
        assert frames == (len(theirs) if not reference_padding else min(-(-len(wave) // (longest // 268)), 268))
        assert reference_padding or not bank_TF[frames:].any()
