"""What a distillation loss costs, ours and its peers in one run: seconds and peak memory of forward and backward.

    python scripts/bench.py loss [--rows 1024] [--width 2048] [--vocabulary 128256] [--kept 64] [--json]

Each way runs in a process of its own, twice: the first run's peak above what was there before (weights, hidden states,
the teacher's logits), the second one's time. The head is frozen, and the gradient goes to the hidden states. Peers that
are not installed (requirements-bench.txt) are left out. `--json` prints the figures.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from data.cache.targets import SparseTargets
from data.errors import run_cli
from data.paths import written_whole
from distill.bench.apart import NOT_THERE, measured_apart
from distill.efficiency.memory import forget_peak, peak_bytes, present_bytes
from distill.losses.alignment import Span
from distill.losses.fused import fused_loss
from distill.losses.signals import SparseSignal
from distill.losses.universal import SpanSignal
from distill.report.table import MISSING, markdown
from teacher.device import DTYPES, get_accelerator, pick_device


def ours(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, teacher_NV: Tensor, kept: int) -> Callable[[], Tensor]:
    """Cross-entropy and forward KL from the k most probable ids, head included."""
    targets = SparseTargets.from_logits(teacher_NV, labels_N, top_p=1.0, top_k=kept)
    signal = SparseSignal.collate([targets]).to(hidden_ND.device)
    return lambda: fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0.5, kd_weight=0.5, tail="even").loss


def universal(
    hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, teacher_NV: Tensor, kept: int
) -> Callable[[], Tensor]:
    """Cross-entropy and the sorted distance to a teacher of another vocabulary, from as many ids; a span a token."""
    targets = SparseTargets.from_logits(teacher_NV, labels_N, top_p=1.0, top_k=kept)
    spans = [Span(at, at + 1, at, at + 1) for at in range(len(labels_N))]
    signal = SpanSignal.collate([targets], [spans], [len(labels_N)]).to(hidden_ND.device)
    return lambda: fused_loss(hidden_ND, head_VD, labels_N, signal, ce_weight=0.5, kd_weight=0.5).loss


def cross_entropy_only(
    hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, teacher_NV: Tensor, kept: int
) -> Callable[[], Tensor]:
    """Cross-entropy on the same fused path."""
    return lambda: fused_loss(hidden_ND, head_VD, labels_N, None, ce_weight=1.0, kd_weight=0.0).loss


def full_vocabulary(
    hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, teacher_NV: Tensor, kept: int
) -> Callable[[], Tensor]:
    """Cross-entropy and KL over the whole vocabulary, as one writes it in PyTorch."""

    def loss() -> Tensor:
        logits_NV = (hidden_ND @ head_VD.T).float()
        kl = F.kl_div(
            logits_NV.log_softmax(1), teacher_NV.float().log_softmax(1), log_target=True, reduction="batchmean"
        )
        return 0.5 * F.cross_entropy(logits_NV, labels_N) + 0.5 * kl

    return loss


def trl(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, teacher_NV: Tensor, kept: int) -> Callable[[], Tensor]:
    """TRL's GKD loss: generalised Jensen-Shannon, beta 0.5."""
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDTrainer

    return lambda: GKDTrainer.generalized_jsd_loss((hidden_ND @ head_VD.T)[None], teacher_NV[None], labels_N[None])


def torchtune(
    hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, teacher_NV: Tensor, kept: int
) -> Callable[[], Tensor]:
    """torchtune's forward KL in eight chunks."""
    from torchtune.modules.loss import ForwardKLWithChunkedOutputLoss

    kl, chunks = ForwardKLWithChunkedOutputLoss(num_output_chunks=8), teacher_NV[None].chunk(8, 1)
    return lambda: kl([part[None] @ head_VD.T for part in hidden_ND.chunk(8)], list(chunks), labels_N[None])


WAYS = {way.__name__: way for way in (ours, universal, full_vocabulary, trl, torchtune, cross_entropy_only)}


def one(arguments: argparse.Namespace) -> dict[str, float]:
    """One way in this process."""
    device, dtype = pick_device(), DTYPES[arguments.dtype]
    synchronize = get_accelerator().synchronize if device.type != "cpu" else (lambda: None)
    generator = torch.Generator().manual_seed(0)
    N, D, V = arguments.rows, arguments.width, arguments.vocabulary
    hidden_ND = torch.randn(N, D, generator=generator).to(device, dtype).requires_grad_()
    head_VD = (torch.randn(V, D, generator=generator) * D**-0.5).to(device, dtype)
    labels_N = torch.randint(V, (N,), generator=generator).to(device)
    teacher_NV = (3 * torch.randn(N, V, generator=generator)).to(device, dtype)
    try:
        loss = WAYS[arguments.one](hidden_ND, head_VD, labels_N, teacher_NV, arguments.kept)
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_THERE)
    forget_peak(device)
    before = present_bytes(device)
    loss().backward()
    peak = peak_bytes(device) - before
    hidden_ND.grad = None
    synchronize()
    began = time.perf_counter()
    loss().backward()
    synchronize()
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak}


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """All ways in all precisions, one after the other."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("rows", "width", "vocabulary", "kept")]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in arguments.dtypes.split(","):
        found[dtype] = {}
        for way in WAYS:
            measured = measured_apart("distill.bench.loss", ["--one", way, "--dtype", dtype, *sizes])
            if measured is None:
                print(f"{way}: left out", file=sys.stderr)
                continue
            found[dtype][way] = measured
            print(
                f"{dtype} {way}: {measured['seconds']:.1f} s, {measured['peak_bytes'] / 1e6:,.0f} MB", file=sys.stderr
            )
    return found


def page(found: dict, arguments: argparse.Namespace) -> str:
    """The table, each way beside ours."""
    lines = []
    for dtype, ways in found.items():
        own = ways["ours"]
        for name, of in ways.items():
            faster, less = of["seconds"] / own["seconds"], of["peak_bytes"] / own["peak_bytes"]
            beside = [MISSING] * 2 if name == "ours" else [f"{faster:.2f} x", f"{less:.1f} x"]
            lines.append([dtype, name, f"{of['seconds']:.2f}", f"{of['peak_bytes'] / 1e6:,.0f}", *beside])
    about = "\n".join(f"- {name}: {way.__doc__}" for name, way in WAYS.items())
    device = get_accelerator().device_name()
    return (
        f"# What a distillation loss costs\n\nForward and backward of {arguments.rows:,} supervised tokens, width "
        f"{arguments.width:,}, vocabulary {arguments.vocabulary:,}, {arguments.kept} ids kept, on {device}; the head "
        "is frozen. Peak memory is that above weights, hidden states and the teacher's logits "
        "(`scripts/bench.py loss`).\n\n"
        f"{markdown(['precision', 'loss', 'seconds', 'peak, MB', 'seconds, to ours', 'peak, to ours'], lines)}\n\n"
        f"{about}\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measures every way, or one of them in this process (`--one`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="supervised tokens")
    parser.add_argument("--width", type=int, default=2048, help="of the hidden states")
    parser.add_argument("--vocabulary", type=int, default=128_256, help="ids")
    parser.add_argument("--kept", type=int, default=64, help="ids of the teacher that are kept")
    parser.add_argument("--dtypes", default="fp32,bf16", help="precisions, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("results/bench_loss.md"), help="where the table goes")
    parser.add_argument("--json", action="store_true", help="print the figures")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        print(json.dumps(one(arguments)))
        return
    found = measure(arguments)
    with written_whole(arguments.out) as temporary:
        temporary.write_text(page(found, arguments), encoding="utf-8")
    print(json.dumps(found, indent=2) if arguments.json else page(found, arguments))


if __name__ == "__main__":
    run_cli(main)
