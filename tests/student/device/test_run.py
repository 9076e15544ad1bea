"""The run-time's own arithmetic, against what the models are trained with."""

import json
import struct
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr
from packaging.requirements import Requirement

from data.paths import REPOSITORY
from data.rows.faults import LEAST_S
from data.sound import source
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


def test_a_sound_is_known_by_what_is_in_it(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(run.RATE, 0.5), run.RATE)
    (tmp_path / "a.wav").rename(tmp_path / "a.raw")
    assert len(np.concatenate(list(run.read_sound(str(tmp_path / "a.raw"), False)))) == run.RATE


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "none.wav"])
def test_what_is_no_sound_is_told_in_a_line(tmp_path, name):
    if name[0] == "a":
        (tmp_path / name).write_text("no sound")
    with pytest.raises(run.InputError, match=rf"{name}: no sound that can be read"):
        list(run.read_sound(str(tmp_path / name), False))


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ([], [], "0 ms of sound, less than one frame"),
        ([0.1] * 300, [0.1] * 300, "18.8 ms of sound"),
        ([0.0] * 900, [0.1] * 900, "silent on the first channel alone"),
        ([0.1] * 900 + [np.nan], [0.1] * 901, "samples are no numbers"),
        ([0.1] * 900 + [3e4], [0.1] * 901, "over 10 times full scale"),
    ],
)
def test_what_pytorch_refuses_to_hear_is_refused(tmp_path, left, right, said):
    soundfile.write(tmp_path / "a.wav", np.array([left, right]).T, run.RATE, subtype="FLOAT")
    with pytest.raises(run.InputError, match=rf"a\.wav: .*{said}"):
        list(run.read_sound(str(tmp_path / "a.wav"), False))
    if said.startswith("silent"):
        assert np.concatenate(list(run.read_sound(str(tmp_path / "a.wav"), True))).any()


@pytest.mark.parametrize("rate", [655_350_001, 999])
def test_a_rate_that_no_sound_has_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.full(run.RATE, 0.5), run.RATE)
    made = bytearray((tmp_path / "a.wav").read_bytes())
    struct.pack_into("<I", made, 24, rate)
    (tmp_path / "a.wav").write_bytes(made)
    with pytest.raises(run.InputError, match=f"{rate:,} samples a second"):
        list(run.read_sound(str(tmp_path / "a.wav"), False))


def test_more_channels_than_a_sound_has_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.ogg", np.zeros((run.RATE, 255)), run.RATE)
    with pytest.raises(run.InputError, match=r"a\.ogg: 255 channels; a sound has at most 64"):
        list(run.read_sound(str(tmp_path / "a.ogg"), False))


def test_many_channels_are_read_in_shorter_blocks(tmp_path):
    """Ten seconds of 48 kHz in 64 channels are 123 MB."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (48_000, 1)).repeat(64, 1)
    soundfile.write(tmp_path / "a.wav", np.tile(samples, (10, 1)), 48_000, subtype="PCM_U8")
    tracemalloc.start()
    try:
        heard = sum(len(block) for block in run.read_sound(str(tmp_path / "a.wav"), False))
        assert heard == 10 * run.RATE and tracemalloc.get_traced_memory()[1] < 4 * 4 * run.BLOCK_VALUES
    finally:
        tracemalloc.stop()


def test_the_bounds_of_a_sound_are_those_of_pytorchs_side():
    assert (run.RATES, run.MOST_CHANNELS, run.LEAST_S) == (source.RATES, source.MOST_CHANNELS, LEAST_S)


AUDIO = {"margin_s": 0.1, "window_frames": 17, "window_stride": 17, "reference_padding": False}
ASK = {
    "instruction": "{}",
    "before": [7],
    "after": [8],
    "max_new_tokens": 5,
    "longest_s": 10,
    "tokens_per_second": None,
}
SETTINGS = {"format": 1, "audio": AUDIO, "num_beams": 1, "mix": False, "begin": [], "end": 1, "pieces": ["", "{}"]}
SETTINGS |= {"tasks": {"ask": ASK}}


@pytest.fixture
def folder(tmp_path):
    """A package without its models."""
    np.save(tmp_path / "mel_filters.npy", mel_filters(80).numpy())
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    return tmp_path


@pytest.mark.parametrize(
    "settings", ["{}", "[]", "{", json.dumps(SETTINGS | {"format": 2}), '{"format": 1, "tasks": 3}']
)
def test_what_is_no_package_is_told_in_a_line(folder, settings):
    (folder / "settings.json").write_text(settings)
    with pytest.raises(run.InputError, match=r"no device package .* write one with"):
        run.DeviceLM(folder)


def test_a_package_without_its_files_is_told_in_a_line(folder):
    with pytest.raises(run.InputError, match=r"audio\.onnx: this onnxruntime cannot read it .*onnxruntime>="):
        run.DeviceLM(folder)
    (folder / "mel_filters.npy").write_bytes(b"")
    with pytest.raises(run.InputError, match="no device package"):
        run.DeviceLM(folder)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"beams": -1}, "--beams -1: give 1 to 127"),
        ({"beams": 0}, "--beams 0: give 1 to 127"),
        ({"beams": 128}, "--beams 128: give 1 to 127"),
        ({"threads": -1}, "--threads -1: give 1 or more"),
        ({"threads": 0}, "--threads 0: give 1 or more"),
    ],
)
def test_beams_and_threads_have_bounds(folder, wrong, said):
    with pytest.raises(run.InputError, match=said):
        run.DeviceLM(folder, **wrong)


class Reader:
    """Stands where the LLM is, and notes what it reads."""

    def __init__(self):
        self.held, self.stops = [], False

    def forget(self, first=0, row=-1):
        del self.held[first:]

    def read(self, given, first, rows=(0,), answer=True):
        assert len(given) and first == len(self.held)
        if self.stops:
            raise KeyboardInterrupt
        self.held += list(given)
        return np.array([self.held[-1:]]) if answer else None

    def ids(self, text, special):
        return list(text.encode())

    def specials(self, ids):
        return 0


@pytest.fixture
def device():
    """A model that has neither ears nor a language model."""
    made = object.__new__(run.DeviceLM)
    made.settings, made.llm, made.beams, made.room, made._kept = SETTINGS, Reader(), 1, 400, []
    return made


def test_a_prompt_is_read_whole_after_one_that_was_interrupted(device):
    device.prefill([1, 2], [3], [4])
    device.llm.stops = True
    with pytest.raises(KeyboardInterrupt):
        device.prefill([5, 6], [3], [4])
    device.llm.stops = False
    for before in ([1, 2], [1, 2], [5, 6]):
        logits, place = device.prefill(before, [3], [4])
        assert device.llm.held == [*before, 3, 4] and (logits.tolist(), place) == ([[4]], 4)


def test_a_prompt_may_end_with_the_sound(device):
    logits, place = device.prefill([1, 2], [3], [])
    assert logits.tolist() == [[3]] and place == 3


def test_a_question_has_room_or_is_refused_before_the_sound_is_read(device):
    longest = device.slots(30 * run.RATE, 3000)
    with pytest.raises(run.InputError, match=rf"--question: too long by {longest + 5} tokens"):
        device.ask("none.wav", "a" * 400)
    with pytest.raises(run.InputError, match=r"none\.wav: no sound"):
        device.ask("none.wav", "a" * (400 - 5 - longest))
    with pytest.raises(run.InputError, match="--question: not in UTF-8"):
        device.ask("none.wav", "what\udcff")


@pytest.fixture
def command(device, tmp_path, monkeypatch):
    """The command on this model: exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "c.wav"):
        soundfile.write(tmp_path / name, np.full(run.RATE, 0.5), run.RATE)
    (tmp_path / "bad.wav").write_text("no sound")
    device.write = lambda wave, before, after, cap: ("a text", [])
    device.close = lambda: None
    monkeypatch.setattr(run, "DeviceLM", lambda *of: device)

    def called(capsys, *words):
        monkeypatch.setattr("sys.argv", ["run.py", "--task", "ask", *words])
        monkeypatch.setattr("sys.stdout.reconfigure", lambda **of: None, raising=False)
        try:
            run.main()
            status = 0
        except SystemExit as end:
            status = end.code
        written = capsys.readouterr()
        return status, written.out.splitlines(), written.err.splitlines()

    return called


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_sound_that_cannot_be_heard_is_told_and_the_others_are_written(command, capsys, form):
    given = ["bad.wav", "a.wav", "none.wav", "c.wav"]
    status, out, err = command(capsys, "--question", "who?", "--format", form, *given)
    assert status == 2
    assert [line.split(":")[:2] for line in err] == [["error", " bad.wav"], ["error", " none.wav"]]
    names = [json.loads(line)["file"] if form == "json" else line.partition("\t")[0] for line in out]
    assert names == ["a.wav", "c.wav"]
    assert command(capsys, "--question", "who?", "a.wav") == (0, ["a text"], [])


def test_what_is_wrong_with_the_question_is_told_once(command, capsys):
    for question, said in (("", "goes with --task ask"), ("a" * 400, "too long")):
        status, out, err = command(capsys, "--question", question, "a.wav", "c.wav", "bad.wav")
        assert (status, out) == (2, []) and len(err) == 1 and said in err[0]


def test_another_llama_cpp_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "llama_cpp", SimpleNamespace(llama_context_default_params=SimpleNamespace))
    with pytest.raises(run.InputError, match=r"llama_cpp: of another version; pip install .*llama-cpp-python>="):
        run.LLM(tmp_path / "llm.gguf", 100, 1)


def test_what_is_told_to_be_installed_has_the_bounds_of_the_requirements():
    told = {of.name: of for of in (Requirement(word.strip('"')) for word in run.INSTALL.split()[2:])}
    lines = (REPOSITORY / "requirements-device.txt").read_text().splitlines()
    listed = {of.name: of for of in (Requirement(line) for line in lines if not line.startswith("#"))}
    for name in ("onnxruntime", "llama-cpp-python"):
        assert told[name] == listed[name]
    assert run.INSTALL in (REPOSITORY / "student" / "README.md").read_text()
