import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from data.errors import InputError
from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from student.llm import missing_llm, other_llm
from student.shrink import layers_kept
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor
from tests.teacher.test_build import SHAPES


@pytest.fixture
def other(tiny_weights, tmp_path):
    """A narrower LLM with the teacher's tokenizer."""
    folder = shutil.copytree(tiny_weights / "llm", tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "head_dim": 6}
    LlamaForCausalLM(LlamaConfig(**config | sizes)).save_pretrained(folder)
    return folder


def test_the_students_llm_is_another_pretrained_one(tiny_recipe, tiny_teacher, other, waves):
    recipe = read_recipe(tiny_recipe, [f"student.llm={other}", "student.llm_layers=null"])
    teacher, processor = tiny_teacher
    student = student_of(recipe, teacher, processor).eval()
    given = LlamaForCausalLM.from_pretrained(other)
    own = SalmonnProcessor(processor.tokenizer, student.config)
    pad = own.config.pad_token_id
    assert torch.equal(student.get_input_embeddings().weight[:pad], given.get_input_embeddings().weight)
    for kept, layer in zip(student.llm.get_decoder().layers, given.get_decoder().layers, strict=True):
        for mine, theirs in zip(kept.parameters(), layer.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    batch = own([Clip(wave, "transcribe", "press one") for wave in waves])
    assert student(batch).logits.shape[-1] == teacher.config.llm_config.vocab_size
    assert student.connector.proj.out_features == 24
    # What is not the LLM's is the teacher's still.
    assert torch.equal(student.connector.ln_speech.weight, teacher.connector.ln_speech.weight)


def test_layers_of_another_llm_can_be_left_out_too(tiny_recipe, tiny_teacher, other):
    recipe = read_recipe(tiny_recipe, [f"student.llm={other}", "student.llm_layers=[0, 2]"])
    assert student_of(recipe, *tiny_teacher).config.llm_config.num_hidden_layers == 2
    recipe = read_recipe(tiny_recipe, [f"student.llm={other}", "student.llm_layers=[0, 3]"])
    with pytest.raises(InputError, match="llm_layers"):
        student_of(recipe, *tiny_teacher)


def test_another_vocabulary_is_refused(tiny_recipe, tiny_teacher, other):
    tokens = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    recipe = read_recipe(tiny_recipe, [f"student.llm={other}", "student.llm_layers=null"])
    with pytest.raises(InputError, match="has another vocabulary than the teacher's LLM"):
        student_of(recipe, *tiny_teacher)


def test_a_missing_llm_is_named_before_anything_is_loaded(tiny_recipe, command):
    llm = ["--set", "student.llm=/no/llama", "--set", "student.llm_source=hf download it --local-dir {place}"]
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *llm)
    assert status == 2
    assert "student's llm: /no/llama (config.json and *.safetensors)\n    hf download it --local-dir /no/llama" in err
    assert missing_llm(read_recipe(tiny_recipe).student) == []


def test_audio_tokens_of_another_width_are_projected(tiny_recipe, fill_tiny_cache, command, other, tmp_path):
    fill_tiny_cache()
    changes = [f"student.llm={other}", "student.llm_layers=null", "train.stages.1.losses.ctc=0", "name=other"]
    changes += ["student.window_frames=6", "student.window_stride=5", "train.save_every=1", "train.keep_checkpoints=9"]
    options = [word for override in changes for word in ("--set", override)]
    status, out, err = command("distill/train.py", "--config", tiny_recipe, *options)
    assert status == 0, err
    assert "trained model" in out
    run = tmp_path / "runs" / "other"
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert [step["lr"]["projections"] > 0 for step in steps] == [True] * 2 + [False] * 4

    def projection(step):
        files = (run / "checkpoints" / f"step_{step}").glob("*model_states.pt")
        return torch.load(next(files), weights_only=False)["module"]["matching.project.audio_tokens.weight"]

    assert projection(1).shape == (48, 24) and not torch.equal(projection(1), projection(2))
    assert torch.equal(projection(2), projection(6))  # at rest
    model = SalmonnForConditionalGeneration.from_pretrained(run / "model")
    assert (model.config.window_frames, model.config.window_stride) == (6, 5)
    assert not [key for key in load_file(run / "model" / "model.safetensors") if "matching" in key]


def test_at_random_weights_it_is_built_from_its_shapes(tiny_recipe):
    shapes = SHAPES["llm"] | {"hidden_size": 24}
    overrides = ["teacher.random_weights=true", f"teacher.shapes={json.dumps(SHAPES)}", "teacher.weights=null"]
    overrides += [
        "student.encoder_layers=[0]",
        "student.llm=/no/llm",
        f"student.llm_shapes={json.dumps(shapes)}",
        "student.llm_layers=null",
    ]
    recipe = read_recipe(tiny_recipe, overrides)
    teacher, processor = build_teacher(recipe.teacher)
    assert student_of(recipe, teacher, processor).config.llm_config.hidden_size == 24
    without = recipe.student.model_copy(update={"llm_shapes": None})
    with pytest.raises(InputError, match=r"states no student\.llm_shapes"):
        other_llm(without, processor.tokenizer, 9, torch.float32, random_weights=True)


def test_so_many_layers_are_evenly_spaced():
    assert layers_kept(16, 32, "x")[:4] == (0, 2, 4, 6) and layers_kept(16, 32, "x")[-1] == 31
    assert layers_kept(3, 6, "x") == (0, 2, 5) and layers_kept(6, 6, "x") == tuple(range(6))
    assert layers_kept(1, 6, "x") == (0,) and layers_kept(None, 4, "x") == (0, 1, 2, 3)
    with pytest.raises(InputError, match=r"student\.x: 7 layers of 6"):
        layers_kept(7, 6, "x")
