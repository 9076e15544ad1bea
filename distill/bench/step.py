"""What a training step costs from the cache, with the teacher in memory, and on-policy: seconds and peak memory.

    python scripts/bench.py step --config configs/kd_mini.json
    python scripts/bench.py step --random-weights --steps 1 --set deepspeed.activation_checkpointing={}

Real steps of the real loop, of the recipe's last stage that distils, with its DeepSpeed block: batches, accumulation,
gradients and optimizer; of its losses those on the text. Only the data are made up: clips of noise, texts of a length,
and a cache of as many ids a position as a teacher's has. Each way runs in a process of its own. `--ways cache` measures
the student alone.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import soundfile
import torch

from data.cache.reader import CacheReader
from data.cache.row import CachedRow
from data.cache.targets import SparseTargets
from data.cache.writer import CacheWriter
from data.errors import InputError, run_cli
from data.paths import resolve, written_whole
from data.prompts import instruction
from data.sound.audio import SAMPLE_RATE
from distill.bench.apart import measured_apart
from distill.efficiency.memory import forget_peak, peak_bytes
from distill.models.students import processor_of, student_of, untrained_student
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from distill.report.table import MISSING, markdown
from distill.training.loop import Trainer
from teacher.build import build_teacher
from teacher.cache import cache_identity
from teacher.device import alone_without_launcher, prepare_process
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor

WAYS = {
    "cache": "the teacher's word from its cache",
    "memory": "the teacher in memory, asked at every step",
    "on_policy": "the teacher in memory, asked of texts that the student writes",
}
KEPT = 8
"""Mean ids a position of cached targets: about as many as the mini teacher's (results/published/cache_fidelity.md)."""


def one(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One way, in this process.

    Returns:
        Median `seconds` a step (the first one not counted where there are more), `peak_bytes` of steps and
        checkpoint, `build_peak_bytes` of models and engine before them, `tokens` and `audio_s` a step.
    """
    alone_without_launcher()
    prepare_process()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        recipe = _over_noise(way, arguments, Path(name))
        student, teacher_processor = _student(recipe)
        processor = processor_of(recipe, student, teacher_processor)
        cache = _made_up_cache(recipe, teacher_processor) if recipe.trains_from_cache else None
        trainer = Trainer(recipe, student, processor, cache, teacher_processor)
        trainer.teacher.hold(recipe.in_memory(recipe.train.stages[0]))  # before the steps, as the student is
        built = peak_bytes(trainer.engine.device)
        forget_peak(trainer.engine.device)
        trainer.train()
        steps = [json.loads(line) for line in (recipe.run_dir / "steps.jsonl").read_text().splitlines()]
        counted = steps[1:] or steps
        measured = {key: statistics.median(step[key] for step in counted) for key in ("seconds", "tokens", "audio_s")}
        return measured | {"peak_bytes": peak_bytes(trainer.engine.device), "build_peak_bytes": built}


def _over_noise(way: str, arguments: argparse.Namespace, folder: Path) -> Recipe:
    """The recipe with one stage, over clips of noise."""
    recipe = recipe_of(arguments)
    stages = [stage for stage in recipe.train.stages if stage.used.kd]
    if not stages:
        raise InputError(f"{arguments.config}: no stage has a kd weight; there is nothing that a teacher is asked")
    used = stages[-1].used
    once = {"steps": arguments.steps, "tasks": [], "targets": ["reference"], "mix": None, "warmup_steps": 0}
    once |= {"losses": {"ce": used.ce, "kd": used.kd}, "final_losses": None}  # features would ask the teacher each way
    once["on_policy"] = None
    if way == "on_policy":
        own = next((of.on_policy.model_dump() for of in stages if of.on_policy), {})
        once |= {"losses": {"kd": used.kd}, "on_policy": own | {"share": 1.0}}
    stage = json.loads(stages[-1].model_dump_json()) | once
    task, kept = next(iter(recipe.data.prompts)), {"targets": ["reference"], "folder": str(folder / "cache")}
    tree = json.loads(recipe.model_dump_json())
    tree |= {"runs": str(folder), "name": "bench", "cache": (tree["cache"] or {}) | kept}
    tree["data"] = {key: tree["data"][key] for key in ("test", "prompts")} | {"train": str(folder / "noise.json")}
    tree["train"] |= {"stages": [stage], "teacher": "cache" if way == "cache" else "memory"}
    tree["train"] |= {"save_every": arguments.steps, "hypotheses": {}, "keep_encoded": False}
    clips = max(int(stage["max_seconds"] / (arguments.seconds + (recipe.student.margin_s or 0.0))), 1)
    clips *= recipe.deepspeed.get("gradient_accumulation_steps", 1)
    rng, rows = np.random.default_rng(0), []
    for number in range(clips):
        path = folder / f"{number}.wav"
        soundfile.write(path, rng.normal(scale=0.1, size=round(arguments.seconds * SAMPLE_RATE)), SAMPLE_RATE)
        rows.append({"path": path.name, "task": task, "text": " ".join(["one"] * arguments.words), "id": str(number)})
    (folder / "noise.json").write_text(json.dumps({"annotation": rows}))
    return Recipe.model_validate_json(json.dumps(tree))


def _student(recipe: Recipe) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """The student in the precision that it is trained in, and the teacher's processor."""
    dtype = torch.bfloat16 if recipe.deepspeed.get("bf16", {}).get("enabled") else torch.float32
    if recipe.teacher.random_weights:
        with torch.device("meta"):  # its processor alone: the teacher takes no memory
            _, teacher_processor = build_teacher(recipe.teacher, dtype)
        return untrained_student(recipe)[0].to(dtype), teacher_processor
    teacher, teacher_processor = build_teacher(recipe.teacher, dtype)
    return student_of(recipe, teacher, teacher_processor), teacher_processor


def _made_up_cache(recipe: Recipe, teacher_processor: SalmonnProcessor) -> CacheReader:
    """A cache of random ids, in the form and of the size that the teacher's would have."""
    rows, rng = read_rows(recipe, recipe.data.train), np.random.default_rng(0)
    identity = cache_identity(
        recipe.teacher, recipe.cache, recipe.generation, recipe.data.prompts, rows, teacher_processor
    )
    ids_of = teacher_processor.config.llm_config.vocab_size
    with CacheWriter(resolve(recipe.cache.folder), identity, rank=0, world=1) as writer:
        for row in rows:
            token_ids = np.array(teacher_processor.text_ids(row.text), np.int32)
            counts = rng.geometric(1 / KEPT, len(token_ids)).clip(1, min(recipe.cache.top_k, ids_of)).astype(np.int32)
            ids = np.concatenate([rng.choice(ids_of, count, replace=False) for count in counts]).astype(np.int32)
            falling = np.concatenate([_falling(count) for count in counts])
            targets = SparseTargets(token_ids, ids, falling, counts)
            wording = instruction(recipe.data.prompts, row.task, row.id)
            writer.add(CachedRow(row.id, row.task, wording, row.text, targets={"reference": targets}))
    return CacheReader(resolve(recipe.cache.folder), identity)


def _falling(count: int) -> np.ndarray:
    """Log-probabilities of so many ids, each half as probable as the one before, 0.999 in all."""
    halves = 0.5 ** np.arange(count)
    return np.log(0.999 * halves / halves.sum()).astype(np.float16).astype(np.float32)


def page(found: dict[str, dict], recipe: Recipe, arguments: argparse.Namespace) -> str:
    """The table, and where both ways were measured their ratio."""
    cached, lines = found.get("cache"), []
    for way, of in found.items():
        ratio = MISSING if way == "cache" or not cached else f"{of['seconds'] / cached['seconds']:.2f} x"
        sizes = [f"{of[key] / 2**30:.2f}" for key in ("peak_bytes", "build_peak_bytes")]
        lines.append([WAYS[way], f"{of['tokens']:.0f}", f"{of['seconds']:.2f}", ratio, *sizes])
    some = next(iter(found.values()))
    changes = "".join(f", {change}" for change in arguments.set)
    weights = ", at random weights" if recipe.teacher.random_weights else ""
    header = ["distributions", "tokens", "seconds", "to the cache", "peak, GiB", "peak while building, GiB"]
    return (
        f"# A training step, from the cache and with the teacher in memory: {Path(arguments.config).stem}\n\n"
        f"One optimizer step of {some['audio_s']:.0f} s of audio, the median of {max(arguments.steps - 1, 1)}{weights}"
        f"{changes} (`scripts/bench.py step`); tokens are those that are supervised. Peak memory: of the process on "
        "a CPU, allocated on a GPU; with the checkpoint's writing, and before, of models and engine.\n\n"
        f"{markdown(header, lines)}\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measures the ways asked for, each apart, or one of them in this process (`--one`)."""
    parser = recipe_parser(__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="what is measured")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps; the first of several is not counted")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip")
    parser.add_argument("--words", type=int, default=25, help="of a clip's text")
    parser.add_argument("--out", type=Path, help="where the table goes; default: results/bench_step_NAME.md")
    parser.add_argument("--json", action="store_true", help="print the figures")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments)))
        return
    recipe = recipe_of(arguments)
    same = ["--config", arguments.config, "--steps", arguments.steps]
    same += ["--seconds", arguments.seconds, "--words", arguments.words]
    same += [word for change in arguments.set for word in ("--set", change)]
    same += ["--random-weights"] * arguments.random_weights
    found = {way: measured_apart("distill.bench.step", ["--one", way, *same]) for way in arguments.ways}
    text = page(found, recipe, arguments)
    if {"cache", "memory"} <= found.keys():
        found["ratio"] = found["memory"]["seconds"] / found["cache"]["seconds"]
    with written_whole(arguments.out or resolve(recipe.results) / f"bench_step_{recipe.name}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(json.dumps(found, indent=2) if arguments.json else text)


if __name__ == "__main__":
    run_cli(main)
