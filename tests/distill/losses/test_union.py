"""The divergence over the likeliest ids of both models, and how many they have in common, by their definitions."""

import math

import pytest
import torch

from distill.losses.fused import fused_loss
from distill.losses.signals import DenseSignal, HeadSignal, SparseSignal
from distill.losses.union import likeliest, overlap, union_signal
from tests.distill.losses.test_fused import DIVERGENCES, V, problem, reference_kd


def unions(student_NV, teacher_NV, k):
    """The union of each position, by sets; and the share that both have."""
    sets = [
        [set(row.argsort(descending=True)[:k].tolist()) for row in logits_NV] for logits_NV in (student_NV, teacher_NV)
    ]
    pairs = list(zip(*sets, strict=True))
    return [own | theirs for own, theirs in pairs], [len(own & theirs) / k for own, theirs in pairs]


def test_the_union_has_each_id_once_and_the_overlap_is_the_share_of_both():
    student_NV, teacher_NV = problem()[3].roll(1, 0), problem()[3]
    for k in (1, 5, V):
        wanted, shares = unions(student_NV, teacher_NV, k)
        ids_NK, there_NK = likeliest(student_NV, teacher_NV, k)
        for ids, there, union in zip(ids_NK, there_NK, wanted, strict=True):
            assert sorted(ids[there].tolist()) == sorted(union)
        assert overlap(there_NK).tolist() == pytest.approx(shares)
    assert likeliest(student_NV, teacher_NV, 1000)[0].shape == (7, 2 * V)


def test_the_teachers_mass_is_that_of_its_whole_distribution():
    student_NV, teacher_NV = problem()[3].roll(1, 0), problem()[3].clone()
    teacher_NV[:, -2:] = -math.inf  # rows of the student's head that stand for nothing
    student_NV[:, -1] = 9.0
    ids_NK, there_NK = likeliest(student_NV, teacher_NV, 4)
    made = union_signal(DenseSignal(teacher_NV), ids_NK, there_NK, torch.float64)
    p_NV = teacher_NV.softmax(1)
    for ids, logp, tail, p, there in zip(made.ids_NK, made.logp_NK, made.tail_N, p_NV, there_NK, strict=True):
        kept = dict(zip(ids[there].tolist(), logp[there].exp().tolist(), strict=True))
        assert kept == pytest.approx({i: float(p[i]) for i in kept}) and (logp[~there] == -math.inf).all()
        assert float(tail) == pytest.approx(sum(float(p[i]) for i in range(V) if i not in kept), abs=1e-15)


def reference_weighted(logits_NV, teacher_NV, k, divergence, beta, T, weights):
    """The sum over positions of weight times divergence, whose outcomes are the union and the rest."""
    total, (sets, _) = 0.0, unions(logits_NV.detach(), teacher_NV, k)
    for at, ids in enumerate(sets):
        ids_K = torch.tensor(sorted(ids))
        p_V = teacher_NV[at].softmax(0)
        rest = torch.ones(V, dtype=bool).scatter(0, ids_K, False)
        signal = SparseSignal(ids_K[None], p_V[ids_K].log()[None], p_V[rest].sum()[None], V - 1)
        total = total + weights[at] * reference_kd(logits_NV[at : at + 1], signal, divergence, beta, T)
    return total


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize(("k", "T"), [(1, 1.0), (4, 1.0), (4, 2.0), (V, 1.0)])
def test_the_union_equals_autograd(k, T, divergence, beta):
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    weights_N = torch.tensor([1.0, 3.0, 0.0, 1.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    settings = dict(divergence=divergence, beta=beta, alpha=beta, temperature=T, top=k, union=True)
    parts = fused_loss(
        *(hidden_ND, head_VD, labels_N, DenseSignal(teacher_NV)),
        **dict(ce_weight=0.3, kd_weight=0.7, kd_weight_N=weights_N, chunk_rows=3, block_rows=2) | settings,
    )
    logits_NV = hidden_ND @ head_VD.T
    kd = reference_weighted(logits_NV, teacher_NV, k, divergence, beta, T, weights_N)
    ce = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")
    torch.testing.assert_close((parts.ce, parts.kd), (ce.detach(), kd.detach()))
    loss = 0.3 * ce + 0.7 * T**2 * kd
    torch.testing.assert_close(parts.loss, loss)
    ours = torch.autograd.grad(parts.loss, (hidden_ND, head_VD))
    torch.testing.assert_close(ours, torch.autograd.grad(loss, (hidden_ND, head_VD)))
    assert float(parts.overlap) == pytest.approx(sum(unions(logits_NV, teacher_NV, k)[1]))
    assert int(parts.agreement) == int((logits_NV.argmax(1) == teacher_NV.argmax(1)).sum())


@pytest.mark.parametrize("union", [True, False])
def test_gradcheck_of_weighted_positions(union):
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=4)
    signal = HeadSignal(teacher_NV, torch.eye(V, dtype=torch.float64), V)
    weights_N = torch.tensor([1.0, 4.0, 0.0, 0.5], dtype=torch.float64)

    def loss(hidden_ND, head_VD):
        settings = dict(kd_weight_N=weights_N, top=6, union=union, chunk_rows=3)
        return fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0, kd_weight=1, **settings).loss

    assert torch.autograd.gradcheck(loss, (hidden_ND, head_VD))


def test_the_divergence_is_never_above_that_over_the_vocabulary_and_tends_to_it():
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    of = (hidden_ND, head_VD, labels_N, DenseSignal(teacher_NV))
    whole = fused_loss(*of, ce_weight=0, kd_weight=1, top=4)
    parts = [fused_loss(*of, ce_weight=0, kd_weight=1, top=k, union=True).kd.item() for k in (1, 4, 8, 16, V)]
    assert parts == sorted(parts) and parts[0] < parts[-1] == pytest.approx(whole.kd.item())
    assert whole.kd == fused_loss(*of, ce_weight=0, kd_weight=1).kd and 0 < whole.overlap < 7


def test_a_union_takes_a_teacher_whose_whole_is_known():
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    sparse = SparseSignal(torch.zeros(7, 1, dtype=torch.long), torch.zeros(7, 1), torch.zeros(7), 0)
    for signal, settings in ((sparse, {"top": 4}), (DenseSignal(teacher_NV), {"union": True})):
        with pytest.raises(ValueError, match="likeliest ids of both models"):
            fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0, kd_weight=1, **settings)
