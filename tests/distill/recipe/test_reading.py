import json
from types import SimpleNamespace

import pytest

from distill.recipe import reading
from distill.recipe.reading import read_recipe, recipe_of, recipe_parser
from teacher.build import weights_hash


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_that_does_not_compute_in_bf16_takes_fp32_and_says_so(tiny_recipe, monkeypatch, capsys, native):
    monkeypatch.setattr(reading, "cpu_has_bf16", lambda: native)
    bf16 = ["teacher.dtype=bf16", 'deepspeed.bf16={"enabled": true}']

    def taken(*overrides):
        words = [word for override in (*bf16, *overrides) for word in ("--set", override)]
        recipe = recipe_of(recipe_parser("").parse_args(["--config", str(tiny_recipe), *words]))
        return recipe.teacher.dtype, recipe.deepspeed["bf16"]["enabled"], capsys.readouterr().err

    says = "fp32 in place of bf16 (teacher.dtype, deepspeed.bf16), as this CPU does not compute in bf16; "
    says += "--set bf16_on_cpu=always takes bf16\n"
    assert taken() == (("bf16", True, "") if native else ("fp32", False, says))
    assert taken("bf16_on_cpu=always") == ("bf16", True, "")
    dtype, trained, said = taken("teacher.dtype=fp16")
    assert (dtype, trained) == ("fp16", native) and ("(deepspeed.bf16)" in said) == (not native)
    monkeypatch.setenv("RANK", "1")
    assert taken()[2] == ""
    monkeypatch.setattr(reading, "get_accelerator", lambda: SimpleNamespace(device_name=lambda: "cuda"))
    assert taken() == ("bf16", True, "")


def test_what_is_cached_and_scored_knows_the_precision_that_was_taken(command, tiny_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "cpu_has_bf16", lambda: False)
    own = ("--config", tiny_recipe, "--set", "teacher.dtype=bf16")
    assert command("scripts/cache_teacher.py", *own)[0] == 0
    teacher = read_recipe(tiny_recipe, ["teacher.dtype=fp32"]).teacher
    identity = json.loads((tmp_path / "cache" / "identity.json").read_text())
    assert identity["teacher"] == weights_hash(teacher)
    status, _, err = command("scripts/cache_teacher.py", *own, "--set", "bf16_on_cpu=always")
    assert status == 2 and "made from another teacher" in err
    assert command("scripts/evaluate.py", *own, "--model", "teacher", "--task", "asr")[0] == 0
    metrics = json.loads((tmp_path / "results" / "tiny" / "teacher" / "metrics.json").read_text())
    assert metrics["dtype"] == "fp32"
