"""Parts that are frozen in a stage and join in a later one, against a plain loop with an AdamW for each part."""

import json
import shutil

import pytest
import torch

from data.cache.reader import CacheReader
from distill.models.students import student_of
from distill.recipe.reading import read_recipe
from distill.recipe.rows import read_rows
from distill.recipe.stages import PARTS
from distill.training.deepspeed_insides import skip_frozen_groups
from distill.training.examples import Examples
from distill.training.loader import StepLoader
from distill.training.objective import Objective
from distill.training.optimizer import learning_rate, parameter_groups, parameters_by_part
from student.shrink import set_trainable
from teacher.build import build_teacher
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor

STAGES = [
    {"lr": {"connector": 1e-3}},
    {"lr": {"connector": 1e-3, "llm": 1e-3}},
    {"lr": {"encoder": 1e-3, "llm": 1e-3}},
    {"lr": {"encoder": 1e-3, "connector": 1e-3, "llm": 1e-3}},
]
STAGES = [
    {"name": str(i), "steps": 2, "losses": {"ce": 1, "kd": 1}, "max_seconds": 6, "warmup_steps": 1} | stage
    for i, stage in enumerate(STAGES)
]
OVERRIDES = [
    f"train.stages={json.dumps(STAGES)}",
    "train.save_every=1",
    "train.keep_checkpoints=9",
    "train.weight_decay=0.1",
]


@pytest.fixture
def plain(tiny_recipe, fill_tiny_cache):
    """Losses, gradient norms and the student of the same run without DeepSpeed."""
    folder, _ = fill_tiny_cache()
    recipe = read_recipe(tiny_recipe, OVERRIDES)
    teacher, processor = build_teacher(recipe.teacher, torch.float32)
    student = student_of(recipe, teacher, processor)
    own = SalmonnProcessor(processor.tokenizer, student.config)
    set_trainable(student, set(PARTS))
    objective = Objective(student, recipe.train.kd).train()
    examples = Examples(recipe, own, read_rows(recipe, recipe.data.train), CacheReader(folder))
    loader = StepLoader(recipe, examples, rank=0, world=1, accumulation=1)
    parts = parameters_by_part(objective)
    groups = parameter_groups(objective, recipe.train.weight_decay)
    optimizers: dict[str, torch.optim.AdamW] = {}
    losses, norms = [], []
    for step in range(recipe.total_steps):
        index, within = recipe.locate(step)
        stage = recipe.train.stages[index]
        (example,) = loader.load(step)
        loss, _ = objective(example, stage.weights_at(within), example.counts(student))
        objective.zero_grad()
        loss.backward()
        trained = [part for part in parts if stage.peak_lr(part)]
        parameters = [parameter for part in trained for parameter in parts[part]]
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        for part in trained:
            if part not in optimizers:
                of_part = [group for group in groups if group["name"] == part]
                optimizers[part] = torch.optim.AdamW(of_part, betas=recipe.train.betas)
            for group in optimizers[part].param_groups:
                group["lr"] = learning_rate(stage.peak_lr(part), stage, within)
            optimizers[part].step()
        losses.append(loss.item())
    return losses, norms, student


@pytest.mark.parametrize(("zero", "offload"), [(2, False), (2, True), (3, False)])
def test_parts_join_as_in_a_plain_loop_with_an_optimizer_for_each(
    plain, command, tiny_recipe, tmp_path, monkeypatch, zero, offload
):
    losses, norms, student = plain
    seen = []
    encode = SalmonnForConditionalGeneration.encode

    def watched(model, features):
        states = encode(model, features)
        if model.training:
            llm = [p.requires_grad for name, p in model.named_parameters() if name.startswith("llm.model.layers")]
            seen.append((states.speech_BTD.requires_grad, any(llm)))
        return states

    monkeypatch.setattr(SalmonnForConditionalGeneration, "encode", watched)
    block = {"stage": zero, "stage3_param_persistence_threshold": 0}
    block |= {"offload_optimizer": {"device": "cpu"}} if offload else {}
    changes = [*OVERRIDES, f"deepspeed.zero_optimization={json.dumps(block)}", "name=joined"]
    changes.append("deepspeed.zero_force_ds_cpu_optimizer=false")  # which would be compiled
    options = [word for override in changes for word in ("--set", override)]
    status, _, err = command("distill/train.py", "--config", tiny_recipe, *options)
    assert status == 0, err
    run = tmp_path / "runs" / "joined"
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    # ZeRO-3 gathers weights as they are used: what needs a gradient is told by what comes out.
    assert [encoder for encoder, _ in seen] == [False] * 4 + [True] * 4
    assert zero == 3 or [llm for _, llm in seen] == [False] * 2 + [True] * 6
    assert [step["loss"] for step in steps] == pytest.approx(losses, rel=1e-4)
    assert [step["grad_norm"] for step in steps] == pytest.approx(norms, rel=1e-3)
    model = SalmonnForConditionalGeneration.from_pretrained(run / "model")
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter.detach(), atol=5e-4, rtol=1e-3, msg=name)
    for last in (5, 3):  # with a state of every part, and before the first of them has joined
        for step in range(last + 1, 9):
            shutil.rmtree(run / "checkpoints" / f"step_{step}")
        status, out, err = command("distill/train.py", "--config", tiny_recipe, *options)
        assert status == 0 and f"going on from step {last}" in out, err
        again = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
        assert [step["loss"] for step in again] == [step["loss"] for step in steps]


def test_a_frozen_group_keeps_its_moments_and_its_count():
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [first], "name": "first", "lr": 0.1}, {"params": [second], "name": "second", "lr": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.5)
    skip_frozen_groups(optimizer)
    assert torch.equal(first, torch.ones(3)) and optimizer.param_groups[0]["lr"] == 0.1
    for rates in ((0.1, 0.0), (0.1, 0.0), (0.0, 0.1)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for parameter in (first, second):
            parameter.grad = torch.full((3,), 2.0)
        before = second.detach().clone(), first.detach().clone()
        optimizer.step()
        rested = 1 if rates[1] == 0 else 0
        assert torch.equal((first, second)[rested], before[1 - rested])
        assert first.grad is not None and second.grad is not None
    assert [int(optimizer.state[parameter]["step"]) for parameter in (first, second)] == [2, 1]
    alone = torch.nn.Parameter(torch.ones(3))
    alone.grad = torch.full((3,), 2.0)
    torch.optim.AdamW([alone], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(alone, second)
