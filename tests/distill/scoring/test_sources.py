"""A model that is scored and measured as a device package."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import distill.models.packages
from data.errors import InputError
from data.paths import REPOSITORY
from data.rows.manifest_reader import read_manifest
from distill.efficiency.measuring import Measured, Protocol, measure
from distill.models.packages import device_package
from distill.recipe.reading import read_recipe
from distill.report.efficiency import efficiency_page
from distill.scoring.evaluation import evaluate
from distill.scoring.sources import OnDevice
from student.device import run
from teacher.hypotheses import GenerationSettings
from teacher.model import merge_lora

FILES = ("audio.onnx", "audio.onnx.data", "llm.gguf")
LIBRARIES = ("onnx", "onnxscript", "onnxruntime", "llama_cpp")


@pytest.fixture
def exact(monkeypatch):
    """Packages keep encoder and connector as they are; what is needed for them is here."""
    for name in LIBRARIES:
        pytest.importorskip(name)
    monkeypatch.setattr(distill.models.packages, "AUDIO", "f32")


@pytest.fixture
def checkpoint(tiny_teacher, tmp_path):
    """The tiny teacher as a trained model's folder, its LLM in numbers that 16 bits hold."""
    model, processor = tiny_teacher
    merge_lora(model)
    for parameter in model.llm.parameters():
        parameter.data = parameter.half().float()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def hypotheses(recipe, name):
    lines = (recipe.results_dir / name / "hypotheses.jsonl").read_text().splitlines()
    return {line["id"]: line["hypothesis"] for line in map(json.loads, lines)}


def test_a_package_is_scored_beside_the_model_that_it_is_of(exact, tiny_recipe, checkpoint, own_data, monkeypatch):
    recipe = read_recipe(tiny_recipe)
    monkeypatch.setattr("distill.scoring.evaluation.measure_or_say", lambda *of: {})
    written, write = [], run.DeviceLM.write
    monkeypatch.setattr(run.DeviceLM, "write", lambda *of: written.append(of) or write(*of))
    whole = evaluate(recipe, "teacher", checkpoint)
    metrics = evaluate(recipe, "teacher", checkpoint, device_llm="f16")
    texts = hypotheses(recipe, "teacher_device_f16")
    assert len(written) == 4 and texts == hypotheses(recipe, "teacher") and len(set(texts.values())) > 1
    assert metrics["model"] == "teacher_device_f16" and metrics["asr"] == whole["asr"]
    assert (metrics["dtype"], metrics["device"]) == ("audio f32, llm f16", "cpu")
    for key in ("parameters", "parameters_without_embeddings", "encoder_layers", "llm_layers", "parts", "checkpoint"):
        assert metrics[key] == whole[key]
    place = recipe.run_dir / "device" / "teacher_f16"
    assert metrics["weight_bytes"] == sum((place / name).stat().st_size for name in FILES)

    # In texts that are scored nothing is mended: one that circles goes on, silence is heard.
    source = OnDevice(place, recipe.generation)
    assert not source.lm.circling([5] * 40) and run.circling([5] * 40)
    first, second = list(read_manifest(own_data / "test_asr.json"))[:2]
    asked = [(first, "transcribe"), (first, "describe the sound"), (replace(second, path=own_data / "gone.wav"), "a")]
    found = source.write(asked)
    assert found[0].text == texts[first.id] != found[1].text and found[0].logp is None
    assert found[2].text == "" and "gone.wav" in found[2].fault
    assert source.seconds([first, second]).tolist() == pytest.approx([1.1, 2.4])

    # Again nothing is written, neither texts nor the package; under another use all is.
    monkeypatch.setattr("student.device.audio_onnx.write_audio", lambda *of: pytest.fail("stopped"))
    written.clear()
    assert evaluate(recipe, "teacher", checkpoint, device_llm="f16") == metrics and not written
    longer = read_recipe(tiny_recipe, ["generation.max_new_tokens=9"])
    with pytest.raises(pytest.fail.Exception):
        evaluate(longer, "teacher", checkpoint, device_llm="f16")
    # What was not finished does not count.
    with pytest.raises(pytest.fail.Exception):
        evaluate(recipe, "teacher", checkpoint, device_llm="f16")


def test_a_package_is_timed_as_a_model_is(exact, tiny_recipe):
    recipe = read_recipe(tiny_recipe)
    models = [Measured("teacher"), Measured("teacher", device_llm="q8_0")]
    protocol = Protocol(seconds=(1, 2), batches=(1, 2), warmup=0, runs=2, tokens=3, sound="speech")
    found = measure(recipe, models, protocol)
    whole, block = found["teacher"], found["teacher_device_q8_0"]
    assert [(cell["seconds"], cell["batch"]) for cell in block["cells"]] == [(2, 1), (1, 1)]
    assert [(cell["seconds"], cell["batch"]) for cell in whole["cells"]] == [(2, 1), (1, 1), (2, 2)]
    assert list(block["ttft_parts_s"]) == ["features", "encoder", "prefill"]
    assert sum(block["ttft_parts_s"].values()) == pytest.approx(block["ttft_s"])
    assert block["parameters"] == whole["parameters"] and block["threads"] == whole["threads"]
    assert block["weight_bytes"] == sum(block["part_bytes"].values())
    assert 0 < block["model_memory_bytes"] < block["peak_memory_bytes"] < whole["peak_memory_bytes"]
    page = efficiency_page(found)
    assert "Device packages, in onnxruntime and llama.cpp" in page and "| 2 | 1 | teacher_device_q8_0 |" in page
    alone = "import sys, pathlib; from distill.efficiency.device_timing import runtime; "
    alone += "runtime(pathlib.Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    package = recipe.run_dir / "device" / "teacher_q8_0"
    assert subprocess.run([sys.executable, "-c", alone, package], cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize(
    ("script", "words", "complaint"),
    [
        ("evaluate", ["--runtime", "device"], "onnx: not installed; pip install -r requirements-device.txt"),
        ("evaluate", ["--llm", "q8_0"], "--llm q8_0: goes with --runtime device"),
        ("evaluate", ["--runtime", "device", "--quantise", "int8"], "--quantise int8: is PyTorch's"),
        ("efficiency", ["--runtime", "device"], "onnx: not installed; pip install -r requirements-device.txt"),
        ("efficiency", ["--llm", "f16"], "--llm f16: goes with --runtime device"),
        ("efficiency", ["--runtime", "gpu"], "--runtime gpu: give of torch, device"),
        ("efficiency", ["--runtime", "device", "--quantise", "int8"], "--quantise int8: is PyTorch's"),
        ("efficiency", ["--runtime", "torch,device", "--batch", "8"], "--batch 8: a package hears one clip at a time"),
    ],
)
def test_what_does_not_go_with_a_package_is_told_in_one_line(
    command, tiny_recipe, tmp_path, monkeypatch, script, words, complaint
):
    monkeypatch.setattr("student.device.audio_onnx.find_spec", lambda name: None)
    monkeypatch.setattr("teacher.quantise.find_spec", lambda name: True)
    status, _, err = command(f"scripts/{script}.py", "--config", tiny_recipe, "--model", "teacher", *words)
    assert status == 2 and "Traceback" not in err
    assert complaint in err.strip().splitlines()[-1]
    assert not (tmp_path / "results").exists()


def test_models_of_random_weights_have_no_package(tiny_recipe, monkeypatch):
    monkeypatch.setattr("student.device.audio_onnx.find_spec", lambda name: True)
    with pytest.raises(InputError, match="packages are of trained models"):
        device_package(read_recipe(tiny_recipe, ["teacher.random_weights=true"]), "teacher", None, "f16")


def test_a_rows_name_says_what_it_is_of():
    for model in (Measured("teacher"), Measured("student", "int8"), Measured("student", device_llm="q4_k_m")):
        assert Measured.named(model.name) == model
    assert Measured("student", device_llm="q4_k_m").name == "student_device_q4_k_m"
    assert Measured.named("student_device") is Measured.named("valid") is Measured.named("student_int8_q8_0") is None


def test_a_package_that_cannot_be_run_is_told_in_a_line(tmp_path):
    with pytest.raises(InputError, match="no device package"):
        OnDevice(tmp_path, GenerationSettings())
