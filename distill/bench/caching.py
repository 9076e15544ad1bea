"""How fast a recipe's teacher fills its cache, against a plain loop in the same run, and in how much memory.

    python scripts/bench.py caching [--config configs/kd_mini.json] [--clips 128] [--alone] [--random-weights]

The plain loop takes the same clips one by one, in the annotation's order: the text is generated, then a forward pass
over each text gives its distributions. Both are run in turn, twice. Renews this recipe's line of results/caching.md.
"""

import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.cache.row import CacheIdentity
from data.cache.targets import SparseTargets
from data.errors import InputError
from data.paths import written_whole
from data.prompts import instruction
from data.rows.manifest import Manifest
from data.sound.audio import SAMPLE_RATE, load_clip
from distill.efficiency.memory import peak_bytes
from distill.recipe.inputs import require_inputs
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from distill.report.table import MISSING, markdown
from teacher.build import build_teacher
from teacher.cache import fill_cache
from teacher.device import get_accelerator, pick_device, prepare_process
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import Clip, SalmonnProcessor

ROUNDS = 2


def cached(recipe: Recipe, model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, rows: Manifest) -> None:
    """Fills a cache that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        cache = recipe.cache.model_copy(update={"folder": folder})
        identity = CacheIdentity(*["measured"] * 5)  # its hashes take as long for two clips as for a million
        fill_cache(model, processor, rows, recipe.data.prompts, cache, recipe.generation, identity)


@torch.no_grad()
def plain(recipe: Recipe, model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, rows: Manifest) -> None:
    """One clip after the other: generate, then forward."""
    settings = recipe.generation
    for row in rows:
        wave, wording = load_clip(row), instruction(recipe.data.prompts, row.task, row.id, row.question)
        batch = processor([Clip(wave, wording)]).to(model.device)
        texts = {"reference": row.text}
        if recipe.cache.writes_text_of(row):
            cap = settings.cap(len(wave) / SAMPLE_RATE)
            ids = model.generate(batch, num_beams=settings.num_beams, max_new_tokens=cap)
            texts["hypothesis"] = processor.decode(ids)[0]
        for kind in set(recipe.cache.targets) & set(texts):
            batch = processor([Clip(wave, wording, texts[kind])]).to(model.device)
            logits_NV = model(batch).logits.flatten(0, 1)[batch.rows_N]
            SparseTargets.from_logits(
                logits_NV, batch.labels_N, **recipe.cache.model_dump(include={"top_p", "top_k", "min_p"})
            )


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and renews this recipe's line of the table."""
    parser = recipe_parser(__doc__)
    parser.set_defaults(config="configs/kd_mini.json")
    parser.add_argument("--clips", type=int, default=128, help="clips, drawn from the training rows")
    parser.add_argument("--alone", action="store_true", help="leave out the plain loop")
    parser.add_argument("--out", type=Path, default=Path("results/caching.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    recipe = recipe_of(arguments)
    if recipe.cache is None:
        raise InputError(f"{arguments.config}: the recipe has no cache section; there is nothing to measure")
    require_inputs(recipe, [recipe.data.train])
    prepare_process()
    began = time.monotonic()
    model, processor = build_teacher(recipe.teacher)
    merge_lora(model)
    model = model.eval().to(pick_device())
    build_s = time.monotonic() - began
    rows = read_rows(recipe, recipe.data.train)
    drawn = np.zeros(len(rows), bool)
    drawn[random.Random(recipe.seed).sample(range(len(rows)), min(arguments.clips, len(rows)))] = True
    rows = rows.where(drawn)
    ways = {"cached": cached} if arguments.alone else {"cached": cached, "plain": plain}
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way(recipe, model, processor, rows[:1])  # the first of a kind compiles and allocates
    for _ in range(1 if arguments.alone else ROUNDS):
        for name, way in ways.items():
            began = time.monotonic()
            way(recipe, model, processor, rows)
            seconds[name] += (time.monotonic() - began) / (1 if arguments.alone else ROUNDS)
    weights = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    measured = {
        "device": get_accelerator().device_name(),
        "clips": len(rows),
        "audio_s": float(rows.durations_s.sum()),
        "build_s": build_s,
        "seconds": seconds["cached"],
        "plain_seconds": seconds.get("plain"),
        "weight_bytes": weights,
        "peak_memory_bytes": peak_bytes(model.device),
    }
    kept = arguments.out.with_suffix(".json")
    entries = json.loads(kept.read_text()) if kept.is_file() else {}
    entries[recipe.name] = measured
    with written_whole(kept) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n")
    with written_whole(arguments.out) as temporary:
        temporary.write_text(page(entries), encoding="utf-8")
    print(page(entries) + f"written: {arguments.out}, {kept}")


def page(entries: dict[str, dict]) -> str:
    """The table of all recipes that were measured."""
    header = ["recipe", "device", "clips", "mean clip, s", "clips/s", "plain loop, clips/s", "ratio", "building, s"]
    header += ["weights, GiB", "peak memory, GiB", "peak - 1.25 x weights, GiB"]
    lines = []
    for name, of in entries.items():
        weights, peak = (of[key] / 2**30 for key in ("weight_bytes", "peak_memory_bytes"))
        plain_s = of["plain_seconds"]
        against = [f"{of['clips'] / plain_s:.2f}", f"{plain_s / of['seconds']:.1f} x"] if plain_s else [MISSING] * 2
        line = [name, of["device"], str(of["clips"]), f"{of['audio_s'] / of['clips']:.1f}"]
        line += [f"{of['clips'] / of['seconds']:.2f}", *against, f"{of['build_s']:.0f}"]
        lines.append([*line, f"{weights:.2f}", f"{peak:.2f}", f"{peak - 1.25 * weights:.2f}"])
    return (
        "# Filling the teacher's cache\n\n"
        "Clips a second of one process, and of a plain loop over the same clips in the same run (one clip at a time: "
        "generate, then a forward pass over each text). `_random` after a recipe's name: untrained weights of its "
        "shapes, whose texts run on to the cap. Peak memory on a CPU is that of the whole process, building and Python "
        f"included.\n\n{markdown(header, lines)}\n"
    )
