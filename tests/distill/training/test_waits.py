"""The host launches what a GPU is to do, and never waits for it within a micro-batch."""

from contextlib import nullcontext

import pytest
import torch

from distill.losses.matching import FeatureMatching
from distill.losses.settings import DivergenceSettings, LossWeights, MatchSettings
from distill.models.frozen import FrozenTeacher
from distill.training.objective import Objective
from student.shrink import shrink
from teacher.model import merge_lora
from tests.distill.training.test_objective import SPREADS, STUDENT, example_of
from tests.pretended import DEVICE, Held, Pretended


@pytest.fixture
def made(tiny_teacher, waves):
    """An objective and an example of it, on the host."""
    teacher, processor = tiny_teacher
    student = shrink(teacher, STUDENT)
    merge_lora(teacher)
    matching = FeatureMatching(student, teacher.config, MatchSettings())
    matching.spreads = SPREADS | {"hidden": [1.0]}
    objective = Objective(student, DivergenceSettings(), None, FrozenTeacher(teacher), matching)
    return objective, example_of(processor, waves)


def test_what_is_pretended_is_seen():
    with Pretended() as device:
        x = torch.arange(6.0).to(DEVICE).requires_grad_()
        (x[x > 2].sum() * 2).backward()
        assert float(x.detach().sum()) == 15 and len(device.waits) == 3  # index, its gradient, number
        x.detach().cpu()
        assert len(device.waits) == 4
        with pytest.raises(AssertionError, match="left on the host"):
            x + torch.ones(6)


@pytest.mark.parametrize("memory", [False, True])
def test_a_micro_batch_is_launched_without_a_wait(made, memory, monkeypatch):
    # The pretended device has no autocast.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    objective, example = made
    if memory:
        example.signal = None
    counts = example.counts(objective.student)
    weights = LossWeights(ce=0.3, kd=0.7, encoder=0.5, audio_tokens=0.4, hidden=0.1)
    with Pretended() as device:
        device.held(objective)
        device.held(objective.teacher.model)
        loss, sums = objective(example.to(DEVICE), weights, counts)
        loss.backward()
        assert not device.waits, "\n".join(device.waits)
        assert isinstance(loss, Held) and all(isinstance(value, Held) for value in sums.values())
        assert float(loss) > 0
