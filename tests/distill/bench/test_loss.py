"""`scripts/bench.py loss` at a small size: that the ways compute the losses they are named for, and what is written."""

import json

import pytest
import torch
from torch.nn import functional as F

from distill.bench import loss as bench

SIZES = ["--rows", 12, "--width", 8, "--vocabulary", 40, "--kept", 40]


def problem(N=12, D=8, V=40):
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator).requires_grad_()
    head_VD, teacher_NV = (torch.randn(rows, of, generator=generator) for rows, of in ((V, D), (N, V)))
    return hidden_ND, head_VD, torch.randint(V, (N,), generator=generator), teacher_NV


def test_with_all_ids_kept_ours_is_the_loss_over_the_full_vocabulary():
    of = problem()
    ours, full = (way(*of, 40)() for way in (bench.ours, bench.full_vocabulary))
    # A sum over the tokens beside their mean; the targets are kept in 16 bits.
    torch.testing.assert_close(ours / 12, full, rtol=2e-3, atol=0)
    gradients = [torch.autograd.grad(value, of[0])[0] for value in (ours / 12, full)]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-4)
    alone = bench.cross_entropy_only(*of, 40)()
    torch.testing.assert_close(alone / 12, F.cross_entropy(of[0] @ of[1].T, of[2]))


@pytest.mark.parametrize("way", ["ours", "universal", "full_vocabulary", "cross_entropy_only"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_way_is_timed_and_its_memory_measured(command, way, dtype):
    sizes = ["--rows", 256, "--width", 8, "--vocabulary", 30_000, "--kept", 40]
    status, out, err = command("scripts/bench.py", "loss", "--one", way, "--dtype", dtype, *sizes)
    assert status == 0, err
    figures = json.loads(out)
    assert figures["seconds"] > 0 and 2**20 < figures["peak_bytes"] < 2**30


def test_what_is_not_installed_is_left_out_and_the_others_stand_beside_ours(command, monkeypatch, tmp_path):
    def measured(module, words):
        way = words[1]
        return None if way == "trl" else {"seconds": 1.0 if way == "ours" else 3.0, "peak_bytes": 2e6}

    monkeypatch.setattr(bench, "measured_apart", measured)
    out_file = tmp_path / "loss.md"
    status, out, err = command("scripts/bench.py", "loss", *SIZES, "--dtypes", "bf16", "--out", out_file, "--json")
    assert status == 0 and "trl: left out" in err
    assert set(json.loads(out)["bf16"]) == set(bench.WAYS) - {"trl"}
    page = out_file.read_text()
    assert "| bf16 | torchtune | 3.00 | 2 | 3.00 x | 1.0 x |" in page and "| trl |" not in page
