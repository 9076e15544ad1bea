"""What the recipe's `deepspeed` block asks for is done: the same losses, however they are computed."""

import json
from types import SimpleNamespace

import deepspeed
import pytest
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.activation_checkpointing import checkpointing

from distill.training.deepspeed_insides import forget_gradients
from distill.training.engine import join_ranks
from distill.training.objective import Objective

ON_CPU = get_accelerator().device_name() == "cpu"
WHOLE_LAYERS = '{"stage": 3, "stage3_param_persistence_threshold": 0}'
# Adapters alone, and an input of the LLM that needs no gradient.
ADAPTERS = [
    'train.stages=[{"name": "lora", "steps": 3, "max_seconds": 6, "losses": {"ce": 1}, "lr": {"llm": 1e-2}}]',
    'student.lora={"r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}',
]
# Every part, dropout too.
PARTS = [
    'train.stages=[{"name": "all", "steps": 3, "max_seconds": 6, "losses": {"ce": 1}, '
    '"lr": {"encoder": 1e-4, "connector": 1e-4, "llm": 1e-4}}]',
    "student.qformer.dropout=0.1",
]


@pytest.fixture
def train(command, tiny_recipe, tmp_path):
    """Runs distill/train.py on the texts alone; gives loss and gradient norm of each step, or the error."""

    def train(name, *overrides, ends=0):
        words = [f"name={name}", "cache=null", *overrides]
        options = [word for override in words for word in ("--set", override)]
        status, _, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == ends, err
        if ends:
            return err.strip().splitlines()[-1]
        lines = (tmp_path / "runs" / name / "steps.jsonl").read_text().splitlines()
        return [json.loads(line)[key] for line in lines for key in ("loss", "grad_norm")]

    return train


@pytest.mark.parametrize("trained", [ADAPTERS, PARTS], ids=["adapters", "parts"])
def test_recomputed_activations_change_no_gradient(train, trained):
    kept = train("kept", *trained)
    assert kept[1] > 0

    recomputed = train("recomputed", *trained, "deepspeed.activation_checkpointing={}")
    assert recomputed == pytest.approx(kept, rel=1e-5)
    partitioned = [f"deepspeed.zero_optimization={WHOLE_LAYERS}", "deepspeed.activation_checkpointing={}"]
    assert train("partitioned", *trained, *partitioned) == pytest.approx(kept, rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_zero_the_gradients_norm_is_the_same(train, accumulation):
    changes = [*PARTS, f"deepspeed.gradient_accumulation_steps={accumulation}"]
    clipped = [*changes, "deepspeed.gradient_clipping=0.01"]
    for name, of in (("plain", changes), ("clipped", clipped)):
        norms = [train(f"{name}_{stage}", *of, f"deepspeed.zero_optimization.stage={stage}") for stage in (0, 1)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_without_zero_a_lost_gradient_ends_the_run_before_it_is_saved(train, tmp_path, monkeypatch):
    steps = iter([1.0, 1.0, float("nan"), 1.0])
    total = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda of: total(of) * next(steps))
    said = train("lost", *PARTS, "deepspeed.zero_optimization.stage=0", "train.save_every=1", ends=2)
    assert "the gradient's norm is nan at step 2" in said
    kept = (tmp_path / "runs" / "lost" / "checkpoints").glob("step_*")
    assert max(int(path.name.removeprefix("step_")) for path in kept) == 2


def test_inputs_that_are_moved_to_the_cpu_change_no_gradient(train, monkeypatch):
    """As on a GPU, though they are there already: DeepSpeed empties the tensors that it has moved."""
    matched = json.dumps({"ce": 1, "encoder": 1, "hidden": 1})
    changes = [*PARTS, f"train.stages.0.losses={matched}", "train.match.encoder_layers=[[0, 0], [1, 1], [-1, -1]]"]
    changes += ["train.match.hidden_layers=[[0, 0], [1, 2], [-1, -1]]", "student.encoder_layers=[0, 1]"]
    changes += ["student.qformer.layers=3", "student.qformer_layers=[]"]
    kept = train("kept", *changes)

    def copies(items, device, criterion_func):
        return [item.clone() if criterion_func(item) else item for item in items]

    monkeypatch.setattr(checkpointing, "copy_to_device", copies)
    elsewhere = SimpleNamespace(device_name=lambda: "another")
    monkeypatch.setattr("distill.training.activations.get_accelerator", lambda: elsewhere)
    for name, block in (("moved", {"cpu_checkpointing": True}), ("recomputed", {"cpu_checkpointing": False})):
        section = f"deepspeed.activation_checkpointing={json.dumps(block)}"
        assert train(name, *changes, section) == pytest.approx(kept, rel=1e-5)


class Two(torch.nn.Module):
    """Two layers, one of which is not always used."""

    def __init__(self):
        super().__init__()
        self.always, self.seldom = (torch.nn.Linear(4, 4, bias=False) for _ in range(2))

    def forward(self, x, both):
        return self.always(x).sum() + (100 * self.seldom(x).sum() if both else 0)


@pytest.mark.skipif(not ON_CPU, reason="DeepSpeed's own optimizer would be compiled")
@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_what_no_loss_reaches_is_moved_by_no_older_gradient(monkeypatch, free_port, zero, offload):
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_RANK", "0")
    join_ranks(60)
    block = {"stage": zero, "stage3_param_persistence_threshold": 0, "offload_optimizer": {"device": offload}}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": block, "zero_allow_untested_optimizer": True}
    model = Two()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.0, 0.9), weight_decay=0.0),
        config=config | {"zero_force_ds_cpu_optimizer": False},
        dist_init_required=False,
    )
    weights, norms = [], []
    for both in (True, False, False):
        forget_gradients(engine)
        engine.backward(engine(torch.ones(1, 4), both))
        engine.step()
        norms.append(float(engine.get_global_grad_norm()))
        with deepspeed.zero.GatheredParameters([model.seldom.weight]):
            weights.append(model.seldom.weight.detach().clone())
    assert norms[0] > 400 and norms[1:] == pytest.approx([4.0, 4.0])
    assert torch.equal(weights[1], weights[0]) and torch.equal(weights[2], weights[0])


@pytest.mark.skipif(not ON_CPU, reason="DeepSpeed's own optimizer would be compiled")
def test_offloading_changes_no_loss(train):
    kept = train("kept", *PARTS)
    own = "deepspeed.zero_force_ds_cpu_optimizer=false"
    for stage, what in ((2, ["offload_optimizer"]), (3, ["offload_optimizer", "offload_param"])):
        zero = {"stage": stage} | {name: {"device": "cpu"} for name in what}
        block = f"deepspeed.zero_optimization={json.dumps(zero)}"
        assert train(f"zero_{stage}", *PARTS, block, own) == pytest.approx(kept, rel=1e-4)


def test_bf16_is_near_and_clipping_holds(train):
    kept = train("kept", *PARTS)
    assert train("bf16", *PARTS, 'deepspeed.bf16={"enabled": true}')[0] == pytest.approx(kept[0], rel=0.05)
    clipped = train("clipped", *PARTS, "deepspeed.gradient_clipping=1e-9")
    assert clipped[:2] == kept[:2] and clipped[4] != kept[4]


def test_fp16_scales_its_loss_and_a_collapsed_scale_ends_the_run(train, monkeypatch):
    # PyTorch computes it on a CPU too, slowly; DeepSpeed says that it does not.
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
    kept = train("kept", *PARTS)
    scaled = train("scaled", *PARTS, 'deepspeed.fp16={"enabled": true, "initial_scale_power": 8}')
    assert scaled[0] == pytest.approx(kept[0], rel=0.02) and scaled[1] == pytest.approx(kept[1], rel=0.1)
    assert scaled[4] != scaled[0]
    never = '{"enabled": true, "initial_scale_power": 20, "min_loss_scale": 262144, "hysteresis": 1}'
    line = train("collapsed", *PARTS, "train.stages.0.steps=8", f"deepspeed.fp16={never}", ends=2)
    assert line.startswith("error: fp16: gradients overflow even at the lowest loss scale")


@pytest.mark.parametrize("zero", [1, 3])
def test_under_fp16_a_step_whose_loss_is_no_number_is_left_out(train, monkeypatch, tmp_path, zero):
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
    forward, calls = Objective.forward, []

    def overflowing(self, *given):
        loss, sums = forward(self, *given)
        if self.training:
            calls.append(1)
        factor = float("inf") if self.training and len(calls) == 2 else 1.0
        return loss * factor, {name: value * factor for name, value in sums.items()}

    monkeypatch.setattr(Objective, "forward", overflowing)
    fp16 = ['deepspeed.fp16={"enabled": true, "initial_scale_power": 8, "hysteresis": 1}']
    train("scaled", *PARTS, *fp16, f"deepspeed.zero_optimization.stage={zero}")
    lines = (tmp_path / "runs" / "scaled" / "steps.jsonl").read_text().splitlines()
    steps = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]
    assert steps[1]["loss"] is None and steps[1]["ce"] is None
    assert steps[0]["loss"] > 0 and steps[2]["loss"] > 0 and steps[2]["grad_norm"] > 0
    assert steps[2]["loss_scale"] == steps[0]["loss_scale"] / 2


@pytest.mark.skipif(not ON_CPU, reason="refused on a CPU alone")
def test_what_this_machine_cannot_do_is_refused_in_one_line(train):
    line = train("fp16", *PARTS, 'deepspeed.fp16={"enabled": true}', ends=2)
    assert (
        line
        == "error: deepspeed section of the recipe: DeepSpeed refuses it (Type fp16 is not supported on your device.)"
    )
    line = train("moved", *PARTS, 'deepspeed.activation_checkpointing={"cpu_checkpointing": true}', ends=2)
    assert line.startswith("error: deepspeed.activation_checkpointing.cpu_checkpointing: this is the CPU")
