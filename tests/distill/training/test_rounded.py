"""A run whose LLM computes with rounded weights."""

import pytest
import torch
from safetensors.torch import load_file

from student.rounding import as_q4_0

ROUNDED = "train.rounded_llm=q4_0"


def test_a_run_learns_what_rounding_costs_and_writes_what_is_not_rounded(train, tmp_path):
    plain, _ = train("plain")
    rounded, validated = train("rounded", ROUNDED)
    pairs = [(a["ce"], b["ce"]) for a, b in zip(plain, rounded, strict=True) if "ce" in a]
    assert pairs and all(a != b and a == pytest.approx(b, rel=0.2) for a, b in pairs)
    assert validated
    sharded = ["deepspeed.zero_optimization.stage=3", "deepspeed.activation_checkpointing={}"]
    again, _ = train("sharded", ROUNDED, *sharded)
    assert [step["loss"] for step in again] == pytest.approx([step["loss"] for step in rounded], rel=1e-4)
    weights = load_file(tmp_path / "runs" / "rounded" / "model" / "model.safetensors")
    weight = next(of for name, of in weights.items() if name.endswith("down_proj.weight"))
    assert not torch.equal(as_q4_0(weight), weight)
