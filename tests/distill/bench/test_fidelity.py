import numpy as np
import pytest
import torch

from data.cache.targets import SparseTargets, draw
from distill.bench.fidelity import compare, even_gradient, exact_gradient, renormalised_gradient, tail_gradient
from distill.losses.fused import fused_loss
from distill.losses.signals import SparseSignal

N, V = 6, 30


@pytest.fixture
def logits():
    rng = torch.Generator().manual_seed(0)
    return 2 * torch.randn(N, V, generator=rng), torch.randn(N, V, generator=rng)


def cut(teacher_NV, top_p, top_k):
    return SparseTargets.from_logits(teacher_NV, np.zeros(N, np.int32), top_p=top_p, top_k=top_k)


@pytest.mark.parametrize(("top_p", "top_k"), [(0.5, 30), (0.9, 4), (0.99, 30), (1.0, 30)])
def test_the_tail_gradient_is_the_losss(logits, top_p, top_k):
    teacher_NV, student_NV = logits
    assert_the_losss(cut(teacher_NV, top_p, top_k), student_NV)


@pytest.mark.parametrize("top_k", [1, 4, 30])
def test_the_even_gradient_is_the_losss(logits, top_k):
    teacher_NV, student_NV = logits
    targets, free_NV = cut(teacher_NV, 1.0, top_k), student_NV.clone().requires_grad_()
    labels, settings = torch.zeros(N, dtype=torch.long), {"ce_weight": 0.0, "kd_weight": 1.0, "tail": "even"}
    fused_loss(free_NV, torch.eye(V), labels, SparseSignal.collate([targets]), **settings).loss.backward()
    torch.testing.assert_close(even_gradient(targets, student_NV).float(), free_NV.grad, atol=5e-4, rtol=1e-3)


def assert_the_losss(targets, student_NV):
    free_NV = student_NV.clone().requires_grad_()
    signal = SparseSignal.collate([targets])
    labels = torch.zeros(N, dtype=torch.long)
    fused_loss(free_NV, torch.eye(V), labels, signal, ce_weight=0.0, kd_weight=1.0).loss.backward()
    # Where all is kept, rounding leaves a tail that the loss knows to be nothing.
    torch.testing.assert_close(tail_gradient(targets, student_NV).float(), free_NV.grad, atol=5e-4, rtol=1e-3)


def test_everything_kept_is_exact_and_less_is_less(logits):
    teacher_NV, student_NV = logits
    exact_NV = exact_gradient(teacher_NV, student_NV)
    errors = []
    for top_p in (0.5, 0.9, 0.99, 1.0):
        targets = cut(teacher_NV, top_p, V)
        tail, renormalised = (compare(f(targets, student_NV), exact_NV) for f in (tail_gradient, renormalised_gradient))
        assert tail.error < renormalised.error or top_p == 1
        errors.append(tail.error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-3 and tail.cosine == pytest.approx(1, abs=1e-5)


def test_a_tail_that_is_even_is_spread_exactly(logits):
    _, student_NV = logits
    teacher_NV = torch.full((N, V), -3.0)
    teacher_NV[:, 2], teacher_NV[:, 5] = 3.0, 2.0
    targets = cut(teacher_NV, 1.0, 2)
    found = compare(even_gradient(targets, student_NV), exact_gradient(teacher_NV, student_NV))
    assert (
        found.error < 1e-3 < compare(tail_gradient(targets, student_NV), exact_gradient(teacher_NV, student_NV)).error
    )
    everything = cut(teacher_NV, 1.0, V)
    torch.testing.assert_close(
        even_gradient(everything, student_NV), exact_gradient(teacher_NV, student_NV), atol=5e-4, rtol=0
    )


def test_many_draws_come_near(logits):
    teacher_NV, student_NV = logits
    exact_NV = exact_gradient(teacher_NV, student_NV)
    errors = {}
    for draws in (5, 1000):
        (targets,) = draw(teacher_NV, [np.zeros(N, np.int32)], draws=draws, seeds=[0])
        errors[draws] = compare(tail_gradient(targets, student_NV), exact_NV).error
    assert errors[1000] < 0.06 < 0.2 < errors[5]


def test_the_gradient_of_draws_is_the_losss(logits):
    teacher_NV, student_NV = logits
    (targets,) = draw(teacher_NV, [np.zeros(N, np.int32)], draws=12, seeds=[0])
    assert_the_losss(targets, student_NV)
