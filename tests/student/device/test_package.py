"""A package as it is written, and what it writes itself."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from data.errors import InputError
from data.paths import REPOSITORY
from student.device import audio_onnx, llm_gguf, package, run
from student.device.settings import settings_of
from student.use.audio_lm import AudioLM
from student.use.stretches import Stretch
from student.use.usage import TaskUse, Usage
from teacher.build import build_teacher
from teacher.settings import ModelSettings
from tests.conftest import teacher_section

RATE = 16_000
TASKS = {
    "transcribe": TaskUse(instruction="transcribe", max_new_tokens=10),
    "ask": TaskUse(instruction="{}", max_new_tokens=10),
}


@pytest.fixture(scope="module")
def tiny_folder(tiny_weights, tmp_path_factory):
    """The tiny teacher, saved as a trained model is."""
    section = teacher_section(tiny_weights) | {"weights": str(tiny_weights / "trained.safetensors")}
    teacher = build_teacher(ModelSettings.model_validate_json(json.dumps(section)))
    for parameter in teacher[0].llm.parameters():
        parameter.data = parameter.half().float()  # as the package stores it
    folder = tmp_path_factory.mktemp("device") / "model"
    AudioLM(*teacher, Usage(tasks=TASKS)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packaged(tiny_folder):
    """A package of it in 16 and 32 bits, and the model itself."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    folder = tiny_folder.with_name("package")
    package.export(tiny_folder, folder, "f16", "f32", lambda text: None)
    return folder, AudioLM.load(tiny_folder, device="cpu", dtype="fp32")


@pytest.fixture
def running(packaged):
    """The same, where its language model can be run."""
    pytest.importorskip("llama_cpp")
    return packaged


def test_a_package_hears_what_the_model_hears(packaged, waves, monkeypatch):
    folder, model = packaged
    monkeypatch.setattr(run, "LLM", lambda *of: None)
    names = {"README.md", "audio.onnx", "audio.onnx.data", "llm.gguf", "mel_filters.npy", "run.py", "settings.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert run.INSTALL in (folder / "README.md").read_text()
    device = run.DeviceLM(folder, threads=1)
    assert device.settings == settings_of(model.processor, model.usage)
    for wave in waves:
        found = device.audio_tokens(device.features(wave), len(wave))
        expected = model.model.connector(model.model.encode(model.processor.features([wave]))).detach().numpy()
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4


def test_a_package_writes_what_the_model_writes(running, waves, tmp_path):
    folder, model = running
    device = run.DeviceLM(folder, threads=1)
    searching = run.DeviceLM(folder, threads=1, beams=3)
    before, after = device.prompt("transcribe")
    for wave in waves:
        for lm, beams in ((device, 1), (searching, 3)):
            model.writer.num_beams = beams
            stretch = Stretch(0.0, len(wave) / RATE, wave)
            (segment,) = model.writer.segments([(stretch, model.usage.asked("transcribe"))])
            assert lm.write(wave, before, after, 10) == (segment.text, list(segment.flags))
    # As a command, where nothing of the repository is.
    soundfile.write(tmp_path / "a.wav", waves[1], RATE)
    alone = [sys.executable, str(folder / "run.py"), str(tmp_path / "a.wav"), "--threads", "1"]
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == device.transcribe(str(tmp_path / "a.wav"))["text"].strip()
    missing = subprocess.run([*alone[:2], "none.wav"], cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 2 and missing.stderr.startswith("error: none.wav: no sound")


@pytest.mark.parametrize("question", ["which animal is it?", "  what's 42?\nand é", "</s> <s> ends nothing", "{}"])
def test_a_question_is_tokenised_as_in_training(running, question):
    folder, model = running
    before, after = run.DeviceLM(folder, threads=1).prompt("ask", question)
    pad = model.processor.config.pad_token_id
    assert [*before, pad, *after] == model.processor.prompt_ids(model.usage.asked("ask", question).instruction, 1)


def test_silence_has_no_text_and_wrong_use_is_told(running, tmp_path):
    device = run.DeviceLM(running[0], threads=1)
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    assert device.transcribe(str(tmp_path / "a.wav"))["segments"][0]["flags"] == ["silence"]
    with pytest.raises(run.InputError, match="has not learnt this; it can transcribe, ask"):
        device.caption(str(tmp_path / "a.wav"))
    with pytest.raises(run.InputError, match="--question"):
        device.ask(str(tmp_path / "a.wav"), " ")


def test_the_longest_question_has_room(running, waves, tmp_path):
    device = run.DeviceLM(running[0], threads=1, beams=3)
    soundfile.write(tmp_path / "a.wav", waves[1], RATE)
    room = device.room - device.slots(30 * RATE, 3000) - 3 * TASKS["ask"].max_new_tokens
    fits = max(n for n in range(1, room) if sum(map(len, device.prompt("ask", "b " * n))) <= room)
    assert fits > 100 and device.ask(str(tmp_path / "a.wav"), "b " * fits)["segments"]
    with pytest.raises(run.InputError, match="--question: too long by"):
        device.ask(str(tmp_path / "a.wav"), "b " * (fits + 1))


def test_the_most_beams_have_room_and_memory_is_freed(running, waves, monkeypatch):
    folder, _ = running
    with run.DeviceLM(folder, threads=1, beams=run.MOST_BEAMS) as device:
        assert device.write(waves[0], *device.prompt("transcribe"), 3)[1] in ([], ["cut"])
        freed = device.llm.close
    assert not freed.alive and device.llm is None
    device.close()
    device = run.DeviceLM(folder, threads=1)
    freed = device.llm.close
    del device
    gc.collect()
    assert not freed.alive
    monkeypatch.setattr(run.llama_cpp, "llama_init_from_model", lambda *of: None)
    with pytest.raises(run.InputError, match=r"llm\.gguf: no memory for .* positions; take fewer --beams"):
        run.DeviceLM(folder, threads=1)


def test_the_model_is_as_before_when_its_audio_is_written(tiny_teacher, waves, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    onnxruntime = pytest.importorskip("onnxruntime")
    model, processor = tiny_teacher
    features = processor.features(waves[1:2])
    expected = model.eval().connector(model.encode(features)).detach().numpy()
    audio_onnx.write_audio(model, "q8", tmp_path)
    assert np.array_equal(model.connector(model.encode(features)).detach().numpy(), expected)
    found = onnxruntime.InferenceSession(tmp_path / "audio.onnx").run(None, {"mel": features.mel_BMT.numpy()})[0]
    assert np.square(found - expected).mean() < 0.02 * np.square(expected).mean()


def test_audio_tokens_of_30_s_are_counted_as_in_training(tiny_teacher):
    _, processor = tiny_teacher
    device = object.__new__(run.DeviceLM)
    for margin_s, reference in ((0.1, False), (None, False), (None, True)):
        processor.config.margin_s, processor.config.reference_padding = margin_s, reference
        device.settings = settings_of(processor, Usage(tasks=TASKS))
        for samples in (RATE, 30_001, 5 * RATE, 30 * RATE):
            wave = np.zeros(samples, np.float32)
            features = processor.features([wave])
            expected = processor.audio_slots(int(features.mel_frames_B[0]))
            assert device.slots(samples, features.mel_BMT.shape[2]) == expected


def test_what_cannot_be_exported_is_told(tiny_salmonn, tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no BEATs"):
        audio_onnx.require_exportable(tiny_salmonn()[0])
    monkeypatch.setattr(audio_onnx, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="onnx: not installed"):
        package.export(tiny_folder, tmp_path / "package", "f16", "f32")


@pytest.mark.parametrize("strange", ["README.md", "run.py", "config.json", "notes"])
def test_a_folder_of_other_things_is_left_alone(tmp_path, strange):
    for name in {"README.md", strange}:
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {strange if strange in ('config.json', 'notes') else 'README.md'}, "):
        package.export(tmp_path / "none", tmp_path, "f16", "f32")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys({"README.md", strange}, "mine")


def test_neither_the_repository_nor_a_model_nor_a_file_is_written_over(tiny_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file; name a folder"):
        package.export(tiny_folder, tmp_path / "file", "f16", "f32")
    for out in (REPOSITORY, tiny_folder):
        with pytest.raises(InputError, match="which no export wrote; name a folder that is new"):
            package.export(tiny_folder, out, "f16", "f32")


def test_half_a_package_is_none_and_is_written_anew(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(audio_onnx, "require_installed", lambda: None)
    out, export = tmp_path / "package", lambda: package.export(tiny_folder, tmp_path / "package", "f16", "f32")

    def written(model, form, folder):
        for name in (audio_onnx.FILE, audio_onnx.WEIGHTS):
            (folder / name).touch()

    def stopped(*of):
        raise KeyboardInterrupt

    monkeypatch.setattr(audio_onnx, "write_audio", written)
    (tiny_folder / "README.md").write_text("the card")
    export()
    assert (out / "MODEL_CARD.md").read_text() == "the card"
    (tiny_folder / "README.md").unlink()
    monkeypatch.setattr(audio_onnx, "write_audio", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            export()
        with pytest.raises(run.InputError, match="no device package"):
            run.DeviceLM(out)
    (out / "__pycache__").mkdir()
    (out / ".audio.onnx.killed").mkdir()
    monkeypatch.setattr(audio_onnx, "write_audio", written)
    export()
    names = {"README.md", "audio.onnx", "audio.onnx.data", "llm.gguf", "mel_filters.npy", "run.py", "settings.json"}
    assert {path.name for path in out.iterdir()} == names | {"__pycache__"}


def test_what_cannot_be_exported_leaves_an_earlier_package(packaged, monkeypatch):
    folder, model = packaged
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(llm_gguf, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--llm q4_k_m: "):
        package.write_package(model, folder, "q4_k_m", "f32", print)
    monkeypatch.setitem(model.model.llm.config.rope_parameters, "rope_type", "yarn")
    with pytest.raises(InputError, match="rotary positions of the kind 'yarn'"):
        package.write_package(model, folder, "f16", "f32", print)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
