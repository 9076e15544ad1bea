"""The benches of batches and of many rows, on little: what they write says what was measured."""

import json
import threading

import numpy as np
import pytest
import soundfile

from distill.bench import compiling, launches, loader, scale


@pytest.fixture
def noise(monkeypatch):
    """In place of the recordings, which are not on every machine."""

    def write_mix(folder, count):
        folder.mkdir()
        files = [folder / f"{number}.{('flac', 'wav')[number % 2]}" for number in range(count)]
        for number, file in enumerate(files):
            rng = np.random.default_rng(number)
            soundfile.write(file, rng.normal(scale=0.1, size=16_000 + 4_000 * number), 16_000)
        return files

    for bench in (loader, launches):
        monkeypatch.setattr(bench, "write_mix", write_mix)


def test_batches_are_counted_by_thread_and_process(noise, tiny_recipe, tmp_path, capsys):
    out = tmp_path / "loader.md"
    loader.main(["--config", str(tiny_recipe), "--clips", "6", "--rounds", "1", "--out", str(out)])
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["mean_s"] == pytest.approx(1.625) and set(about["decode"]) == {"flac", "wav"}
    assert all(rate > 0 for rate in about["rates"].values()) and "whole batches, one process" in capsys.readouterr().out


def test_launches_are_counted_beside_each(noise, tiny_recipe, tmp_path, capsys):
    out = tmp_path / "launches.md"
    options = ["--clips", "4", "--rounds", "1", "--seconds", "0.1", "--out", str(out)]
    launches.main(["--config", str(tiny_recipe), *options])
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["ratios"]["alone"] == 1 and set(about["ratios"]) == set(about["sleeps"]) == set(launches.WAYS)
    assert all(rate > 0 for rate in about["rates"].values()) and "| 1.00 x |" in capsys.readouterr().out


class NoBatches:
    """Asked for a batch, it fails, or makes nothing."""

    def __init__(self, fault: type | None = None) -> None:
        self.fault = fault

    def __call__(self, step):
        return [()]

    def examples(self):
        if self.fault:
            raise self.fault


@pytest.mark.parametrize("in_thread", [True, False])
def test_the_thread_that_makes_batches_ends_with_what_it_is_beside(in_thread):
    before = threading.active_count()
    with (
        pytest.raises(ZeroDivisionError),
        launches.beside("thread", NoBatches(ZeroDivisionError if in_thread else None)) as take,
    ):
        take()
        if not in_thread:
            raise ZeroDivisionError
    assert threading.active_count() == before


def test_every_step_of_many_rows_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMONN_DISTILL_CACHE", str(tmp_path))  # scans are kept there
    monkeypatch.setattr(scale.scanning, "check_sound", scale.scanning.check_sound)  # to be put back
    monkeypatch.setattr(scale.manifest_writer, "read_headers", scale.manifest_writer.read_headers)
    monkeypatch.setattr(scale, "LOOKED_AT", 10)
    monkeypatch.setattr(scale, "BATCH_S", 60.0)
    found = {step: scale.one(step, tmp_path, 600) for step in scale.STEPS}
    assert found["cache"]["files"] == 3 and found["cache"]["disk"] > 600 * scale.TOKENS * scale.IDS
    scanned = json.loads((tmp_path / "scan.json").read_text())
    assert (scanned["scan"]["rows"], scanned["scan"]["files"]) == (600, 321)
    assert scanned["ok"]["count"] + len({*scanned["too_short"]["ids"], *scanned["too_long"]["ids"]}) == 600
    about = {"rows": 600, "few": 600, "cores": 2, "load": 0.0, "steps": {step: [of, of] for step, of in found.items()}}
    assert "| clips | 32.1 million |" in scale.page(about) and "1.0 x" in scale.page(about)


def test_compiled_layers_are_timed_beside_plain_ones(tiny_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("distill.training.compiling.BACKEND", "aot_eager")
    out = tmp_path / "compiling.md"
    options = ["--layers", "1", "--clips", "2", "--seconds", "1.5", "--rounds", "1", "--out", str(out)]
    compiling.main(["--config", str(tiny_recipe), *options])
    parts = json.loads(out.with_suffix(".json").read_text())["parts"]
    assert set(parts) == {"speech encoder", "LLM"} and all(of["plain"] > 0 and of["first"] > 0 for of in parts.values())
    assert "not run on a GPU" in capsys.readouterr().out
