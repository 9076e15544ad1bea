"""The run-time's own arithmetic, against what the models are trained with."""

import json

import numpy as np
import pytest
import soundfile
import soxr

from data.sound.features import log_mel, mel_filters
from student.device import run
from student.use import guards
from student.use.stretches import windows


@pytest.mark.parametrize("margin_s", [0.1, None])
@pytest.mark.parametrize("bins", [80, 128])
def test_the_log_mel_is_that_of_training(waves, margin_s, bins):
    for wave in waves:
        expected, frames = log_mel([wave], mel_bins=bins, margin_s=margin_s)
        found = run.log_mel(wave, mel_filters(bins).numpy(), margin_s)
        assert found.shape == (bins, frames[0]) and found.dtype == np.float32
        assert np.abs(found - expected[0].numpy()).max() < 2e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_is_close_to_a_better_one_and_the_same_in_parts(rate):
    time = np.arange(3 * rate) / rate
    wave = sum(np.sin(2 * np.pi * pitch * time + pitch) for pitch in (110, 997, 3100)).astype(np.float32) / 3
    expected = soxr.resample(wave, rate, run.RATE, quality="VHQ")
    whole = np.concatenate(list(run.resampled(iter([wave]), rate)))
    parts = np.concatenate(list(run.resampled(iter(np.array_split(wave, 7)), rate)))
    assert len(whole) == len(expected) and np.array_equal(whole, parts)
    inside = slice(800, -800)  # at its ends a sound begins and ends at once, which each resampler takes in its own way
    assert np.abs(whole - expected)[inside].max() < 2e-3


def test_what_is_above_the_band_does_not_come_back_below_it():
    time = np.arange(44_100) / 44_100
    found = np.concatenate(list(run.resampled(iter([np.sin(2 * np.pi * 11_000 * time).astype(np.float32)]), 44_100)))
    assert np.abs(found[800:-800]).max() < 1e-3


@pytest.mark.parametrize("seconds", [0.5, 2.0, 2.1, 3.9, 4.0, 9.7])
def test_windows_are_those_of_the_model_in_pytorch(seconds):
    wave = np.random.default_rng(0).normal(size=int(seconds * run.RATE)).astype(np.float32)
    expected = list(windows(iter(np.array_split(wave, 5)), 2.0))
    found = list(run.stretches(iter(np.array_split(wave, 5)), 2.0, speech=False))
    assert [start for start, _ in found] == [stretch.start_s for stretch in expected]
    assert np.array_equal(np.concatenate([part for _, part in found]), wave)


def test_speech_is_cut_where_it_is_quiet():
    wave = np.random.default_rng(0).normal(size=5 * run.RATE).astype(np.float32)
    wave[int(1.5 * run.RATE) : int(1.8 * run.RATE)] = 0
    (first, head), (second, _), *_ = run.stretches(iter([wave]), 2.0, speech=True)
    assert first == 0 and len(head) / run.RATE == second and 1.5 < second < 1.8


@pytest.mark.parametrize("ids", [[1, 2, 3], [5] * 13, [1, 2] * 9, [*range(50), *[7, 8, 9] * 5], [1, 1, 2] * 4])
def test_circles_are_found_as_in_pytorch(ids):
    assert run.circling(ids) == guards.circling(ids)


def test_a_sound_is_read_as_one_channel(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, size=(run.RATE, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, run.RATE, subtype="FLOAT")
    first, mixed = (np.concatenate(list(run.read_sound(str(tmp_path / "a.wav"), mix))) for mix in (False, True))
    assert np.array_equal(first, samples[:, 0]) and np.allclose(mixed, samples.mean(1), atol=1e-7)


def test_what_is_no_sound_and_no_package_is_told_in_a_line(tmp_path):
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(run.InputError, match=r"a\.wav: no sound"):
        list(run.read_sound(str(tmp_path / "a.wav"), False))
    (tmp_path / "settings.json").write_text(json.dumps({}))
    with pytest.raises(run.InputError, match="no device package"):
        run.DeviceLM(tmp_path)
