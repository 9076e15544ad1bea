"""Students of stacked frames in an unmodified llama.cpp."""

import json

import gguf
import numpy as np
import pytest
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data.errors import InputError
from student.device import llama_package, mmproj_gguf, run
from student.shrink import StudentSettings, shrink
from student.use.audio_lm import AudioLM
from student.use.usage import TaskUse, Usage
from teacher.build import build_teacher
from teacher.processor import Clip, SalmonnProcessor
from teacher.settings import ModelSettings
from tests.conftest import teacher_section
from tests.student.device.mtmd import Mtmd

MARKER = "<__media__>"
TASKS = {
    "transcribe": TaskUse(instruction="transcribe", max_new_tokens=10),
    "ask": TaskUse(instruction="{}", max_new_tokens=10),
}


def student_of(tiny_weights, **settings):
    section = teacher_section(tiny_weights) | {"weights": str(tiny_weights / "trained.safetensors")}
    teacher, processor = build_teacher(ModelSettings.model_validate_json(json.dumps(section)))
    settings = {"connector": "stack", "stack": {"frames": 10, "width": 64}, "margin_s": None} | settings
    if settings["margin_s"] is None:
        settings["reference_padding"] = True
    model = shrink(teacher, StudentSettings.model_validate_json(json.dumps(settings)))
    return model, SalmonnProcessor(processor.tokenizer, model.config)


@pytest.fixture(scope="module")
def tiny_folder(tiny_weights, tmp_path_factory):
    """A student of random weights, saved as a trained model is."""
    model, processor = student_of(tiny_weights)
    rng = torch.Generator().manual_seed(0)
    for norm in (model.connector.norm_pre, model.connector.norm_mid):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5, generator=rng)
    for parameter in model.parameters():
        parameter.data = parameter.half().float()  # as the file stores what is not in 32 bits
    folder = tmp_path_factory.mktemp("llama") / "model"
    AudioLM(model, processor, Usage(tasks=TASKS)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packaged(tiny_folder):
    """Its files in 16 and 32 bits, and the model itself."""
    folder = tiny_folder.with_name("package")
    llama_package.export(tiny_folder, folder, "f16", "f32", lambda text: None)
    return folder, AudioLM.load(tiny_folder, device="cpu", dtype="fp32")


@pytest.fixture
def running(packaged):
    """The same in llama.cpp."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder, model = packaged
    lm = Mtmd(folder)
    yield lm, model
    lm.close()


def prompt(folder, content):
    """What llama.cpp makes of a message by the file's template, whose engine is Jinja too."""
    field = gguf.GGUFReader(folder / "llm.gguf").fields["tokenizer.chat_template"]
    template = ImmutableSandboxedEnvironment().from_string(bytes(field.parts[field.data[0]]).decode())
    return template.render(messages=[{"role": "user", "content": content}])


def test_the_file_has_every_weight(packaged):
    folder, model = packaged
    assert {path.name for path in folder.iterdir()} == {"README.md", "llm.gguf", "mmproj.gguf"}
    assert "llama-server -m llm.gguf" in (folder / "README.md").read_text()
    reader = gguf.GGUFReader(folder / "mmproj.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = model.model.encoder.state_dict() | model.model.connector.state_dict()
    assert len(found) == len(weights)
    assert np.array_equal(found["mm.a.mlp.1.weight"], model.model.connector.linear_1.weight.detach().numpy())
    assert np.array_equal(found["a.blk.1.ffn_up.bias"], model.model.encoder.layers[1].fc1.bias.detach().numpy())


@pytest.mark.parametrize(
    "content",
    [
        f"{MARKER}\ntranscribe",  # llama-server, its parts as one text
        f"transcribe\n{MARKER}",
        f"transcribe{MARKER}",  # llama-mtmd-cli
        [{"type": "media_marker", "text": MARKER}, {"type": "text", "text": "transcribe"}],
    ],
)
def test_a_message_becomes_the_prompt_of_training(packaged, content):
    folder, model = packaged
    before, after = model.processor.prompt_pieces
    assert prompt(folder, content) == "<s>" + before + MARKER + after.replace("{}", "transcribe")


def test_llama_cpp_hears_and_writes_what_the_model_does(running, packaged, waves):
    lm, model = running
    text = prompt(packaged[0], f"{lm.marker()}\ntranscribe")
    for wave in [*waves, np.tile(waves[1], 12)[: 30 * run.RATE - 8_000]]:
        features = model.processor.features([wave])
        expected = model.model.connector(model.model.encode(features)).detach().numpy()
        ids, found = lm.heard(text, wave)
        pad = model.processor.config.pad_token_id
        asked = model.processor.prompt_ids("transcribe", 150)
        assert [*ids[0], *[pad] * 150, *ids[1]] == asked
        assert found.shape == expected.shape == (150, 48)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        (own,) = model.model.generate(model.processor([Clip(wave, "transcribe")]), max_new_tokens=10).tolist()
        assert lm.written(text, wave, 10) == own


def test_llama_cpp_hears_quiet_sounds_a_little_otherwise(running, waves):
    """It takes mel power below 6e-8 for 6e-8, where Whisper goes down to 1e-10."""
    lm, model = running
    for gain, most in ((0.1, 0.03), (0.01, 0.06)):
        features = model.processor.features([gain * waves[1]])
        expected = model.model.connector(model.model.encode(features)).detach().numpy()
        _, found = lm.heard(lm.marker(), gain * waves[1])
        assert np.abs(found - expected).max() < most * np.abs(expected).max()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"margin_s": 0.1}, "hears 30 s of every sound"),
        ({"stack": {"frames": 8, "width": 16}}, "frames 8: 30 s, 1500 frames, are no whole number"),
        (
            {"connector": "qformer", "stack": None, "qformer": {"layers": 1, "width": 32, "heads": 2}},
            "has no Q-Former; export a student with connector 'stack'",
        ),
    ],
)
def test_what_llama_cpp_could_not_run_is_told(tiny_weights, settings, told):
    model, _ = student_of(tiny_weights, **settings)
    with pytest.raises(InputError, match=told):
        mmproj_gguf.require_exportable(model)


def test_a_folder_of_other_things_is_left_alone_and_an_earlier_package_is_replaced(tiny_folder, packaged, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match="holds notes, which no export wrote"):
        llama_package.export(tiny_folder, tmp_path, "f16", "f32")
    (tmp_path / "notes").unlink()
    for name in ("settings.json", "run.py", "audio.onnx", "llm.gguf"):  # as of a device package
        (tmp_path / name).touch()
    llama_package.export(tiny_folder, tmp_path, "q8_0", "q8", lambda text: None)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "llm.gguf", "mmproj.gguf"}
    small, large = ((folder / "mmproj.gguf").stat().st_size for folder in (tmp_path, packaged[0]))
    assert small < 0.8 * large
