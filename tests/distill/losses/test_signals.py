"""Signals from cached targets. N positions, V vocabulary, K kept ids."""

import math

import numpy as np
import torch

from data.cache.targets import SparseTargets, sparsify
from distill.losses.signals import DenseSignal, SparseSignal


def targets(seed, N, V=50, top_p=0.9, top_k=8):
    generator = torch.Generator().manual_seed(seed)
    logits_NV = 3 * torch.randn(N, V, generator=generator)
    return logits_NV, SparseTargets.from_logits(logits_NV, torch.arange(N), top_p=top_p, top_k=top_k)


def test_collate_pads_ragged_targets_in_order():
    samples = [targets(seed, N)[1] for seed, N in ((0, 3), (1, 0), (2, 5))]
    signal = SparseSignal.collate(samples)
    assert len(signal) == 8
    assert signal.ids_NK.dtype == torch.int64
    assert signal.logp_NK.dtype == signal.tail_N.dtype == torch.float32
    counts_N = np.concatenate([sample.counts for sample in samples])
    kept_NK = signal.logp_NK > -math.inf
    assert kept_NK.sum(1).tolist() == counts_N.tolist()
    assert signal.ids_NK.shape[1] == counts_N.max()
    assert signal.ids_NK[kept_NK].tolist() == np.concatenate([sample.ids for sample in samples]).tolist()
    assert signal.logp_NK[kept_NK].tolist() == np.concatenate([sample.logp for sample in samples]).tolist()
    assert signal.largest_id == signal.ids_NK.max()
    torch.testing.assert_close(signal.logp_NK.exp().sum(1) + signal.tail_N, torch.ones(8))
    assert abs(signal.kept_mass() - float(signal.logp_NK.exp().sum())) < 1e-5 and signal.kept_mass() < 8


def test_rows_are_slices_of_all():
    for signal in (SparseSignal.collate([targets(0, 6)[1]]), DenseSignal(targets(0, 6)[0])):
        assert len(signal.rows(2, 5)) == 3
        assert len(signal.rows(4, 100)) == 2
        assert signal.rows(2, 5).top1_N().tolist() == signal.top1_N()[2:5].tolist()
    assert len(SparseSignal.collate([targets(0, 6)[1]]).to("cpu")) == 6


def test_top1_is_the_dense_one_and_none_where_nothing_is_kept():
    logits_NV, sparse = targets(3, 9)
    assert SparseSignal.collate([sparse]).top1_N().tolist() == DenseSignal(logits_NV).top1_N().tolist()
    nothing = SparseSignal(torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), -math.inf), torch.ones(1), 0)
    assert nothing.top1_N().tolist() == [-1]


def test_of_several_texts_at_once():
    logits_NV, whole = targets(4, 7)
    texts = [np.arange(4), np.arange(4, 7)]
    signal = SparseSignal.collate(sparsify(logits_NV, texts, top_p=0.9, top_k=8))
    torch.testing.assert_close(signal.logp_NK, SparseSignal.collate([whole]).logp_NK)
