"""A model folder that brings Python of its own: it is refused, not run, and nobody is asked whether to run it."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.errors import InputError
from teacher.build import load_tokenizer, shapes_of_files
from teacher.settings import ModelSettings
from teacher.weights import load_pretrained


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose parts are in a module of its own, before a person who answers yes to everything."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "own.py").write_text(f"from pathlib import Path; Path('{tmp_path}/was_run').touch()")
    parts = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": parts}))
    tokenizer = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    yield folder
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: load_tokenizer(str(folder)),
        lambda folder: load_pretrained(AutoModelForCausalLM, folder, torch.float32),
    ],
    ids=["tokenizer", "model"],
)
def test_a_folder_with_code_of_its_own_is_refused_in_one_line(folder, load):
    with pytest.raises(InputError, match="custom code") as refused:
        load(folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_sizes_are_not_asked_of_such_a_folder(folder, tiny_weights):
    settings = ModelSettings(encoder=str(tiny_weights / "whisper"), llm=str(folder))
    assert shapes_of_files(settings) is None
