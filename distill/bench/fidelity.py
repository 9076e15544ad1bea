"""What a teacher cache costs and what it is worth: bytes a token against the gradient that a student gets from it.

    python scripts/bench.py fidelity [--config configs/kd_mini.json] [--out results/cache_fidelity.md]

Over the held-out clips, for an untrained student and the recipe's trained one: cuts by mass (`top_p`), by number
(`top_k`) and by probability (`min_p`), with the tail bucket, renormalised, and with the tail spread evenly over the
ids that are not kept; and targets drawn at random. All gradients are those of the forward KL, summed over positions,
by the student's logits. Shapes: N supervised positions, V vocabulary, K kept ids.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.cache.reader import CacheReader
from data.cache.row import CachedRow, CacheIdentity
from data.cache.targets import SparseTargets, draw, sparsify
from data.cache.writer import CacheWriter
from data.paths import written_whole
from data.prompts import instruction
from distill.losses.signals import SparseSignal
from distill.models.loading import load_for_scoring
from distill.models.students import student_of
from distill.recipe.inputs import require_inputs
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.rows import read_rows
from distill.report.table import markdown
from teacher.device import prepare_process
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor

SHARD_ROWS = 256
TOP_P, TOP_K, DRAWS = (0.9, 0.99, 0.999, 0.9999), (8, 32, 64, 128), (12, 50)
MIN_P = (0.005, 0.003, 0.002, 0.0015, 0.001, 0.0005)


@dataclass(frozen=True)
class Fidelity:
    """A gradient against the exact one, both flattened over positions and vocabulary.

    Attributes:
        cosine: Of the angle between them.
        error: Norm of their difference over the exact one's norm.
    """

    cosine: float
    error: float


def compare(gradient_NV: Tensor, exact_NV: Tensor) -> Fidelity:
    """How far a gradient is from the exact one."""
    norms = gradient_NV.norm() * exact_NV.norm()
    return Fidelity(
        float((gradient_NV * exact_NV).sum() / norms), float((gradient_NV - exact_NV).norm() / exact_NV.norm())
    )


def exact_gradient(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """From the whole distributions: q - p."""
    return student_NV.double().softmax(1) - teacher_NV.double().softmax(1)


def tail_gradient(targets: SparseTargets, student_NV: Tensor) -> Tensor:
    """From sparse targets with the tail bucket: q - p on their ids, a tail spread as the student spreads it.

    Drawn ids (p their share of the draws) have no tail: elsewhere it is q.
    """
    signal, q_NV = SparseSignal.collate([targets]), student_NV.double().softmax(1)
    kept_NK = signal.logp_NK > -torch.inf
    q_NK = q_NV.gather(1, signal.ids_NK).where(kept_NK, 0)
    rest_N = (1 - q_NK.sum(1)).clamp(min=1e-12)
    gradient_NV = q_NV * (1 - signal.tail_N.double() / rest_N)[:, None]
    return _with(gradient_NV, signal, kept_NK, q_NK - signal.logp_NK.double().exp())


def renormalised_gradient(targets: SparseTargets, student_NV: Tensor) -> Tensor:
    """From kept ids alone, scaled up to sum to one, as truncated caches are often used: q - p / sum(p)."""
    signal, q_NV = SparseSignal.collate([targets]), student_NV.double().softmax(1)
    kept_NK = signal.logp_NK > -torch.inf
    p_NK = signal.logp_NK.double().exp()
    return _with(q_NV, signal, kept_NK, q_NV.gather(1, signal.ids_NK) - p_NK / p_NK.sum(1, keepdim=True))


def even_gradient(targets: SparseTargets, student_NV: Tensor) -> Tensor:
    """As forward KL is trained on: q - p on kept ids, and the tail's mass evenly over the others: q - tail / others."""
    signal, q_NV = SparseSignal.collate([targets]), student_NV.double().softmax(1)
    kept_NK = signal.logp_NK > -torch.inf
    others_N = (q_NV.shape[1] - kept_NK.sum(1)).clamp(min=1)
    gradient_NV = q_NV - (signal.tail_N.double() / others_N)[:, None]
    return _with(gradient_NV, signal, kept_NK, q_NV.gather(1, signal.ids_NK) - signal.logp_NK.double().exp())


def _with(gradient_NV: Tensor, signal: SparseSignal, kept_NK: Tensor, values_NK: Tensor) -> Tensor:
    """The gradient with these values at the kept ids."""
    rows_N = kept_NK.nonzero()[:, 0]
    gradient_NV[rows_N, signal.ids_NK[kept_NK]] = values_NK[kept_NK]
    return gradient_NV


WAYS = {"tail bucket": tail_gradient, "renormalised": renormalised_gradient, "spread evenly": even_gradient}


@torch.no_grad()
def logits_of(model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, rows: list, prompts: dict) -> Tensor:
    """Logits (N, V) at the supervised positions of all rows, row after row whatever the batches."""
    parts: dict[int, Tensor] = {}
    for indices, waves in processor.decoded(rows, 120):
        asked = [instruction(prompts, rows[i].task, question=rows[i].question) for i in indices]
        clips = [Clip(wave, of, rows[i].text) for i, wave, of in zip(indices, waves, asked, strict=True)]
        batch = processor(clips).to(model.device)
        hidden_ND = model.hidden(batch).flatten(0, 1)[batch.rows_N]
        logits_NV = model.llm.get_output_embeddings()(hidden_ND).float().cpu()
        lengths = [len(text) for text in batch.texts]
        parts |= zip(indices, logits_NV.split(lengths), strict=True)
    return torch.cat([parts[i] for i in range(len(rows))])


def bytes_a_token(texts: list[SparseTargets]) -> float:
    """On disk, as a shard of the cache is written, without the annotation's and the teacher's words."""
    identity = CacheIdentity(*["measured"] * 5)
    with tempfile.TemporaryDirectory() as folder:
        with CacheWriter(Path(folder), identity, 0, 1, SHARD_ROWS) as writer:
            # The same texts over again fill the shard: what is compressed together, some rows, has none twice.
            for number, targets in zip(range(SHARD_ROWS), cycle(texts), strict=False):
                writer.add(CachedRow(str(number), "", "", targets={"reference": targets}))
        return CacheReader(Path(folder), identity).stats().bytes_per_token


def joined(texts: list[SparseTargets]) -> SparseTargets:
    """The targets of several texts as those of one."""
    parts = {
        name: np.concatenate([getattr(of, name) for of in texts]) for name in ("token_ids", "ids", "logp", "counts")
    }
    return SparseTargets(**parts, draws=texts[0].draws)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = recipe_parser(__doc__)
    parser.set_defaults(config="configs/kd_mini.json")
    parser.add_argument("--out", type=Path, default=Path("results/cache_fidelity.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    recipe = recipe_of(arguments)
    require_inputs(recipe, recipe.data.valid)
    prepare_process()
    rows = [row for path in recipe.data.valid for row in read_rows(recipe, path)]
    teacher, processor = load_for_scoring(recipe, "teacher")
    trained, own = load_for_scoring(recipe, "student")
    untrained = student_of(recipe, teacher, processor).eval()
    teacher_NV = logits_of(teacher, processor, rows, recipe.data.prompts)
    token_ids = [np.array(processor.text_ids(row.text), np.int32) for row in rows]
    students = {
        name: logits_of(model, own, rows, recipe.data.prompts)
        for name, model in (("untrained", untrained), ("trained", trained))
    }
    exact = {name: exact_gradient(teacher_NV, student_NV) for name, student_NV in students.items()}

    def shown(gradient_NV: Tensor, name: str) -> str:
        found = compare(gradient_NV, exact[name])
        return f"{found.cosine:.4f}, {100 * found.error:.1f}%"

    lines = []
    cuts = [(p, k, 0.0) for p in (*TOP_P, 1.0) for k in TOP_K] + [(TOP_P[2], TOP_K[-1], p) for p in MIN_P]
    for top_p, top_k, min_p in cuts:
        texts = sparsify(teacher_NV, token_ids, top_p=top_p, top_k=top_k, min_p=min_p)
        targets = joined(texts)
        ids, mass = len(targets.ids) / len(targets), 1 - targets.tail.mean()
        named = f"top_p {top_p}, top_k {top_k}" + (f", min_p {min_p}" if min_p else "")
        line = [named, f"{bytes_a_token(texts):.0f}", f"{ids:.1f}", f"{mass:.4f}"]
        for name, student_NV in students.items():
            line += [shown(of(targets, student_NV), name) for of in WAYS.values()]
        lines.append(line)
        print(" | ".join(line), flush=True)
    for draws in DRAWS:
        texts = draw(teacher_NV, token_ids, draws=draws, seeds=list(range(len(rows))))
        targets = joined(texts)
        line = [f"{draws} draws", f"{bytes_a_token(texts):.0f}", f"{len(targets.ids) / len(targets):.1f}", ""]
        for name, student_NV in students.items():
            line += [shown(tail_gradient(targets, student_NV), name), "", ""]
        lines.append(line)
        print(" | ".join(line), flush=True)
    top1 = float(teacher_NV.softmax(1).amax(1).mean())
    header = ["kept", "bytes a token", "ids a token", "mass"]
    header += [f"{name}, {how}" for name in students for how in WAYS]
    text = (
        "# What a cached token is worth\n\n"
        f"`{recipe.name}`: {len(teacher_NV):,} supervised positions of {len(rows)} held-out clips, on which the "
        f"teacher's mean top-1 probability is {top1:.2f}. Cosine and relative error of the student's gradient from "
        "the cache against that from the whole distribution. Bytes are those on disk, without texts.\n\n"
        f"{markdown(header, lines)}\n"
    )
    with written_whole(arguments.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"written: {arguments.out}")
