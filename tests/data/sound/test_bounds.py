"""What a sound may be: rates and channels have bounds, and so has a block, whatever a file's header says."""

import io
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr

from data.errors import InputError
from data.sound.audio import SAMPLE_RATE, load_audio
from data.sound.decode import SoundBytes, blocks, sound_info
from data.sound.source import BLOCK_VALUES, MOST_CHANNELS, block_frames
from data.sound.stream import Samples, mono_blocks


def noise(frames, channels=1):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


def given(samples, rate, format="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return SoundBytes(file.getvalue(), "given")


def refusals(sound):
    """What each reader says of a sound."""
    for read in (sound_info, load_audio, lambda sound: list(blocks(sound)), lambda sound: list(mono_blocks(sound))):
        with pytest.raises(InputError) as error:
            read(sound)
        assert "\n" not in str(error.value)
        yield str(error.value)


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS"), ("AU", "PCM_16")])
@pytest.mark.parametrize("channels", [65, 255])
def test_more_channels_than_sounds_have_are_refused(format, subtype, channels):
    for said in refusals(given(noise(4_000, channels), 48_000, format, subtype)):
        assert said.startswith(f"given: {channels} channels; a sound has at most 64")


@pytest.mark.parametrize("rate", [1, 999, 768_001, 655_350_001])
def test_rates_that_no_sound_has_are_refused(rate):
    for said in refusals(given(noise(4_000), rate)):
        assert said.startswith(f"given: {rate:,} samples a second; a sound has 1,000 to 768,000")


def test_a_rate_that_no_sound_has_is_refused_of_ffmpeg_too():
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=900, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 900), 9_000, np.int16), format="s16", layout="mono")
        frame.rate = 900
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for said in refusals(SoundBytes(file.getvalue(), "given")):
        assert "900 samples a second" in said


@pytest.mark.parametrize(
    ("samples", "rate", "complaint"),
    [
        (noise(9), 999, "999 samples a second"),
        (noise(9), 768_001, "768,001 samples a second"),
        (noise(2, 65), 16_000, r"shape \(2, 65\); .*\[frames, channels\], of at most 64"),
        (noise(2, 0), 16_000, r"shape \(2, 0\); .*\[frames, channels\]"),
    ],
)
def test_samples_have_the_same_bounds(samples, rate, complaint):
    with pytest.raises(InputError, match=complaint):
        Samples(samples, rate)


@pytest.mark.parametrize("rate", [1_000, 768_000])
def test_what_sounds_may_have_is_heard(rate):
    sound = given(np.repeat(noise(rate), MOST_CHANNELS, 1)[: rate // 8], rate, subtype="PCM_16")
    expected = soundfile.read(io.BytesIO(sound.getvalue()), dtype="float32")[0]
    found = list(blocks(sound))
    assert max(samples.size for samples, _ in found) <= BLOCK_VALUES
    np.testing.assert_array_equal(np.concatenate([samples for samples, _ in found]), expected)
    expected = soxr.resample(expected[:, 0], rate, SAMPLE_RATE, quality="HQ")
    for heard in (np.concatenate(list(mono_blocks(sound))), load_audio(sound)):
        np.testing.assert_allclose(heard[: len(expected)], expected, atol=1e-6)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 8), (48_000, 1), (192_000, 1), (96_000, 2), (44_100, 6)])
def test_blocks_of_usual_files_are_thirty_seconds(rate, channels):
    assert block_frames(rate, channels) == 30 * rate


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
@pytest.mark.parametrize("values", [8_191, 40_000])
def test_what_is_heard_does_not_depend_on_the_blocks(monkeypatch, rate, format, subtype, values):
    sound = given(noise(3 * rate, 2), rate, format, subtype)
    expected = [np.concatenate(list(mono_blocks(sound, mono))) for mono in ("first", "mix")]
    monkeypatch.setattr("data.sound.source.BLOCK_VALUES", values)
    assert len(list(blocks(sound))) > 1
    for mono, whole in zip(("first", "mix"), expected, strict=True):
        assert np.array_equal(np.concatenate(list(mono_blocks(sound, mono))), whole)


@pytest.mark.parametrize("read", [load_audio, lambda sound: [len(block) for block in mono_blocks(sound)]])
def test_memory_does_not_grow_with_channels(read):
    """Thirty seconds of 48 kHz in 64 channels are 369 MB."""
    sound = given(np.tile(noise(4_800, MOST_CHANNELS), (300, 1)), 48_000, "WAV", "PCM_U8")
    tracemalloc.start()
    try:
        read(sound)
        assert tracemalloc.get_traced_memory()[1] < 3 * 4 * BLOCK_VALUES
    finally:
        tracemalloc.stop()
