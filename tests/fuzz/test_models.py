"""Models' folders: what they say of themselves, as commands meet it before any of their weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from transformers.utils.logging import disable_progress_bar

from student.use.usage import read_usage, usage_of
from teacher.build import build_teacher
from teacher.hypotheses import GenerationSettings
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor
from teacher.settings import ModelSettings
from teacher.weights import load_pretrained
from tests.conftest import teacher_section
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import spoilt_bytes, spoilt_json


@pytest.fixture(scope="module")
def parts(tiny_weights, tmp_path_factory) -> Path:
    """A whisper, an LLM and what was trained, and the model that is put together of them."""
    disable_progress_bar()
    folder = shutil.copytree(tiny_weights, tmp_path_factory.mktemp("models") / "parts")
    model, processor = build_teacher(settings_of(folder))
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


def settings_of(folder: Path) -> ModelSettings:
    section = teacher_section(folder) | {"weights": str(folder / "trained.safetensors")}
    return ModelSettings.model_validate_json(json.dumps(section))


def read(parts: Path, path: Path) -> None:
    if path.parent.name == "model":
        load_pretrained(SalmonnForConditionalGeneration, path.parent, torch.float32)
        SalmonnProcessor.from_pretrained(path.parent)
    else:
        build_teacher(settings_of(parts))


FILES = [
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
    "whisper/config.json",
    "whisper/model.safetensors",
    "llm/config.json",
    "llm/tokenizer.json",
    "trained.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_models(parts, name):
    path = parts / name
    whole = path.read_bytes()
    strategy = spoilt_json(json.loads(whole)) if path.suffix == ".json" else spoilt_bytes([whole])

    @inputs(4, share=0.02)
    @given(content=strategy)
    def loads(content):
        path.write_bytes(content)
        ends_well(lambda: read(parts, path), parts)

    try:
        loads()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["run/model/usage.json", "run/recipe.json"])
def test_how_a_model_is_used(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    (tmp_path / "run" / "model").mkdir(exist_ok=True)
    usage = usage_of({"asr": ("transcribe",), "QA": ("{}",)}, GenerationSettings(tokens_per_second=5))
    generation = {"num_beams": 2, "max_new_tokens": 80, "tokens_per_second": None, "max_seconds": 120.0}
    recipe = {"data": {"prompts": {"asr": ["transcribe", "write"]}, "mono": "mix"}, "generation": generation}

    def read_it():
        found = read_usage(tmp_path / "run" / "model")
        for task, use in found.tasks.items():
            asked = found.asked(task, "who is it?" if "{}" in use.instruction else "")
            assert isinstance(asked.instruction, str) and 1 <= asked.cap(3.0) <= use.max_new_tokens

    @inputs(60, share=0.1)
    @given(content=spoilt_json(usage.model_dump() if path.name == "usage.json" else recipe))
    def reads(content):
        path.write_bytes(content)
        ends_well(read_it, tmp_path)

    reads()
