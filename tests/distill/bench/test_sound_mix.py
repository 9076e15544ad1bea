import json

import numpy as np
import pytest
import soundfile

from data.errors import InputError
from distill.bench.sound_mix import real_durations, write_mix
from tests.conftest import SAMPLE_RATE


@pytest.fixture
def mini(tiny_data, tmp_path, monkeypatch):
    """The tiny data in the place of the mini recipe's."""
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path / "cache"))
    rows = json.loads((tiny_data / "train.json").read_text())
    (tmp_path / "cache" / "mini").mkdir(parents=True)
    content = {"root": str(tiny_data), **rows}
    (tmp_path / "cache" / "mini" / "train_small.json").write_text(json.dumps(content))


def test_durations_are_as_long_as_the_real_ones():
    durations = real_durations(100_000)
    assert np.median(durations) == pytest.approx(5.3, rel=0.02) and durations.mean() == pytest.approx(11.2, rel=0.04)
    assert durations.max() == 180 and durations.min() >= 0.1
    np.testing.assert_array_equal(real_durations(10), real_durations(10))


def test_files_of_these_durations(mini, tmp_path):
    files = write_mix(tmp_path / "mix", 6, rates=(SAMPLE_RATE, 44_100))
    assert [file.suffix for file in files] == [".flac", ".wav"] * 3
    for file, seconds in zip(files, real_durations(6), strict=True):
        info = soundfile.info(file)
        assert info.duration == pytest.approx(seconds, abs=1e-3)
        assert np.abs(soundfile.read(file)[0]).max() > 0.05
    assert [soundfile.info(file).samplerate for file in files] == [SAMPLE_RATE, 44_100] * 3


def test_there_must_be_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"bash scripts/setup\.sh"):
        write_mix(tmp_path / "mix", 1)


@pytest.mark.parametrize(
    ("bench", "options", "figures"),
    [
        ("scan", ("--files", 6, "--plain", 2, "--workers", 1), {"files": 6, "plain": 2}),
        ("features", ("--clips", 3, "--beats"), {"clips": 3, "beats": True}),
    ],
)
def test_what_is_measured(command, mini, tmp_path, bench, options, figures):
    status, out, err = command("scripts/bench.py", bench, *options, "--out", tmp_path / "out.md")
    assert status == 0, err
    written = json.loads((tmp_path / "out.json").read_text())
    assert written.items() >= figures.items() and all(rate > 0 for rate in written["rates"].values())
    page = (tmp_path / "out.md").read_text()
    assert page in out and all(
        f"| {way} | {rate:,.{1 if 'beats' in figures else 0}f} |" in page for way, rate in written["rates"].items()
    )
