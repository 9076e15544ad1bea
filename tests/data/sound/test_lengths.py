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
from data.sound.lengths import require_one_m4a
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


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


INFO = b"INFO" + chunk(b"ISFT", b"a program") + chunk(b"ICMT", b"words")
BEHIND = {
    "LIST": chunk(b"LIST", INFO),
    "id3": chunk(b"id3 ", b"ID3\4" + bytes(5_000)),
    "bext": chunk(b"bext", b"what it is".ljust(602, b"\0")),
    "cue": chunk(b"cue ", bytes(28)),
    "odd": chunk(b"LIST", INFO + b"x"),
    "no pad": chunk(b"LIST", INFO + b"x")[:-1],
    "several": chunk(b"bext", bytes(603)) + chunk(b"LIST", INFO) + chunk(b"_PMX", b"<x/>"),
    "empty": chunk(b"PAD ", b""),
    "a picture": chunk(b"id3 ", b"ID3\4" + np.random.default_rng(0).bytes(300_000)),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF, 0x7FFFF000, len(SAMPLES)])
@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES[:2], bytes(3_200)], ids=["tone", "one", "silence"])
def test_chunks_behind_the_samples_of_a_streamed_wav_are_not_heard(stated, behind, samples):
    stated = len(samples) if stated == len(SAMPLES) else stated
    expected = np.frombuffer(samples, "<i2") / np.float32(32768)
    np.testing.assert_array_equal(both(wav(stated, stated, samples, behind)), expected)


def test_chunks_behind_the_samples_of_a_streamed_rifx_are_not_heard():
    whole = content(noise(1.0), "WAV", endian="BIG")
    chunks = b"LIST" + struct.pack(">I", 20) + b"INFOISFT" + struct.pack(">I", 8) + b"program\0"
    given = whole[:40] + bytes(4) + whole[44:] + chunks
    np.testing.assert_array_equal(both(given), heard(SoundBytes(whole, "")))


@pytest.mark.parametrize("first", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("second", [0xFFFFFFFF, len(SAMPLES)])
def test_wavs_joined_that_do_not_know_their_lengths_are_all_heard(first, second):
    expected = np.tile(heard(SoundBytes(WAV, "")), 3)
    for behind in (b"", BEHIND["LIST"]):
        given = wav(first, first, behind=behind) + wav(second, second, behind=behind) + wav(first, first, behind=behind)
        np.testing.assert_array_equal(both(given), expected)


@pytest.mark.parametrize("stated", [0, (1 << 64) - 1])
def test_an_rf64_of_unknown_length(stated):
    whole = content(noise(1.0), "RF64")
    at = whole.index(b"ds64") + 8
    given = whole[:at] + struct.pack("<3Q", stated, stated, stated) + whole[at + 24 :]
    np.testing.assert_array_equal(both(given), heard(SoundBytes(whole, "")))
    with pytest.raises(InputError, match="truncated"):
        sound_info(SoundBytes(whole[:-500], "cut"))


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "NIST"])
@pytest.mark.parametrize("seconds", [(1.0, 3.0), (3.0, 1.0), (1.5, 1.5), (0.5, 1.0, 0.5)])
def test_files_that_were_joined_are_all_heard(format, seconds, tmp_path):
    parts = [content(noise(of, seed), format) for seed, of in enumerate(seconds)]
    expected = np.concatenate([heard(SoundBytes(part, "")) for part in parts])
    np.testing.assert_array_equal(both(b"".join(parts)), expected)
    np.testing.assert_array_equal(both(ID3 + b"".join(parts)), expected)
    (tmp_path / "a").write_bytes(b"".join(parts))
    for start_s, length in ((0.25, 1.0), (1.25, None), (0.0, 1.0)):
        first = round(start_s * RATE)
        end = len(expected) if length is None else first + round(length * RATE)
        np.testing.assert_array_equal(heard(tmp_path / "a", start_s=start_s, seconds=length), expected[first:end])


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "NIST"])
def test_joined_files_of_different_rates_are_refused(format):
    with pytest.raises(InputError, match="files of other rates or channels joined"):
        sound_info(SoundBytes(content(noise(1.0), format) + content(noise(1.0, rate=8_000), format, 8_000), "two"))


@pytest.mark.parametrize(
    ("format", "subtype"), [("AIFF", "PCM_16"), ("AU", "ULAW"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("NIST", "ULAW")]
)
def test_other_formats_that_break_off_are_refused(format, subtype):
    whole = content(noise(1.0), format, subtype=subtype)
    assert len(both(whole)) == RATE
    for cut in (whole[:-500], whole[:-500] + whole, whole + whole[:-500]):
        with pytest.raises(InputError, match="truncated"):
            sound_info(SoundBytes(cut, "cut"))


def test_what_lies_behind_a_sphere_is_not_heard():
    assert len(both(content(noise(1.0), "NIST") + bytes(600))) == RATE


@pytest.mark.parametrize("format", ["AVR", "IRCAM", "MAT5", "PVF", "VOC", "XI"])
def test_formats_whose_length_is_not_known_are_refused_by_name(format):
    with pytest.raises(InputError, match=r"old: its format, .*, is not read here; write it as wav or flac"):
        sound_info(SoundBytes(content(noise(1.0), format), "old"))


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
    expected = np.concatenate([heard(SoundBytes(part, "")) for part in parts])
    np.testing.assert_array_equal(both(b"".join(parts)), expected)
    for cut in (parts[1][:-1_000], parts[1] + parts[0][:-1_000], parts[0][: parts[0].rindex(b"OggS")] + parts[1]):
        with pytest.raises(InputError, match="truncated"):
            sound_info(SoundBytes(cut, "cut"))
    for damaged in (parts[0][:-1_000] + parts[1], parts[0][:-1] + parts[1], parts[0] + b"x" + parts[1]):
        with pytest.raises(InputError, match="pages do not follow one another"):
            sound_info(SoundBytes(damaged, "damaged"))


def test_an_ogg_joined_to_itself_is_heard_twice():
    """Its pages have the same numbers, and its last page says what the first stream's does."""
    given = content(noise(40.0), "OGG")
    assert len(given) > 1 << 17 and len(both(given * 2)) == 80 * RATE


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


FIRST = ("WAV", "RF64", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "NIST", "MP3")
SECOND_ONE = tuple(format for format in FIRST if format != "MP3")


@pytest.mark.parametrize("first", [*FIRST, "M4A", "a wav from a pipe"])
@pytest.mark.parametrize("second", [*SECOND_ONE, "M4A"])
def test_joined_files_of_different_formats_are_refused(first, second):
    made = {"a wav from a pipe": wav(0xFFFFFFFF, 0xFFFFFFFF), "M4A": encoded(noise(2.0), RATE, "mp4", "aac")}
    parts = [made[of] if of in made else content(noise(1.0), of) for of in (first, second)]
    if first != second and {first, second} - {"WAV", "RF64", "a wav from a pipe"}:
        with pytest.raises(InputError, match="files of other formats joined to one; write them apart"):
            sound_info(SoundBytes(b"".join(parts), "two"))


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


@pytest.mark.parametrize("options", [{}, FRAGMENTS], ids=["m4a", "fragments"])
def test_m4as_joined_are_refused(options):
    given = encoded(LONG[: 44_100 * 2], 44_100, "mp4", "aac", **options)
    for act in (sound_info, heard):
        with pytest.raises(InputError, match="files of m4a joined to one; write them apart"):
            act(SoundBytes(given * 2, "joined"))


def test_an_m4a_whose_header_says_nothing_of_its_length_is_counted():
    given = bytearray(encoded(LONG[: 44_100 * 2], 44_100, "mp4", "aac"))
    whole = len(both(bytes(given)))
    given[given.index(b"mdhd") + 4] = 1  # numbers of another width: a length of 0, or less
    assert len(both(bytes(given))) == pytest.approx(whole, abs=2048)


def test_a_box_longer_than_any_file_is_none():
    given = encoded(LONG[: 44_100 * 2], 44_100, "mp4", "aac")
    require_one_m4a(Probe(SoundBytes(given + struct.pack(">I4sQ", 1, b"free", (1 << 64) - 1), "")))


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
