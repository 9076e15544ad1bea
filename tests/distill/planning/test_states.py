"""Bytes of weights, gradients and states beside those of DeepSpeed's own buffers."""

import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from distill.models.students import student_of
from distill.planning.states import engine_of
from distill.recipe.reading import read_recipe
from distill.training.building import train_parts
from distill.training.engine import join_ranks, start_engine
from distill.training.objective import Objective
from distill.training.optimizer import parameter_groups

ON_CPU = get_accelerator().device_name() == "cpu"
BF16 = ["deepspeed.bf16.enabled=true", "deepspeed.data_types.grad_accum_dtype=fp32"]


def nbytes(tensors):
    return sum(of.numel() * of.element_size() for of in tensors)


@pytest.fixture
def alone(monkeypatch, free_port):
    """This process is the only rank."""
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    for name, value in rank.items():
        monkeypatch.setenv(name, str(value))
    join_ranks(60)


@pytest.mark.skipif(not ON_CPU, reason="compared with buffers on the CPU")
@pytest.mark.parametrize(("zero", "precision"), [(1, []), (2, []), (2, BF16)], ids=["1", "2", "2 in bf16"])
def test_states_are_those_of_deepspeed(alone, tiny_recipe, tiny_teacher, zero, precision):
    changes = [f"deepspeed.zero_optimization.stage={zero}", *precision]
    recipe = read_recipe(tiny_recipe, changes)
    student = student_of(recipe, *tiny_teacher)
    train_parts(recipe, student)
    objective = Objective(student, recipe.train.kd)
    groups = [sum(of.numel() for of in group["params"]) for group in parameter_groups(objective, 0.01)]
    planned = engine_of(recipe.deepspeed, dist.get_world_size())
    engine = start_engine(recipe, objective)
    assert planned.weights(sum(of.numel() for of in student.parameters())) == nbytes(engine.module.parameters())
    trained = [of for of in engine.module.parameters() if of.requires_grad]
    assert sum(groups) == sum(of.numel() for of in trained)
    engine.backward(sum(of.float().square().sum() for of in trained))
    kept = [of for gradients in engine.optimizer.averaged_gradients.values() for of in gradients or ()]
    kept += [of for of in (getattr(parameter, "grad_accum", None) for parameter in trained) if of is not None]
    if zero == 2:
        assert planned.gradients(groups) == nbytes(kept)
    else:
        assert planned.gradients(groups) == nbytes(trained) * planned.gradient // planned.element
    engine.step()
    states = [of for state in engine.basic_optimizer.state.values() for of in state.values() if of.ndim]
    assert planned.states(groups) == nbytes([*states, *engine.optimizer.single_partition_of_fp32_groups])
    engine.destroy()


def test_zero_shares_out_what_the_paper_says():
    """Figure 1 of Rajbhandari et al. 2020: 7.5 billion parameters on 64 ranks, in GB."""
    whole = [7_500_000_000]
    for stage, expected in ((0, 120), (1, 31.4), (2, 16.6), (3, 1.9)):
        of = engine_of({"bf16": {"enabled": True}, "zero_optimization": {"stage": stage}}, 64)
        found = of.weights(sum(whole)) + of.gradients(whole) + of.states(whole)
        assert found / 1e9 == pytest.approx(expected, rel=0.02)


def test_what_is_offloaded_is_not_on_the_gpu():
    block = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 1000}}
    of = engine_of(block, 1)
    assert of.states([10]) == of.gradients([10]) == 0 and of.buckets() == 4000
    assert engine_of({}, 1).buckets() == 0
    assert torch.float32.itemsize == of.element == of.gradient
