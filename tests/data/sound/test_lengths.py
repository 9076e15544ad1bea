"""Headers that lie, or that do not know: what is there is heard, and what breaks off is refused."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from data.errors import InputError
from data.sound.decode import SoundBytes, blocks, sound_info
from data.sound.flac import flac_parts
from data.sound.source import Probe

RATE = 16_000


def noise(seconds, seed=0, rate=RATE):
    times = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2765 * times) + 0.02 * np.random.default_rng(seed).standard_normal(len(times))).astype("f4")


def content(samples, format, rate=RATE, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, **options)
    return file.getvalue()


def heard(sound, **stretch):
    return np.concatenate([part[:, 0] for part, _ in blocks(sound, **stretch)] or [np.zeros(0, np.float32)])


def both(given):
    """What a file of these bytes is heard as; its header says the same length, from a disk and from memory."""
    sound = SoundBytes(given, "given")
    samples = heard(sound)
    assert sound_info(sound).frames == len(samples)
    return samples


# wav

WAV = content(noise(1.0), "WAV", subtype="PCM_16")
SAMPLES = WAV[44:]


def wav(riff, data, samples=SAMPLES, behind=b""):
    return WAV[:4] + struct.pack("<I", riff) + WAV[8:40] + struct.pack("<I", data) + samples + behind


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0, 0),  # ffmpeg's muxer without a seek, older
        (36, 0),  # Python's wave, of a file that was not closed
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0x7FFFF024, 0x7FFFF000),  # SoX
        (0x80000024, 0x80000000),  # arecord
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (36 + len(SAMPLES), 0xFFFFFFFF),
        (len(WAV), len(SAMPLES)),
        (7, len(SAMPLES)),
        (37 + len(SAMPLES), len(SAMPLES) + 1),  # a byte that fills up, counted and not there
    ],
)
def test_a_wav_from_a_pipe_is_heard_whole(riff, data, tmp_path):
    np.testing.assert_array_equal(both(wav(riff, data)), heard(SoundBytes(WAV, "whole")))
    (tmp_path / "a.wav").write_bytes(wav(riff, data))
    np.testing.assert_array_equal(heard(tmp_path / "a.wav", start_s=0.25), heard(SoundBytes(WAV, ""))[4_000:])


def test_a_wav_that_breaks_off_is_refused_and_an_empty_one_is_empty():
    for cut in (3, 100, 20_000):
        for act in (sound_info, heard):
            with pytest.raises(InputError, match="truncated"):
                act(SoundBytes(WAV[:-cut], "cut"))
    assert not len(both(wav(36, 0, b"")))
    assert not len(both(wav(56, 0, b"", b"LIST" + struct.pack("<I", 12) + b"INFOabcdefgh")))
    listed = wav(56 + len(SAMPLES), len(SAMPLES), behind=b"LIST" + struct.pack("<I", 12) + b"INFOabcdefgh")
    assert len(both(listed)) == RATE


@pytest.mark.parametrize("stated", [0, (1 << 64) - 1])
def test_an_rf64_of_unknown_length(stated):
    whole = content(noise(1.0), "RF64")
    at = whole.index(b"ds64") + 8
    given = whole[:at] + struct.pack("<3Q", stated, stated, stated) + whole[at + 24 :]
    np.testing.assert_array_equal(both(given), heard(SoundBytes(whole, "")))
    with pytest.raises(InputError, match="truncated"):
        sound_info(SoundBytes(whole[:-500], "cut"))


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "FLAC"])
@pytest.mark.parametrize("seconds", [(1.0, 3.0), (3.0, 1.0), (1.5, 1.5), (0.5, 1.0, 0.5)])
def test_files_that_were_joined_are_all_heard(format, seconds, tmp_path):
    parts = [content(noise(of, seed), format) for seed, of in enumerate(seconds)]
    expected = np.concatenate([heard(SoundBytes(part, "")) for part in parts])
    np.testing.assert_array_equal(both(b"".join(parts)), expected)
    (tmp_path / "a").write_bytes(b"".join(parts))
    for start_s, length in ((0.25, 1.0), (1.25, None), (0.0, 1.0)):
        first = round(start_s * RATE)
        end = len(expected) if length is None else first + round(length * RATE)
        np.testing.assert_array_equal(heard(tmp_path / "a", start_s=start_s, seconds=length), expected[first:end])


def test_joined_files_of_different_rates_are_refused():
    with pytest.raises(InputError, match="other rates or channels joined"):
        sound_info(SoundBytes(WAV + content(noise(1.0, rate=8_000), "WAV", 8_000), "two"))


@pytest.mark.parametrize("format", ["AIFF", "AU", "CAF", "W64"])
def test_other_formats_that_break_off_are_refused(format):
    whole = content(noise(1.0), format)
    assert len(both(whole)) == RATE
    with pytest.raises(InputError, match="truncated"):
        sound_info(SoundBytes(whole[:-500], "cut"))


# flac and ogg

FLAC = content(noise(6.0), "FLAC")


def flac(total):
    return FLAC[:21] + bytes([FLAC[21] & 0xF0]) + struct.pack(">I", total) + FLAC[26:]


def test_a_flac_of_unknown_or_wrong_length_is_heard_whole():
    whole = heard(SoundBytes(FLAC, ""))
    for total in (0, 1_000, len(whole)):
        np.testing.assert_array_equal(both(flac(total)), whole)
    tagged = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256) + FLAC
    np.testing.assert_array_equal(both(tagged), whole)


@pytest.mark.parametrize("given", [FLAC[: len(FLAC) // 2], flac(0)[: len(FLAC) // 2], flac(960_000), FLAC[:-200]])
def test_a_flac_that_breaks_off_is_refused(given):
    with pytest.raises(InputError, match=r"truncated|cannot be read as sound"):
        heard(SoundBytes(given, "cut"))


@pytest.mark.parametrize("samples", [noise(1.0), noise(30.0), np.zeros(80_000), np.arange(7) / 9], ids=len)
def test_a_flac_that_is_right_is_read_as_it_is(samples):
    (part,) = flac_parts(Probe(SoundBytes(content(samples, "FLAC"), "")))
    assert not part.head


def test_half_a_flac_is_known_by_its_header():
    with pytest.raises(InputError, match="truncated"):
        sound_info(SoundBytes(content(noise(30.0), "FLAC")[:300_000], "cut"))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_oggs_joined_are_heard_and_one_that_breaks_off_is_refused(subtype):
    parts = [content(noise(of), "OGG", subtype=subtype) for of in (1.0, 2.0)]
    assert len(both(parts[0])) == RATE
    together = SoundBytes(b"".join(parts), "both")
    assert sound_info(together).seconds == pytest.approx(3.0, abs=0.05)
    assert len(heard(together)) == sound_info(together).frames
    with pytest.raises(InputError, match="truncated"):
        sound_info(SoundBytes(parts[1][:-1_000], "cut"))


# mp3 and m4a

MP3 = content(noise(6.0), "MP3")
TAG = MP3.index(b"Xing")
SECOND = MP3.index(MP3[:2], 100)
ID3 = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)


def untagged(given):
    return given[given.index(given[:2], 100) :]


def tagged(frames):
    return MP3[: TAG + 8] + struct.pack(">I", frames) + MP3[TAG + 12 :]


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        (MP3, 96_000),
        (ID3 + MP3, 96_000),
        (ID3 + ID3 + MP3, 96_000),
        (ID3[:6] + bytes([0, 0, 0x7F, 0x7F]) + bytes(300) + MP3, 96_000),
        (ID3[:6] + bytes([0x7F, 0x7F, 0x7F, 0x7F]) + MP3, 96_000),
        (ID3[:6] + bytes([0, 0, 0x27, 0x11]) + bytes(300) + MP3[SECOND:], 96_000),
        (MP3 + b"TAG" + bytes(125), 96_000),
        (MP3 + bytes(3_000), 96_000),
        (tagged(0), 96_000),
        (tagged(40), 96_000),
        (tagged(50_000), 96_000),
        (MP3[SECOND:], 96_000),
        (ID3 + MP3[SECOND:], 96_000),
        (bytes(1_500) + MP3, 96_000),
        (content(noise(2.0), "MP3") + MP3, 128_000),
        (content(noise(2.0), "MP3") + ID3 + MP3, 128_000),
        (MP3 * 3, 288_000),
    ],
)
def test_an_mp3_is_heard_whole_whatever_its_tag_counts(given, samples, tmp_path):
    assert len(both(given)) == pytest.approx(samples, abs=5_000)
    (tmp_path / "a.mp3").write_bytes(given)
    assert sound_info(tmp_path / "a.mp3").frames == sound_info(SoundBytes(given, "")).frames


@pytest.mark.parametrize("cut", [10, 2_000, 12_000])
def test_an_mp3_that_breaks_off_is_refused(cut):
    for given in (MP3[:-cut], ID3 + MP3[:-cut]):
        for act in (sound_info, heard):
            with pytest.raises(InputError, match="truncated"):
                act(SoundBytes(given, "cut"))


@pytest.mark.parametrize("given", [b"no sound at all, " * 100, ID3, b"\xff" * 9_000], ids=["text", "tag", "ones"])
def test_what_is_called_an_mp3_and_is_none_is_refused(given, tmp_path):
    (tmp_path / "a.mp3").write_bytes(given)
    with pytest.raises(InputError, match=r"a\.mp3: cannot be read as sound \(Format not recognised\)"):
        sound_info(tmp_path / "a.mp3")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_the_tag_counts_what_is_decoded(rate, channels):
    samples = np.stack([noise(2.0, seed, rate) for seed in range(channels)], 1)
    given = content(samples, "MP3", rate)
    info = sound_info(SoundBytes(given, ""))
    assert (info.frames, info.rate, info.channels) == (2 * rate, rate, channels)
    assert len(both(given)) == 2 * rate


def encoded(samples, rate, format, codec, **options):
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_ffmpegs_mp3_of_one_channel_that_breaks_off_is_refused(rate):
    """Its tag's checksum is none that LAME knows."""
    given = encoded(noise(6.0, rate=rate), rate, "mp3", "libmp3lame")
    assert len(both(given)) == pytest.approx(6 * rate, abs=5_000)
    for cut in (100, len(given) // 2):
        for act in (sound_info, heard):
            with pytest.raises(InputError, match="truncated"):
                act(SoundBytes(given[:-cut], "cut"))


@pytest.mark.parametrize(
    ("rate", "channels", "seconds"), [(22_050, 1, 6.0), (48_000, 1, 6.0), (16_000, 2, 6.0), (8_000, 1, 40.0)]
)
def test_mp3s_of_other_rates_or_channels_joined_are_refused(rate, channels, seconds):
    samples = np.stack([noise(seconds, seed, rate) for seed in range(channels)], 1)
    for given in (MP3 + content(samples, "MP3", rate), untagged(MP3) + untagged(content(samples, "MP3", rate))):
        for act in (sound_info, heard):
            with pytest.raises(InputError, match="other rates or channels joined"):
                act(SoundBytes(given, "joined"))


LONG = noise(40.0, rate=44_100)
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}


@pytest.mark.parametrize(
    "given",
    [
        content(LONG, "MP3", 44_100),
        content(LONG, "MP3", 44_100, bitrate_mode="CONSTANT"),
        content(LONG, "MP3", 44_100, bitrate_mode="VARIABLE"),
        untagged(content(LONG, "MP3", 44_100)),
        content(LONG[: 44_100 * 5], "MP3", 44_100) + content(LONG, "MP3", 44_100),
        encoded(LONG, 44_100, "mp4", "aac"),
        encoded(LONG, 44_100, "mp4", "aac", **FRAGMENTS),
    ],
    ids=["mp3", "constant", "variable", "untagged", "joined", "m4a", "fragments"],
)
def test_a_stretch_of_a_long_file_is_that_of_the_whole(given):
    sound = SoundBytes(given, "long")
    whole, rate = heard(sound), sound_info(sound).rate
    for start_s, seconds in ((0.5, 1.0), (2.0001, 1.0), (17.3, 0.5), (31.7, None), (100.0, 1.0)):
        first = round(start_s * rate)
        end = len(whole) if seconds is None else first + round(seconds * rate)
        np.testing.assert_array_equal(heard(sound, start_s=start_s, seconds=seconds), whole[first:end])


def test_a_stretch_is_sought_and_not_decoded_from_the_beginning(monkeypatch):
    given, decoded = SoundBytes(encoded(LONG, 44_100, "mp4", "aac"), "long"), []
    plain = av.AudioResampler

    class Counting:
        def __init__(self, format):
            self.of = plain(format=format)

        def resample(self, frame):
            decoded.append(frame.samples)
            return self.of.resample(frame)

    monkeypatch.setattr("av.AudioResampler", Counting)
    heard(given, start_s=31.0, seconds=1.0)
    assert 0 < sum(decoded) < 4 * 44_100


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_integers_written_as_floats_are_named(subtype):
    given = SoundBytes(content(noise(1.0) * 20_000, "WAV", subtype=subtype), "loud.wav")
    with pytest.raises(InputError, match=r"loud\.wav: samples go up to .*, where 1 is full scale"):
        heard(given)
    assert len(both(content(noise(1.0) * 4, "WAV", subtype=subtype))) == RATE
