"""The fused loss against plain autograd over the whole vocabulary. N positions, V vocabulary, D width, K kept ids."""

import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distill.losses.fused import fused_loss
from distill.losses.signals import DenseSignal, HeadSignal, SparseSignal
from distill.losses.universal import SpanSignal

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("js", 0.5), ("js", 0.1)]
DIVERGENCES += [("skew_kl", 0.1), ("skew_kl", 0.6), ("skew_reverse_kl", 0.1), ("skew_reverse_kl", 0.6), ("tv", 0.5)]
V, D = 23, 5


def problem(N=7, V=V, D=D, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(N + V + D)
    hidden_ND = torch.randn(N, D, generator=generator, dtype=torch.float64)
    head_VD = torch.randn(V, D, generator=generator, dtype=torch.float64)
    teacher_NV = 2 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    labels_N = torch.randint(V, (N,), generator=generator)
    hidden_ND, head_VD = (x.to(device, dtype).requires_grad_() for x in (hidden_ND, head_VD))
    return hidden_ND, head_VD, labels_N.to(device), teacher_NV.to(device)


def cut(teacher_NV, counts):
    """The kept ids of each row, by count; ragged rows are padded with an id that is kept in none or some of them."""
    logp_NV, ids_NV = teacher_NV.log_softmax(1).sort(1, descending=True)
    counts_N1 = torch.as_tensor(counts, device=teacher_NV.device).expand(len(teacher_NV))[:, None]
    padding_NV = torch.arange(teacher_NV.shape[1], device=teacher_NV.device) >= counts_N1
    K = max(int(counts_N1.max()), 1)
    tail_N = logp_NV.exp().masked_fill(~padding_NV, 0).sum(1)
    ids_NK = ids_NV.masked_fill(padding_NV, 0)[:, :K]
    return SparseSignal(ids_NK, logp_NV.masked_fill(padding_NV, -math.inf)[:, :K], tail_N, int(ids_NK.max()))


def reference_kd(logits_NV, signal, divergence, beta, T=1.0):
    """The divergence, summed, by definition: probabilities of the outcomes, their powers, sums over them."""
    q_NV = logits_NV.softmax(1)
    if isinstance(signal, DenseSignal):
        p, q = signal.logits_NV.softmax(1), q_NV
    else:
        kept_NK = signal.logp_NK > -math.inf
        is_kept_NV = torch.zeros_like(q_NV).scatter_add(1, signal.ids_NK, kept_NK.to(q_NV.dtype)) > 0
        q = [q_NV.gather(1, signal.ids_NK) * kept_NK, q_NV.masked_fill(is_kept_NV, 0).sum(1, keepdim=True)]
        p, q = torch.cat([signal.logp_NK.exp(), signal.tail_N[:, None]], 1), torch.cat(q, 1)
    if T != 1:
        p, q = p ** (1 / T), torch.where(q > 0, q, 1) ** (1 / T) * (q > 0)
        p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)

    def kl(a, b):
        there = a > 0
        return torch.where(there, a * (torch.where(there, a, 1).log() - torch.where(there, b, 1).log()), 0).sum()

    if divergence == "forward_kl":
        return kl(p, q)
    if divergence == "reverse_kl":
        return kl(q, torch.where(p == 0, 2.0**-24, p))
    if divergence == "tv":
        return 0.5 * (p - q).abs().sum()
    if divergence == "skew_reverse_kl":
        return kl(q, (1 - beta) * p + beta * q)
    m = beta * p + (1 - beta) * q
    if divergence == "skew_kl":
        return kl(p, m)
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def assert_equals_reference(signal, divergence, beta, T=1.0, *, ce_weight=0.3, kd_weight=0.7, N=7):
    hidden_ND, head_VD, labels_N, _ = problem(N)
    parts = fused_loss(
        *(hidden_ND, head_VD, labels_N, signal),
        **dict(ce_weight=ce_weight, kd_weight=kd_weight, divergence=divergence, beta=beta, alpha=beta, temperature=T),
        chunk_rows=3,
    )
    logits_NV = hidden_ND @ head_VD.T
    ce = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")
    kd = reference_kd(logits_NV, signal, divergence, beta, T)
    torch.testing.assert_close((parts.ce, parts.kd), (ce.detach(), kd.detach()))
    loss = ce_weight * ce + kd_weight * T**2 * kd
    torch.testing.assert_close(parts.loss, loss)
    ours = torch.autograd.grad(parts.loss, (hidden_ND, head_VD))
    torch.testing.assert_close(ours, torch.autograd.grad(loss, (hidden_ND, head_VD)))


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("T", [1.0, 2.0])
@pytest.mark.parametrize("counts", [1, 2, V - 1, V, [1, 4, 0, V, 9, V - 1, 2]])
def test_sparse_equals_autograd(counts, T, divergence, beta):
    assert_equals_reference(cut(problem()[3], counts), divergence, beta, T)


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("T", [1.0, 0.5, 3.0])
def test_dense_equals_autograd(T, divergence, beta):
    assert_equals_reference(DenseSignal(problem()[3]), divergence, beta, T)


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("T", [1.0, 2.0])
def test_all_kept_equals_dense(T, divergence, beta):
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    settings = dict(ce_weight=0.5, kd_weight=0.5, divergence=divergence, beta=beta, alpha=beta, temperature=T)
    sparse, dense = (
        fused_loss(hidden_ND, head_VD, labels_N, signal, **settings)
        for signal in (cut(teacher_NV, V), DenseSignal(teacher_NV))
    )
    torch.testing.assert_close((sparse.loss, sparse.kd), (dense.loss, dense.kd))
    of = (hidden_ND, head_VD)
    torch.testing.assert_close(torch.autograd.grad(sparse.loss, of), torch.autograd.grad(dense.loss, of))
    assert (sparse.agreement, sparse.correct) == (dense.agreement, dense.correct)


@pytest.mark.parametrize("T", [1.0, 2.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "js"])
@pytest.mark.parametrize("counts", [1, 6, V, [1, 4, 0, V, 9, V - 1, 2]])
def test_an_even_tail_stands_for_the_whole_vocabulary(counts, divergence, T):
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    signal = cut(teacher_NV, counts)
    p_NV = torch.zeros_like(teacher_NV)
    for p_V, ids_K, logp_K, tail in zip(p_NV, signal.ids_NK, signal.logp_NK, signal.tail_N, strict=True):
        kept = ids_K[logp_K > -math.inf]
        p_V += tail / max(V - len(kept), 1)
        p_V[kept] = logp_K[logp_K > -math.inf].exp()
    settings = dict(ce_weight=0.5, kd_weight=0.5, divergence=divergence, temperature=T, chunk_rows=3)
    even = fused_loss(hidden_ND, head_VD, labels_N, signal, tail="even", **settings)
    dense = fused_loss(hidden_ND, head_VD, labels_N, DenseSignal(p_NV.log()), **settings)
    torch.testing.assert_close((even.loss, even.kd), (dense.loss, dense.kd))
    of = (hidden_ND, head_VD)
    torch.testing.assert_close(torch.autograd.grad(even.loss, of), torch.autograd.grad(dense.loss, of))


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("counts", [1, 6, V, "dense"])
def test_gradcheck(counts, divergence, beta):
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=4)
    signal = DenseSignal(teacher_NV) if counts == "dense" else cut(teacher_NV, counts)

    def loss(hidden_ND, head_VD):
        settings = dict(
            ce_weight=0.2, kd_weight=0.8, divergence=divergence, beta=beta, alpha=beta, temperature=1.5, chunk_rows=3
        )
        return fused_loss(hidden_ND, head_VD, labels_N, signal, **settings).loss

    assert torch.autograd.gradcheck(loss, (hidden_ND, head_VD))


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_tail_of_zero_and_of_one(divergence, beta):
    teacher_NV = problem()[3]
    sure = cut(teacher_NV, 1)  # all mass on one id
    assert_equals_reference(SparseSignal(sure.ids_NK, sure.logp_NK * 0, sure.tail_N * 0, V - 1), divergence, beta)
    nothing = cut(teacher_NV, 0)  # all mass in the tail: nothing to learn
    assert nothing.tail_N.allclose(torch.ones(7, dtype=torch.float64))
    assert_equals_reference(nothing, divergence, beta)
    hidden_ND, head_VD, labels_N, _ = problem()
    parts = fused_loss(hidden_ND, head_VD, labels_N, nothing, ce_weight=0, kd_weight=1, divergence=divergence)
    assert parts.loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(parts.loss, hidden_ND)[0].abs().max() < 1e-12


def test_gradient_on_the_support_is_that_of_the_whole_distribution():
    """With forward KL and the tail bucket: q - p at every kept id, whatever is cut."""
    logits_NV, teacher_NV = problem()[3].roll(1, 0).clone().requires_grad_(), problem()[3]
    signal = cut(teacher_NV, 4)
    eye_VV, labels_N = torch.eye(V, dtype=torch.float64), problem()[2]
    parts = fused_loss(logits_NV, eye_VV, labels_N, signal, ce_weight=0, kd_weight=1)
    gradient_NV = torch.autograd.grad(parts.loss, logits_NV)[0]
    exact_NV = (logits_NV.softmax(1) - teacher_NV.softmax(1)).detach()
    torch.testing.assert_close(gradient_NV.gather(1, signal.ids_NK), exact_NV.gather(1, signal.ids_NK))
    torch.testing.assert_close(gradient_NV.sum(1), torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("kept_higher", [1, -1])
def test_a_saturated_student_in_float32(kept_higher, divergence, beta):
    """Kept ids and tail 300 apart: beyond what float32 holds as probabilities."""
    teacher_NV = problem()[3]
    signal = cut(teacher_NV, 3)
    logits_NV = problem()[3].roll(1, 0).scatter_add(1, signal.ids_NK, kept_higher * 300 * torch.ones(7, 3).double())
    eye_VV, results = torch.eye(V), []
    for dtype in (torch.float32, torch.float64):
        student_NV = logits_NV.to(dtype).requires_grad_()
        parts = fused_loss(
            *(student_NV, eye_VV.to(dtype), problem()[2], signal),
            **dict(ce_weight=0.5, kd_weight=0.5, divergence=divergence, beta=beta, alpha=beta),
        )
        results.append((parts.loss.detach().double(), torch.autograd.grad(parts.loss, student_NV)[0].double()))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("counts", [None, 8, "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_close(dtype, counts, device):
    results = []
    for precision in (torch.float64, dtype):
        hidden_ND, head_VD, labels_N, teacher_NV = problem(N=40, V=300, D=32, dtype=precision, device=device)
        with torch.no_grad():
            head_VD /= 8
        signal = None if counts is None else DenseSignal(teacher_NV) if counts == "dense" else cut(teacher_NV, counts)
        parts = fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0.5, kd_weight=0.5, chunk_rows=16)
        parts.loss.backward()
        assert parts.loss.dtype == (torch.float64 if precision == torch.float64 else torch.float32)
        assert hidden_ND.grad.dtype == head_VD.grad.dtype == precision
        results.append([x.detach().double().flatten() for x in (parts.loss, hidden_ND.grad, head_VD.grad)])
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for exact, close in zip(*results, strict=True):
        assert torch.linalg.norm(exact - close) <= tolerance * torch.linalg.norm(exact)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_is_the_low_precision_product(device):
    results = []
    for autocast in (False, True):
        hidden_ND, head_VD, labels_N, teacher_NV = problem(dtype=torch.float32, device=device)
        if not autocast:  # what autocast rounds
            hidden_ND, head_VD = (x.detach().bfloat16().requires_grad_() for x in (hidden_ND, head_VD))
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            parts = fused_loss(hidden_ND, head_VD, labels_N, cut(teacher_NV, 5), ce_weight=1, kd_weight=1)
        parts.loss.backward()
        assert hidden_ND.grad.dtype == hidden_ND.dtype
        results.append((parts.loss.detach(), hidden_ND.grad.bfloat16(), head_VD.grad.bfloat16()))
    torch.testing.assert_close(*results)


ROWS = [(1, 1), (4, 3), (11, 2), (8, 8), (128, 5)]
KINDS = ["none", "sparse", "even", "dense", "head", "spans"]


def signal_of(kind, teacher_NV):
    """A signal of 11 positions; a span of theirs is longer than most chunks and all but the longest blocks."""
    N, V = teacher_NV.shape
    spans = ((0, 2), (2, 3), (3, 10), (10, 11))
    p_SK = teacher_NV.softmax(1).sort(1, descending=True).values[: len(spans), :4]
    eye_VV = torch.eye(V, dtype=teacher_NV.dtype)
    return {
        "none": None,
        "sparse": cut(teacher_NV, 4),
        "even": cut(teacher_NV, 4),
        "dense": DenseSignal(teacher_NV),
        "head": HeadSignal(teacher_NV, eye_VV, V),
        "spans": SpanSignal(p_SK, 1 - p_SK.sum(1), spans, N),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_chunks_and_blocks_do_not_matter(kind, dtype):
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=11, dtype=dtype)
    signal, tail = signal_of(kind, teacher_NV), "even" if kind == "even" else "bucket"
    results = []
    for chunk_rows, block_rows in [(128, 128), *ROWS]:
        sizes = dict(chunk_rows=chunk_rows, block_rows=block_rows)
        parts = fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=1, kd_weight=1, tail=tail, **sizes)
        gradients = torch.autograd.grad(parts.loss, (hidden_ND, head_VD))
        results.append((parts.loss, parts.ce, parts.kd, parts.agreement, parts.correct, *gradients))
    exact = {} if dtype == torch.float64 else dict(rtol=0.02, atol=0.02)  # products of other shapes round otherwise
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **exact)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor made, and of the largest in float32; views make none.

    And how many tensors there were of each size.
    """

    elements, exact_elements = 0, 0

    def __init__(self):
        super().__init__()
        self.made = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        before = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in before:
                self.elements = max(self.elements, x.numel())
                self.made[x.numel()] += 1
                if x.dtype == torch.float32:
                    self.exact_elements = max(self.exact_elements, x.numel())
        return result


@pytest.mark.parametrize("kind", ["none", "sparse", "dense"])
def test_a_frozen_head_costs_nothing_and_logits_exist_for_a_chunk_only(kind):
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=60, V=400, D=100)
    head_VD = head_VD.detach()
    signal = {"none": None, "sparse": cut(teacher_NV, 4), "dense": DenseSignal(teacher_NV)}[kind]
    with LargestTensor() as largest:
        parts = fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=1, kd_weight=1, chunk_rows=20)
        parts.loss.backward()
    assert largest.elements <= 20 * 400  # a chunk of logits, and not the 100 x 400 of the head
    trained_VD = head_VD.clone().requires_grad_()
    again = fused_loss(hidden_ND, trained_VD, labels_N, signal, ce_weight=1, kd_weight=1)
    torch.testing.assert_close(torch.autograd.grad(again.loss, hidden_ND)[0], hidden_ND.grad)


@pytest.mark.parametrize("kind", ["none", "sparse", "dense"])
def test_float32_logits_exist_for_a_block_only(kind):
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=60, V=400, D=10, dtype=torch.bfloat16)
    signal = {"none": None, "sparse": cut(teacher_NV, 4), "dense": DenseSignal(teacher_NV)}[kind]
    with LargestTensor() as largest:
        weights = dict(ce_weight=1, kd_weight=1)
        parts = fused_loss(hidden_ND, head_VD.detach(), labels_N, signal, **weights, chunk_rows=20, block_rows=5)
        parts.loss.backward()
    assert largest.elements == 20 * 400 and largest.exact_elements == 5 * 400


def test_an_even_tail_takes_no_more_room_than_no_teacher():
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=60, V=400, D=10)
    made = []
    for signal in (None, cut(teacher_NV, 4)):
        with LargestTensor() as tensors:
            settings = dict(ce_weight=1, kd_weight=1, tail="even", chunk_rows=20, block_rows=20)
            fused_loss(hidden_ND, head_VD.detach(), labels_N, signal, **settings)
        made.append(tensors.made[20 * 400])
    assert made[0] == made[1] > 0


def test_an_even_tail_counts_positions_by_their_weights():
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    signal, weights_N = cut(teacher_NV, 4), torch.linspace(0, 2, len(labels_N), dtype=torch.float64)
    settings = dict(ce_weight=0, kd_weight=1, tail="even")
    each = []
    for n in range(len(labels_N)):
        one = fused_loss(hidden_ND[n : n + 1], head_VD, labels_N[n : n + 1], signal.rows(n, n + 1), **settings)
        each.append(one.loss * weights_N[n])
    whole = fused_loss(hidden_ND, head_VD, labels_N, signal, kd_weight_N=weights_N, **settings)
    torch.testing.assert_close(whole.loss, sum(each))
    of = (hidden_ND, head_VD)
    torch.testing.assert_close(torch.autograd.grad(whole.loss, of), torch.autograd.grad(sum(each), of))


def test_without_gradients_none_are_computed():
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=20, V=30, D=100)
    with torch.no_grad(), LargestTensor() as largest:
        parts = fused_loss(hidden_ND, head_VD, labels_N, cut(teacher_NV, 4), ce_weight=1, kd_weight=1)
    assert not parts.loss.requires_grad
    assert largest.elements <= 20 * 30


@pytest.mark.parametrize("kind", ["none", "sparse", "dense"])
def test_no_tokens(kind):
    hidden_ND, head_VD, labels_N, teacher_NV = problem(N=0)
    signal = {"none": None, "sparse": SparseSignal.collate([]), "dense": DenseSignal(teacher_NV)}[kind]
    parts = fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=1, kd_weight=1)
    parts.loss.backward()
    assert (parts.loss, parts.ce, parts.kd, parts.agreement, parts.correct) == (0,) * 5
    assert head_VD.grad.shape == (V, D)
    assert not head_VD.grad.any()


def test_counts():
    eye_VV = torch.eye(4)
    student_NV = torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 0, 9], [0, 0, 0, 9]])
    teacher_NV = torch.tensor([[9.0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9], [0, 0, 9, 8]])
    labels_N = torch.tensor([0, 1, 2, 2])
    for signal in (DenseSignal(teacher_NV), cut(teacher_NV, 1), cut(teacher_NV, 3), cut(teacher_NV, 4)):
        parts = fused_loss(student_NV, eye_VV, labels_N, signal, ce_weight=1, kd_weight=1)
        assert (parts.correct, parts.agreement) == (2, 2)


def test_the_gradient_follows_what_is_done_with_the_loss():
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    of = (hidden_ND, head_VD)
    once, scaled = (
        fused_loss(hidden_ND, head_VD, labels_N, cut(teacher_NV, 4), ce_weight=1, kd_weight=1).loss for _ in range(2)
    )
    for one, third in zip(torch.autograd.grad(once, of), torch.autograd.grad(scaled / 3, of), strict=True):
        torch.testing.assert_close(one / 3, third)


def test_what_does_not_fit_is_refused():
    hidden_ND, head_VD, labels_N, teacher_NV = problem()
    weights = dict(ce_weight=1, kd_weight=1)
    for signal in (DenseSignal(teacher_NV[:, :-1]), cut(torch.nn.functional.pad(teacher_NV, (0, 1)), V + 1)):
        with pytest.raises(ValueError, match="vocabulary"):
            fused_loss(hidden_ND, head_VD, labels_N, signal, **weights)
    with pytest.raises(ValueError, match="7 hidden states, 6 labels"):
        fused_loss(hidden_ND, head_VD, labels_N[1:], None, **weights)
    with pytest.raises(ValueError, match="7 hidden states"):
        fused_loss(hidden_ND, head_VD, labels_N, DenseSignal(teacher_NV[1:]), **weights)
    with pytest.raises(ValueError, match="there are forward_kl, reverse_kl, js"):
        fused_loss(hidden_ND, head_VD, labels_N, None, **weights, divergence="kl")
    with pytest.raises(ValueError, match="between 0 and 1"):
        fused_loss(hidden_ND, head_VD, labels_N, None, **weights, divergence="js", beta=1)
