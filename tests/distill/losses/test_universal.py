"""Sorted distances over spans, against plain autograd over whole vocabularies.

N positions, V student's vocabulary, W teacher's, D width, S spans.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cache.targets import SparseTargets, sparsify
from distill.losses.alignment import Span
from distill.losses.fused import fused_loss
from distill.losses.universal import SpanSignal, span_outcomes
from tests.distill.losses.test_fused import LargestTensor

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
# Two texts: spans of one and several tokens on either side; of the second, the end is in no span.
SPANS = [
    [Span(0, 1, 0, 1), Span(1, 4, 1, 2), Span(4, 5, 2, 5), Span(5, 7, 5, 7), Span(7, 8, 7, 8)],
    [Span(0, 2, 0, 1), Span(2, 3, 1, 4)],
]
LENGTHS, TEACHER_LENGTHS = [8, 5], [8, 6]
N, D, V, W = sum(LENGTHS), 5, 19, 23


def problem(V=V, D=D, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(V + D)
    hidden_ND = torch.randn(N, D, generator=generator, dtype=torch.float64)
    head_VD = torch.randn(V, D, generator=generator, dtype=torch.float64) / D**0.5
    labels_N = torch.randint(V, (N,), generator=generator)
    hidden_ND, head_VD = (x.to(device, dtype).requires_grad_() for x in (hidden_ND, head_VD))
    return hidden_ND, head_VD, labels_N.to(device)


def teacher(W=W, scale=2.0, seed=0):
    """Log-probabilities and tokens of each text; the tokens are often what the teacher holds probable."""
    generator = torch.Generator().manual_seed(seed)
    logp = [(scale * torch.randn(n, W, generator=generator).double()).log_softmax(1) for n in TEACHER_LENGTHS]
    tokens = [p.exp().multinomial(1, generator=generator)[:, 0] for p in logp]
    return logp, tokens


def kept(logp_NW, tokens_N, counts):
    """The most probable ids of each position, by count, unrounded."""
    sorted_NW, ids_NW = logp_NW.sort(1, descending=True)
    counts_N = np.broadcast_to(np.asarray(counts, np.int32), len(logp_NW))
    ids = [of[:k] for of, k in zip(ids_NW.numpy(), counts_N, strict=True)]
    logp = [of[:k] for of, k in zip(sorted_NW.numpy(), counts_N, strict=True)]
    return SparseTargets(tokens_N.numpy(), np.concatenate(ids), np.concatenate(logp), counts_N)


def signal_of(samples, dtype=torch.float32):
    """As `SpanSignal.collate`, in the precision of the test."""
    found = SpanSignal.collate(samples, SPANS, LENGTHS)
    p_SK = torch.zeros(found.p_SK.shape, dtype=dtype)
    tail_S = torch.zeros(len(p_SK), dtype=dtype)
    at = 0
    for targets, spans in zip(samples, SPANS, strict=True):
        offsets = np.concatenate([[0], np.cumsum(targets.counts)])
        for span in spans:
            p_K, tail = span_outcomes(targets, offsets, span.teacher_start, span.teacher_end)
            p_SK[at, : len(p_K)], tail_S[at] = torch.from_numpy(p_K.copy()), tail
            at += 1
    return SpanSignal(p_SK, tail_S, found.spans, found.positions)


def whole(probabilities_MV, tokens_M):
    """The outcomes of a span by definition: the first token's, the span's own, and the departure from it."""
    first_V = probabilities_MV[0]
    later = torch.ones((), dtype=first_V.dtype)
    for p_V, token in zip(probabilities_MV[1:], tokens_M[1:], strict=True):
        later = later * p_V[token]
    own = torch.nn.functional.one_hot(tokens_M[0], len(first_V)).bool()
    return torch.cat([first_V[~own], first_V[own] * later, first_V[own] * (1 - later)])


def distance(p, q, ranks=None):
    """Sum over ranks of |p - q|; past `ranks` as one."""
    length = max(len(p), len(q))
    p, q = (torch.nn.functional.pad(x.sort(descending=True).values, (0, length - len(x))) for x in (p, q))
    if ranks is None:
        return (p - q).abs().sum()
    return (p[:ranks] - q[:ranks]).abs().sum() + (p[ranks:].sum() - q[ranks:].sum()).abs()


def reference(logits_NV, labels_N, logp, tokens, ranks=None):
    """The sum of all spans' distances; `ranks` are those that are compared one by one, in order of the spans."""
    total, start, at = 0.0, 0, 0
    for spans, length, logp_NW, tokens_N in zip(SPANS, LENGTHS, logp, tokens, strict=True):
        for a, b, c, d in spans:
            q = whole(logits_NV[start + a : start + b].softmax(1), labels_N[start + a : start + b])
            p = whole(logp_NW[c:d].exp(), tokens_N[c:d])
            total, at = total + distance(p, q, None if ranks is None else int(ranks[at])), at + 1
        start += length
    return total


def assert_equals(signal, expected, V=V, chunk_rows=4, weights=(0.3, 0.7)):
    """Losses and gradients against `expected(logits, labels)` and cross-entropy, both by autograd."""
    hidden_ND, head_VD, labels_N = problem(V)
    parts = fused_loss(
        hidden_ND, head_VD, labels_N, signal, ce_weight=weights[0], kd_weight=weights[1], chunk_rows=chunk_rows
    )
    logits_NV = hidden_ND @ head_VD.T
    ce = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")
    kd = expected(logits_NV, labels_N)
    torch.testing.assert_close((parts.ce, parts.kd), (ce.detach(), kd.detach()))
    loss = weights[0] * ce + weights[1] * kd
    torch.testing.assert_close(parts.loss, loss)
    of = (hidden_ND, head_VD)
    torch.testing.assert_close(torch.autograd.grad(parts.loss, of), torch.autograd.grad(loss, of))
    assert parts.correct == (logits_NV.argmax(1) == labels_N).sum() and parts.agreement == 0


@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
@pytest.mark.parametrize("V", [7, W - 1, W, W + 1, 40])
def test_with_the_whole_vocabulary_kept_it_is_the_distance_by_definition(V, chunk_rows):
    logp, tokens = teacher()
    signal = signal_of([kept(*of, W) for of in zip(logp, tokens, strict=True)], torch.float64)
    assert_equals(signal, lambda x, y: reference(x, y, logp, tokens), V, chunk_rows)


@pytest.mark.parametrize("V", [3, V, 40])
@pytest.mark.parametrize("counts", [1, 2, 5, W - 1])
def test_kept_ids_are_compared_rank_by_rank_and_the_rest_as_one(counts, V):
    logp, tokens = teacher()
    # Of spans of several tokens only kept ones here, so that the teacher's own are all known.
    tokens = [of.argmax(1) for of in logp]
    signal = signal_of([kept(*of, counts) for of in zip(logp, tokens, strict=True)], torch.float64)
    ranks = (signal.p_SK > 0).sum(1)
    assert_equals(signal, lambda x, y: reference(x, y, logp, tokens, ranks), V)
    exact, bound = (reference(*_logits(V), logp, tokens, of) for of in (None, ranks))
    assert bound - 1e-6 <= exact <= bound + 2 * signal.tail_S.sum() + 1e-6


def _logits(V):
    hidden_ND, head_VD, labels_N = problem(V)
    return (hidden_ND @ head_VD.T).detach(), labels_N


@st.composite
def cases(draw):
    """Spans over both, sizes of the vocabularies, kept ids of each position, and a seed."""
    lengths = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5)
    found, a, c = [], 0, 0
    for own, theirs in draw(lengths):
        found.append(Span(a, a + own, c, c + theirs))
        a, c = a + own, c + theirs
    W = draw(st.integers(2, 12))
    counts = draw(st.lists(st.integers(0, W), min_size=c, max_size=c))
    return found, draw(st.integers(2, 12)), W, counts, draw(st.integers(0, 2**31))


@settings(max_examples=60)
@given(cases())
def test_any_spans_and_cuts_give_the_distance_by_definition(case):
    found, V, W, counts, seed = case
    generator = torch.Generator().manual_seed(seed)
    logp_NW = (3 * torch.randn(len(counts), W, generator=generator).double()).log_softmax(1)
    tokens_N = torch.randint(W, (len(counts),), generator=generator)
    labels_N = torch.randint(V, (found[-1].student_end,), generator=generator)
    logits_NV = torch.randn(len(labels_N), V, dtype=torch.float64, generator=generator).requires_grad_()
    targets = kept(logp_NW, tokens_N, counts)
    signal = SpanSignal.collate([targets], [found], [len(labels_N)])
    parts = fused_loss(logits_NV, torch.eye(V).double(), labels_N, signal, ce_weight=0, kd_weight=1, chunk_rows=4)

    is_kept_N = (logp_NW > logp_NW.gather(1, tokens_N[:, None])).sum(1) < torch.tensor(counts)
    expected = 0.0
    for (a, b, c, d), p_K in zip(found, signal.p_SK, strict=True):
        p_MW = logp_NW[c:d].exp()
        p_MW[1:] *= is_kept_N[c + 1 : d, None]  # a later token that is not kept counts as impossible
        q = whole(logits_NV[a:b].softmax(1), labels_N[a:b])
        expected = expected + distance(whole(p_MW, tokens_N[c:d]), q, int((p_K > 0).sum()))
    torch.testing.assert_close(parts.loss, expected, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(of, logits_NV)[0] for of in (parts.loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_later_token_that_is_not_kept_is_impossible():
    logp, tokens = teacher()
    tokens = [of.argmax(1) for of in logp]
    tokens[0][3] = logp[0][3].argmin()  # in the middle of a span of three
    samples = [kept(*of, 4) for of in zip(logp, tokens, strict=True)]
    p_K, tail = span_outcomes(samples[0], np.arange(0, 33, 4), 2, 5)
    np.testing.assert_allclose(p_K, logp[0][2].exp().sort(descending=True).values[:4])
    assert tail == pytest.approx(1 - p_K.sum(), abs=1e-6)


def test_an_outcome_below_the_least_kept_id_has_no_rank():
    logp = torch.tensor([[0.6, 0.3, 0.1], [0.02, 0.9, 0.08]]).double().log()
    targets = kept(logp, torch.tensor([0, 0]), 2)
    p_K, tail = span_outcomes(targets, np.array([0, 2, 4]), 0, 2)  # the second token is not kept
    np.testing.assert_allclose((*p_K, tail), (0.6, 0.3, 0.1), rtol=1e-6)
    targets = kept(logp, torch.tensor([0, 2]), 2)
    p_K, tail = span_outcomes(targets, np.array([0, 2, 4]), 0, 2)  # 0.6 x 0.08 could stand behind what is left out
    np.testing.assert_allclose((*p_K, tail), (0.6 * 0.92, 0.3, 0.1 + 0.6 * 0.08), rtol=1e-6)
    targets = kept(logp, torch.tensor([0, 2]), 3)
    p_K, tail = span_outcomes(targets, np.array([0, 3, 6]), 0, 2)  # with all kept it has one
    np.testing.assert_allclose((*p_K, tail), (0.6 * 0.92, 0.3, 0.1, 0.6 * 0.08, 0), rtol=1e-6, atol=1e-7)


def test_masses_of_zero_and_one():
    _, tokens = teacher()
    certain = [torch.nn.functional.one_hot(of, W).double().log() for of in tokens]
    sure = signal_of([kept(*of, 1) for of in zip(certain, tokens, strict=True)], torch.float64)
    assert (sure.p_SK == 1).all() and (sure.tail_S == 0).all()
    assert_equals(sure, lambda x, y: reference(x, y, certain, tokens))
    logp, _ = teacher()
    nothing = signal_of([kept(*of, 0) for of in zip(logp, tokens, strict=True)], torch.float64)
    assert (nothing.tail_S == 1).all()
    assert_equals(nothing, lambda x, y: 0 * x.sum())


def test_single_tokens_of_one_vocabulary_are_no_distance_from_themselves():
    _, _, labels_N = problem()
    logits_NV = 3 * torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spans = [[Span(i, i + 1, i, i + 1) for i in range(N)]]
    # Other ids, the same probabilities.
    targets = kept(logits_NV.log_softmax(1).roll(3, 1), labels_N, V)
    signal = SpanSignal.collate([targets], spans, [N])
    parts = fused_loss(logits_NV, torch.eye(V).double(), labels_N, signal, ce_weight=0, kd_weight=1)
    assert parts.kd < 1e-5


def test_gradcheck():
    logp, tokens = teacher()
    hidden_ND, head_VD, labels_N = problem()
    signal = signal_of([kept(*of, 6) for of in zip(logp, tokens, strict=True)], torch.float64)

    def loss(hidden_ND, head_VD):
        return fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0.2, kd_weight=0.8, chunk_rows=3).loss

    assert torch.autograd.gradcheck(loss, (hidden_ND, head_VD))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_close(dtype, device):
    logp, tokens = teacher(W=300)
    signal = signal_of([kept(*of, 30) for of in zip(logp, tokens, strict=True)], torch.float64).to(device)
    results = []
    for precision in (torch.float64, dtype):
        hidden_ND, head_VD, labels_N = problem(V=200, D=32, dtype=precision, device=device)
        # Sorted distances have steps in their gradient: the same input on either side of them.
        hidden_ND, head_VD = (x.detach().to(dtype).to(precision).requires_grad_() for x in (hidden_ND, head_VD))
        parts = fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0.5, kd_weight=0.5)
        parts.loss.backward()
        assert hidden_ND.grad.dtype == head_VD.grad.dtype == precision
        results.append([x.detach().double().flatten() for x in (parts.loss, hidden_ND.grad, head_VD.grad)])
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    for exact, close in zip(*results, strict=True):
        assert torch.linalg.norm(exact - close) <= tolerance * torch.linalg.norm(exact)


def test_a_frozen_head_costs_nothing_and_logits_exist_for_a_chunk_only():
    hidden_ND, head_VD, labels_N = problem(V=400, D=50)
    signal = signal_of([kept(*of, 5) for of in zip(*teacher(), strict=True)])
    with LargestTensor() as largest:
        fused_loss(
            hidden_ND, head_VD.detach(), labels_N, signal, ce_weight=1, kd_weight=1, chunk_rows=3
        ).loss.backward()
    assert largest.elements <= 3 * 400
    trained = fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=1, kd_weight=1)
    torch.testing.assert_close(torch.autograd.grad(trained.loss, hidden_ND)[0], hidden_ND.grad)


def test_chunks_cut_no_span_and_leave_nothing_out():
    signal = signal_of([kept(*of, 3) for of in zip(*teacher(), strict=True)])
    for limit in range(1, N + 2):
        chunks = list(signal.chunks(limit))
        assert [start for start, _ in chunks] == [0, *(end for _, end in chunks[:-1])] and chunks[-1][1] == N
        parts = [signal.rows(*chunk) for chunk in chunks]
        found = [(a + start, b + start) for (start, _), part in zip(chunks, parts, strict=True) for a, b in part.spans]
        assert tuple(found) == signal.spans
        torch.testing.assert_close(torch.cat([part.p_SK for part in parts]), signal.p_SK)
        assert sum(map(len, parts)) == N
    assert max(end - start for start, end in signal.chunks(2)) == 3  # the longest span


def test_targets_as_the_cache_stores_them_are_close_to_the_exact_ones():
    logp, tokens = teacher(scale=3.0)
    cut = dict(top_p=0.999, top_k=16, min_p=0.0)
    samples = [sparsify(p.float(), [t.numpy()], **cut)[0] for p, t in zip(logp, tokens, strict=True)]
    signal = SpanSignal.collate(samples, SPANS, LENGTHS)
    logits_NV, labels_N = _logits(V)
    parts = fused_loss(logits_NV, torch.eye(V).double(), labels_N, signal, ce_weight=0, kd_weight=1)
    assert parts.kd.item() == pytest.approx(reference(logits_NV, labels_N, logp, tokens).item(), rel=0.02)


def test_another_temperature_is_refused():
    signal = signal_of([kept(*of, 3) for of in zip(*teacher(), strict=True)])
    with pytest.raises(ValueError, match="temperature 1"):
        fused_loss(*problem(), signal, ce_weight=1, kd_weight=1, temperature=2)
