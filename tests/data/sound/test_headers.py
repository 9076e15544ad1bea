from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from data.sound.headers import read_header, read_headers


@pytest.fixture
def sounds(tmp_path):
    noise = np.random.default_rng(0).normal(scale=0.1, size=(30_000, 2))
    soundfile.write(tmp_path / "a.wav", noise, 16_000)
    soundfile.write(tmp_path / "b.flac", noise[:11_025, 0], 44_100)
    soundfile.write(tmp_path / "empty.wav", noise[:0], 16_000)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "nothing.wav").write_bytes(b"")
    return tmp_path


def test_length_rate_and_channels(sounds):
    a, b = read_header(sounds / "a.wav"), read_header(sounds / "b.flac")
    assert (a.duration_s, a.sample_rate, a.channels, a.fault) == (1.875, 16_000, 2, "")
    assert (b.duration_s, b.sample_rate, b.channels, b.fault) == (0.25, 44_100, 1, "")
    assert read_header(sounds / "empty.wav").duration_s == 0 and not read_header(sounds / "empty.wav").fault


def test_the_fingerprint_is_the_contents(sounds):
    a = read_header(sounds / "a.wav").fingerprint
    assert (
        len(a) == 16 and a == read_header(sounds / "copy.wav").fingerprint != read_header(sounds / "b.flac").fingerprint
    )
    for at in (100, 61_000, -1):
        content = bytearray((sounds / "a.wav").read_bytes())
        content[at] ^= 1
        (sounds / "other.wav").write_bytes(content)
        assert read_header(sounds / "other.wav").fingerprint not in ("", a)


def test_faults_are_told_and_not_raised(sounds):
    assert read_header(sounds / "none.wav").fault == "no such file"
    assert read_header(sounds).fault.startswith("cannot be read")
    (sounds / "cut.wav").write_bytes((sounds / "a.wav").read_bytes()[:-100])
    faults = {"text": "cannot be read as sound (Format", "nothing": "the file is empty", "cut": "truncated, the file"}
    for name, fault in faults.items():
        header = read_header(sounds / f"{name}.wav")
        assert header.fault.startswith(fault) and header.sample_rate == 0


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_in_the_order_of_the_paths(sounds, kind):
    paths = [sounds / name for name in ("a.wav", "text.wav", "b.flac", "none.wav")] * 3
    with kind(2) as pool:
        assert list(read_headers(paths, pool)) == [read_header(path) for path in paths]
