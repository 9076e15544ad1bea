"""Recipes with their overrides and wordings, and grids of them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.paths import REPOSITORY
from data.prompts import instruction
from data.settings import read_settings
from distill.explore import Exploration, GridSettings
from distill.recipe.reading import read_recipe
from tests.fuzz.contract import ends_well, inputs
from tests.fuzz.spoiling import as_json, odd, spoilt_json

RECIPES = [json.loads(path.read_text()) for path in sorted((REPOSITORY / "configs").glob("*.json"))]
KEYS = [
    "name",
    "seed",
    "data.train",
    "data.valid.0",
    "data.prompts",
    "train.stages.1.steps",
    "train.stages",
    "cache",
    "cache.top_k",
    "x",
    "train.kd.temperature",
    "deepspeed.bf16.enabled",
    "teacher.qformer.heads",
    "student.encoder_layers.2",
]
WORDINGS = {"asr": ["transcribe"], "audiocaption": ["describe", "what is heard"], "QA": ["{}"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Of `--set`."""
    words = []
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)))
        value = draw(st.one_of(odd().map(lambda value: as_json(value).decode()), st.text(max_size=8)))
        words.append(f"{key}{draw(st.sampled_from(('=', '=', '=', '', '.', '==')))}{value}")
    return words


@inputs()
@given(data=st.data())
def test_recipes(folder, data):
    path = folder / "recipe.json"
    path.write_bytes(data.draw(spoilt_json(data.draw(st.sampled_from(RECIPES)))))
    words = data.draw(overrides())

    def read():
        recipe = read_recipe(path, words)
        assert json.loads(recipe.model_dump_json(), parse_constant=pytest.fail)["name"]
        assert recipe.total_steps > 0
        assert recipe.run_dir != recipe.results_dir

    ends_well(read, path, "--set")


@inputs()
@given(content=spoilt_json(WORDINGS), task=st.sampled_from(("asr", "audiocaption", "QA")), question=st.text(max_size=3))
def test_wordings(folder, content, task, question):
    path = folder / "wordings.json"
    path.write_bytes(content)

    def read():
        prompts = read_recipe(REPOSITORY / "configs/kd_mini.json", [f"data.prompts={path}"]).data.prompts
        assert instruction(prompts, task, "id", question).encode() is not None

    ends_well(read, path, "task")


GRID = {
    "name": "grid",
    "config": "configs/kd_mini.json",
    "set": {"seed": 1},
    "seeds": [0, 1],
    "start": {"train.stages.0.steps": 1},
    "arms": {"ce": {"student.weights": "{start}"}, "kd": {"train.kd.temperature": 2}},
    "axes": {"train.stages.0.losses.kd": [0.5, 1]},
}


@inputs(100)
@given(content=spoilt_json(GRID))
def test_grids(folder, content):
    path = folder / "grid.json"
    path.write_bytes(content)
    ends_well(
        lambda: Exploration(read_settings(GridSettings, path), None),
        path,
        "configs/kd_mini.json",
        "--set",
        "no such recipe",
        "a JSON file",
        "is one JSON object",
    )


@inputs(100)
@given(
    content=spoilt_json({"name": "grid", "seeds": [0], "about": {}, "runs": [], "done": {"ce_0": "abc"}, "failed": {}})
)
def test_grids_that_were_begun(folder, content):
    grid = GridSettings(name="grid", config="configs/kd_mini.json", set={"results": str(folder)}, arms={"ce": {}})
    path = folder / "grid" / "grid.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    ends_well(lambda: Exploration(grid, lambda command: (1, "no")).explore(), path)
