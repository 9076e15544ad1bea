"""Sounds of any length, block after block, against what a short clip is heard as."""

import numpy as np
import pytest
import soundfile

from data.errors import InputError
from data.sound.audio import load_audio, resample
from data.sound.stream import Samples, mono_blocks, seconds_of


def heard(sound, **options) -> np.ndarray:
    return np.concatenate(list(mono_blocks(sound, **options)))


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_sound_in_blocks_is_the_one_that_is_decoded_whole(tmp_path, rate):
    samples = np.random.default_rng(0).normal(scale=0.1, size=(int(65.3 * rate), 2)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, rate, subtype="PCM_16")
    stored = soundfile.read(tmp_path / "long.wav", dtype="float32")[0]
    found = heard(tmp_path / "long.wav")
    np.testing.assert_allclose(found, resample(stored[:, 0], rate), atol=1e-6)
    np.testing.assert_allclose(heard(Samples(stored, rate)), found, atol=1e-6)
    assert seconds_of(tmp_path / "long.wav") == pytest.approx(65.3) == len(found) / 16_000
    mixed = heard(tmp_path / "long.wav", mono="mix")
    np.testing.assert_allclose(mixed, resample(stored.mean(1), rate), atol=1e-6)


def test_a_clip_is_what_the_models_were_trained_on(tiny_data):
    path = tiny_data / "sounds" / "train_2.wav"
    np.testing.assert_array_equal(heard(path), load_audio(path))


def test_integers_are_brought_to_full_scale():
    found = heard(Samples(np.full(16_000, -(2**14), np.int16), 16_000))
    assert found.dtype == np.float32 and np.all(found == -0.5)


def test_silence_is_no_fault():
    assert not heard(Samples(np.zeros(32_000), 16_000)).any()


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (np.zeros(0), "less than one frame"),
        (np.full(16_000, np.nan), "NaN"),
        (np.stack([np.zeros(16_000), np.ones(16_000)], 1), "silent on the first channel alone"),
    ],
)
def test_what_is_no_sound_is_named(samples, complaint):
    with pytest.raises(InputError, match=complaint):
        heard(Samples(samples, 16_000, "the call"))


@pytest.mark.parametrize(
    "given", [(np.zeros((2, 2, 2)), 16_000), (np.zeros(9, np.uint8), 16_000), (np.zeros(9), 0)], ids=str
)
def test_samples_of_another_kind_are_refused(given):
    with pytest.raises(InputError):
        Samples(*given)
