"""The encoder's bench on the tiny recipe: what it runs, and what it writes."""

import json

import pytest
import torch

from data.errors import InputError
from distill.bench import encoder as bench
from distill.recipe.reading import read_recipe
from tests.teacher.test_build import SHAPES


def test_the_encoder_is_the_students(tiny_recipe):
    recipe = read_recipe(tiny_recipe, ["student.encoder_layers=[0]", "student.encoder_ffn=24", "teacher.dtype=bf16"])
    encoder = bench.student_encoder(recipe)
    assert len(encoder.layers) == 1 and encoder.layers[0].fc1.weight.shape == (24, 32)
    assert encoder.conv1.weight.dtype == torch.bfloat16
    shapes = ["teacher.random_weights=true", f"teacher.shapes={json.dumps(SHAPES)}", "student.encoder_layers=[0]"]
    assert bench.student_encoder(read_recipe(tiny_recipe, shapes)).conv1.out_channels == SHAPES["encoder"]["d_model"]
    with pytest.raises(InputError, match="encoder: /no/whisper"):
        bench.student_encoder(read_recipe(tiny_recipe, ["teacher.encoder=/no/whisper"]))


def test_each_clip_is_heard_with_its_margin_and_padded_to_30_s(monkeypatch, tiny_recipe):
    recipe, heard = read_recipe(tiny_recipe), []
    encoder = bench.student_encoder(recipe)
    encoder.register_forward_hook(lambda _, given, out: heard.append((given[0].shape[-1], int(given[1]), out.shape[1])))
    found = bench.measure(encoder, 0.5, seconds=(2, 30), runs=2)
    assert heard == [(250, 250, 125), (3000, 3000, 1500)] * 3 + [(3000, 3000, 1500)] * 6
    assert all(times["seconds"] > 0 and times["always_30_s"] > 0 for times in found.values())


def test_a_table_of_several_recipes(tiny_recipe, tmp_path, capsys):
    out = tmp_path / "results" / "bench_encoder.md"
    for name in ("one", "two"):
        words = ["--config", str(tiny_recipe), "--set", f"name={name}", "--seconds", "1", "5", "--runs", "1"]
        bench.main([*words, "--out", str(out), "--json"])
        figures = json.loads(capsys.readouterr().out)
        assert set(figures["clips"]) == {"1", "5"} and figures["layers"] == 1
    assert [line.split("|")[1].strip() for line in out.read_text().splitlines() if "32, fp32" in line] == [
        "one",
        "one",
        "two",
        "two",
    ]
    with pytest.raises(InputError, match="clips of 1 to 30 s are heard"):
        bench.main(["--config", str(tiny_recipe), "--seconds", "31"])
    with pytest.raises(InputError, match="the recipe has no student section"):
        bench.main(["--config", "configs/teacher_mini.json"])
