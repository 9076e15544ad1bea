"""Sound files of every format, their headers and their samples spoilt."""

import io
import math
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data.sound.audio import MAX_SECONDS, SAMPLE_RATE, load_audio
from data.sound.checks import check_sound
from data.sound.decode import SoundBytes, sound_info
from data.sound.headers import read_header
from tests.conftest import sound
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_bytes

WRITTEN = {
    "wav": [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"),
        ("WAV", "IMA_ADPCM"),
        ("AIFF", "PCM_16"),
        ("AU", "ULAW"),
        ("W64", "PCM_16"),
        ("CAF", "PCM_16"),
    ],
    "flac": [("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    "ogg": [("OGG", "VORBIS"), ("OGG", "OPUS")],
}


def encoded(container: str, codec: str, rate: int) -> bytes:
    """By FFmpeg."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        samples = (sound(0.3, 1)[:: SAMPLE_RATE // rate][None] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = rate
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", rate, frame_size=stream.codec_context.frame_size or 0
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return out.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, list[bytes]]:
    contents = {"mp3": [encoded("mp3", "libmp3lame", 16_000)], "m4a": [encoded("ipod", "aac", 16_000)]}
    for suffix, kinds in WRITTEN.items():
        contents[suffix] = []
        for kind, subtype in kinds:
            out, samples = io.BytesIO(), sound(0.3, 1)
            soundfile.write(
                out,
                np.stack([samples, samples], 1) if subtype == "PCM_24" else samples,
                SAMPLE_RATE,
                format=kind,
                subtype=subtype,
            )
            contents[suffix].append(out.getvalue())
    for suffix, (first, *_) in list(contents.items()):  # joined to one, of one kind and of two
        contents[suffix] += [first * 2, first + contents["flac"][0], first + contents["m4a"][0]]
    return contents


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sounds")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_sounds(folder, files, suffix):
    path = folder / f"clip.{suffix}"

    @inputs(80, share=0.4)
    @given(
        content=spoilt_bytes(files[suffix]),
        end_s=st.sampled_from((0.0, 0.0, 0.1, 1e5)),
        start_s=st.sampled_from((0.0, 0.0, 0.05, 1e4)),
    )
    def hears(content, start_s, end_s):
        path.write_bytes(content)
        header, checked = read_header(path), check_sound(path, decode=True)
        for of in (header, checked):
            assert math.isfinite(of.duration_s) and of.duration_s >= 0
            assert of.fault.isprintable() and len(of.fault) < 300
        assert checked.missing or checked.fault or math.isfinite(checked.peak_mix)
        assert 0 <= checked.clipped <= 1

        def hear():
            info = sound_info(path)
            assert not header.fault and header.duration_s == info.seconds
            assert info.rate > 0 and info.channels > 0 and info.frames >= 0
            samples = load_audio(path, start_s=start_s, end_s=end_s if end_s > start_s else 0.0)
            assert samples.dtype == np.float32 and np.isfinite(samples).all() and samples.any()
            assert SAMPLE_RATE <= len(samples) <= MAX_SECONDS * SAMPLE_RATE
            assert np.array_equal(
                samples,
                load_audio(SoundBytes(content, "clip"), start_s=start_s, end_s=end_s if end_s > start_s else 0.0),
            )

        ends_well(hear, path, "clip: ")

    hears()
