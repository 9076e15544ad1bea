"""What a teacher cache costs and what it is worth: bytes a token against the gradient that a student gets from it.

python scripts/measure_cache.py [--config configs/kd_mini.json] [--out results/cache_fidelity.md]

Over the held-out clips, for an untrained student and the recipe's trained one: cuts by mass (`top_p`), by number
(`top_k`) and by probability (`min_p`), with the tail bucket, renormalised, and with the tail spread evenly over the
ids that are not kept; and targets drawn at random.
"""

import sys
import tempfile
from itertools import cycle
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor

from data.audio import load_clip
from data.batches import batches_by_length
from data.cache import CachedRow, CacheIdentity, SparseTargets, draw, sparsify
from data.cache_reader import CacheReader
from data.cache_writer import CacheWriter
from data.errors import run_cli
from data.paths import written_whole
from data.prompts import instruction
from distill.examples import read_rows
from distill.fidelity import compare, even_gradient, exact_gradient, renormalised_gradient, tail_gradient
from distill.inputs import require_inputs
from distill.models import load_for_scoring
from distill.recipe import recipe_of, recipe_parser
from distill.report.table import markdown
from distill.students import student_of
from teacher.device import prepare_process
from teacher.model import SalmonnForConditionalGeneration, supervised
from teacher.processor import Clip, SalmonnProcessor

SHARD_ROWS = 256
TOP_P, TOP_K, DRAWS = (0.9, 0.99, 0.999, 0.9999), (8, 32, 64, 128), (12, 50)
MIN_P = (0.005, 0.003, 0.002, 0.0015, 0.001, 0.0005)
WAYS = {"tail bucket": tail_gradient, "renormalised": renormalised_gradient, "spread evenly": even_gradient}


@torch.no_grad()
def logits_of(model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, rows: list, prompts: dict) -> Tensor:
    """Logits (N, V) at the supervised positions of all rows, row after row whatever the batches."""
    parts: dict[int, Tensor] = {}
    for batch_rows in batches_by_length(processor.seconds(rows), 120):
        asked = [instruction(prompts, rows[i].task, question=rows[i].question) for i in batch_rows]
        clips = [Clip(load_clip(rows[i]), of, rows[i].text) for i, of in zip(batch_rows, asked, strict=True)]
        batch = processor(clips).to(model.device)
        positions, _ = supervised(batch.labels_BT)
        hidden_ND = model.hidden(batch).flatten(0, 1)[positions]
        logits_NV = model.llm.get_output_embeddings()(hidden_ND).float().cpu()
        lengths = (batch.labels_BT != -100).sum(1).tolist()
        parts |= zip(batch_rows, logits_NV.split(lengths), strict=True)
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


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.set_defaults(config="configs/kd_mini.json")
    parser.add_argument("--out", type=Path, default=Path("results/cache_fidelity.md"), help="where the table goes")
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    run_cli(main)
