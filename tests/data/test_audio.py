import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data.audio import SAMPLE_RATE, load_audio, resample
from data.errors import InputError


def tone(seconds, rate=SAMPLE_RATE, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(path, samples, rate=SAMPLE_RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def test_float32_mono_16_khz(tmp_path):
    samples = load_audio(written(tmp_path / "a.wav", tone(2.0), subtype="FLOAT"))
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, tone(2.0))


@pytest.mark.parametrize(("name", "rate"), [("a.flac", 44_100), ("a.wav", 8_000), ("a.ogg", 48_000)])
def test_resampled_from_any_rate_and_format(tmp_path, name, rate):
    samples = load_audio(written(tmp_path / name, tone(2.0, rate), rate))
    assert len(samples) == 2 * SAMPLE_RATE
    inner = slice(2000, -2000)
    assert np.abs(samples[inner] - tone(2.0)[inner]).max() < 0.03


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]), st.integers(1, 5_000))
def test_resamples_as_librosa(rate, count):
    librosa = pytest.importorskip("librosa")
    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    expected = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    np.testing.assert_array_equal(resample(samples, rate), expected)


def test_first_channel_of_several(tmp_path):
    stereo = np.stack([tone(1.5), tone(1.5, hz=880)], axis=1)
    np.testing.assert_array_equal(load_audio(written(tmp_path / "a.wav", stereo, subtype="FLOAT")), tone(1.5))


def test_eight_channels_at_96_khz(tmp_path):
    eight = np.stack([tone(1.5, 96_000, hz=440.0 * (1 + channel)) for channel in range(8)], axis=1)
    samples = load_audio(written(tmp_path / "a.wav", eight, 96_000, subtype="FLOAT"))
    assert len(samples) == 24_000
    assert np.abs(samples[2000:-2000] - tone(1.5)[2000:-2000]).max() < 0.01


def test_short_is_padded_to_a_second_and_long_cut_to_thirty(tmp_path):
    short = load_audio(written(tmp_path / "short.wav", tone(0.25)))
    assert len(short) == SAMPLE_RATE and not short[SAMPLE_RATE // 4 :].any()
    assert len(load_audio(written(tmp_path / "long.wav", tone(31.0, 8_000), 8_000))) == 30 * SAMPLE_RATE


def flac_bytes():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), SAMPLE_RATE, format="FLAC")
    return buffer.getvalue()


def wav_bytes(samples, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.wav", b"", "empty"),
        ("text.wav", b"this is not a sound file at all\n" * 20, "cannot be read as sound"),
        ("cut.wav", wav_bytes(tone(2.0))[:20_000], "truncated"),
        ("cut.flac", flac_bytes()[:20_000], "cannot be read as sound|truncated"),
        ("header.wav", wav_bytes(tone(0.0)), "no samples"),
        ("silent.wav", wav_bytes(np.zeros(20_000)), "silent"),
        ("nan.wav", wav_bytes(np.array([0.1, np.nan] * 9_000), subtype="FLOAT"), "NaN"),
        ("inf.wav", wav_bytes(np.array([0.1, np.inf] * 9_000), subtype="FLOAT"), "NaN or infinite"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        load_audio(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.wav", ""])
def test_missing_file_and_folder(tmp_path, name):
    with pytest.raises(InputError, match="no such sound file"):
        load_audio(tmp_path / name)
