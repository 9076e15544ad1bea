"""Compiled layers train as plain ones; here by a compiler that makes no machine code, which would take minutes."""

import pytest
import torch
from safetensors.torch import load_file

from data.errors import InputError
from distill.recipe.reading import read_recipe
from distill.training import compiling
from tests.conftest import records


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Counts the graphs that layers are traced to."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


def test_a_compiled_run_is_the_plain_one_and_goes_on_as_it(train, traced, stopping_at, tmp_path):
    plain, _ = train("plain")
    assert not traced
    with stopping_at(2):
        train("compiled", "train.compile=true", ends=130)
    assert 0 < len(traced) < 20
    train("compiled", "train.compile=true")
    found = records(tmp_path / "runs" / "compiled" / "steps.jsonl")
    for name in ("loss", "grad_norm"):
        assert [step[name] for step in found] == pytest.approx([step[name] for step in plain], rel=1e-4)
    a, b = (load_file(tmp_path / "runs" / name / "model" / "model.safetensors") for name in ("plain", "compiled"))
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_where_it_cannot_be_compiled_one_line_says_so(train, command, tiny_recipe, monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(compiling, "BACKEND", no_compiler)
    status, _, err = command("distill/train.py", "--config", tiny_recipe, "--set", "train.compile=true")
    assert status == 2 and "train.compile: a layer cannot be compiled here" in err.splitlines()[-1]
    assert "no C++ compiler" in err.splitlines()[-1] and "set train.compile=false" in err.splitlines()[-1]


@pytest.mark.parametrize("change", ["activation_checkpointing={}", "zero_optimization.stage=3"])
def test_what_it_does_not_go_with_is_refused(tiny_recipe, change):
    with pytest.raises(InputError, match=r"train\.compile: "):
        read_recipe(tiny_recipe, ["train.compile=true", f"deepspeed.{change}"])
