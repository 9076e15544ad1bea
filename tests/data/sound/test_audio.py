import io
from contextlib import nullcontext

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.rows.row import Row
from data.sound.audio import SAMPLE_RATE, load_audio, load_clip, resample
from data.sound.decode import SoundBytes, sound_info
from data.sound.headers import read_header


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
    import librosa  # here, as it takes seconds

    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    expected = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    np.testing.assert_array_equal(resample(samples, rate), expected)


def m4a_bytes(samples, rate=SAMPLE_RATE):
    """AAC in an MP4 container, of samples [frames, channels]."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
        stream = container.add_stream("aac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


def test_mp3_and_m4a(tmp_path):
    written(tmp_path / "a.mp3", tone(2.0, 44_100), 44_100)
    (tmp_path / "a.m4a").write_bytes(m4a_bytes(np.stack([tone(2.0, 44_100), tone(2.0, 44_100, 880)], 1), 44_100))
    info = sound_info(tmp_path / "a.m4a")
    assert (info.rate, info.channels, round(info.seconds, 1)) == (44_100, 2, 2.0)
    for name in ("a.mp3", "a.m4a"):
        samples = load_audio(tmp_path / name)
        # A codec may shift the clip by its delay: what is compared is pitch, loudness and length.
        spectrum = np.abs(np.fft.rfft(samples[8_000:24_000]))
        assert abs(len(samples) - 2 * SAMPLE_RATE) < 2_000
        assert spectrum.argmax() == 440 and spectrum[870:890].max() < 0.05 * spectrum.max()
        assert samples[8_000:24_000].std() == pytest.approx(0.5 / 2**0.5, rel=0.05)


def test_an_m4a_with_a_tag_in_another_encoding_is_heard(tmp_path):
    content = m4a_bytes(tone(2.0)[:, None])
    assert content[4:8] == b"ftyp"
    (tmp_path / "a.m4a").write_bytes(content)
    heard = load_audio(tmp_path / "a.m4a")
    (tmp_path / "a.m4a").write_bytes(content[:8] + b"\xe9som" + content[12:])  # the brand, which becomes a tag
    np.testing.assert_array_equal(load_audio(tmp_path / "a.m4a"), heard)


@pytest.mark.parametrize("name", [b"stsd", b"mp4a", b"soun", b"esds", b"stbl"])
def test_an_m4a_whose_codec_is_not_told_is_refused_or_heard(tmp_path, name):
    path = tmp_path / "a.m4a"
    path.write_bytes(m4a_bytes(tone(2.0)[:, None]).replace(name, b"none"))
    header = read_header(path)
    with pytest.raises(InputError, match=r"a\.m4a: ") if header.fault else nullcontext():
        load_audio(path)
    assert header.fault or (header.sample_rate, header.channels) == (16_000, 1)
    assert header.fault or name not in (b"stsd", b"stbl")


@pytest.mark.parametrize("size", [*range(4, 45), 60])
def test_the_beginning_of_a_flac_is_refused(tmp_path, size):
    soundfile.write(tmp_path / "a.flac", tone(1.0), SAMPLE_RATE)
    path = tmp_path / "cut.flac"
    path.write_bytes((tmp_path / "a.flac").read_bytes()[:size])
    with pytest.raises(InputError, match=r"cut\.flac: "):
        load_audio(path)
    assert read_header(path).fault


@pytest.mark.parametrize("at", range(4, 8))
def test_a_flac_whose_first_block_is_another_is_refused(tmp_path, at):
    soundfile.write(tmp_path / "a.flac", tone(1.0), SAMPLE_RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[at] ^= 4
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.flac: "):
        load_audio(tmp_path / "a.flac")


def test_a_cut_m4a_is_refused(tmp_path):
    content = m4a_bytes(tone(2.0)[:, None])
    (tmp_path / "cut.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.m4a: (cannot be read as sound|truncated)"):
        load_audio(tmp_path / "cut.m4a")


@pytest.mark.parametrize("before", [b"", b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)])
def test_an_mp3_that_does_not_count_its_frames(tmp_path, before):
    path = written(tmp_path / "a.mp3", tone(5.0))
    whole, content = load_audio(path), path.read_bytes()
    second = content.index(content[:2], 100)  # the first frame holds no sound but the count
    path.write_bytes(before + content)
    assert b"Xing" in content[:second] and len(load_audio(path)) == len(whole)
    path.write_bytes(before + content[:-2_000])
    with pytest.raises(InputError, match="truncated"):
        load_audio(path)
    path.write_bytes(before + content[second:])
    assert abs(len(load_audio(path)) - len(whole)) < 0.1 * SAMPLE_RATE
    assert sound_info(path).seconds == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a"])
def test_a_clip_inside_a_file(tmp_path, name):
    glide = (0.5 * np.sin(2000 * np.arange(48_000) ** 2 / 48_000**1.5)).astype(np.float32)
    if name == "a.m4a":
        (tmp_path / name).write_bytes(m4a_bytes(glide[:, None]))
    else:
        written(tmp_path / name, glide)
    whole, part = load_audio(tmp_path / name), load_audio(tmp_path / name, start_s=1.25)
    np.testing.assert_array_equal(part, whole[20_000:])
    with pytest.raises(InputError, match="holds no samples"):
        load_audio(tmp_path / name, start_s=60.0)


def test_the_same_from_memory(tmp_path):
    path = written(tmp_path / "a.flac", tone(1.5))
    np.testing.assert_array_equal(load_audio(SoundBytes(path.read_bytes(), "a.flac")), load_audio(path))
    content = m4a_bytes(tone(1.5)[:, None])
    (tmp_path / "a.m4a").write_bytes(content)
    np.testing.assert_array_equal(load_audio(SoundBytes(content, "a.m4a")), load_audio(tmp_path / "a.m4a"))
    with pytest.raises(InputError, match=r"shard\.tar/b\.wav: cannot be read as sound"):
        load_audio(SoundBytes(b"nothing" * 99, "shard.tar/b.wav"))


def test_channels_mixed(tmp_path):
    stereo = np.stack([tone(1.5), tone(1.5, hz=880)], axis=1)
    path = written(tmp_path / "a.wav", stereo, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path, mono="mix"), stereo.mean(1))
    row = Row("a", path, "", "asr", mono="mix", start_s=0.25)
    np.testing.assert_array_equal(load_clip(row), stereo.mean(1)[4_000:])


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


def test_a_stretch_of_a_file(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * SAMPLE_RATE).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    row = Row("one", tmp_path / "long.wav", "", "asr", start_s=1.25, end_s=3.5)
    np.testing.assert_array_equal(load_clip(row), samples[20_000:56_000])
    np.testing.assert_array_equal(load_audio(row.path, end_s=1.5), samples[:24_000])
    np.testing.assert_array_equal(load_audio(row.path, start_s=2.0), samples[32_000:])


def test_sound_on_another_channel_alone_names_the_setting(tmp_path):
    stereo = np.stack([np.zeros(24_000), tone(1.5)], 1).astype(np.float32)
    path = written(tmp_path / "right.wav", stereo, subtype="FLOAT")
    with pytest.raises(InputError, match=r"right\.wav: silent on the first channel alone; .*data\.mono=mix"):
        load_audio(path)
    assert load_audio(path, mono="mix").any()
    opposite = written(tmp_path / "b.wav", np.stack([tone(1.5), -tone(1.5)], 1), subtype="FLOAT")
    with pytest.raises(InputError, match="silent, every sample is zero"):
        load_audio(opposite, mono="mix")


@pytest.mark.parametrize(("samples", "rate"), [(1, 16_000), (160, 16_000), (441, 44_100), (1, 192_000)])
def test_a_click_is_no_clip(tmp_path, samples, rate):
    with pytest.raises(InputError, match=r"ms of sound, less than one frame of 25 ms"):
        load_audio(written(tmp_path / "a.wav", np.full(samples, 0.5), rate))
    assert len(load_audio(written(tmp_path / "a.wav", np.full(-(-rate // 40), 0.5), rate))) == SAMPLE_RATE


@pytest.mark.parametrize("name", ["missing.wav", ""])
def test_missing_file_and_folder(tmp_path, name):
    with pytest.raises(InputError, match="no such sound file"):
        load_audio(tmp_path / name)
