"""What compiled layers gain (`train.compile`): forward and backward of some layers of the student, plain and compiled.

    python scripts/bench.py compiling --config configs/kd_mini.json [--layers 2] [--seconds 10] [--clips 4]

Layers of the recipe's sizes at random weights, over clips of noise of several lengths, in the precision of training.
Seconds are those of processor time, in turn. Writes results/compiling_NAME.md and .json.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from data.paths import resolve
from data.sound.audio import SAMPLE_RATE
from distill.models.students import untrained_student
from distill.recipe.reading import recipe_of, recipe_parser
from distill.recipe.recipe import Recipe
from distill.report.table import markdown, write_measured
from distill.training.checking import of_sizes
from distill.training.compiling import compile_layers
from teacher.device import prepare_process
from teacher.model import Batch, SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor

WORDS = 25


def passes(model: SalmonnForConditionalGeneration, batch: Batch) -> dict[str, Callable[[], torch.Tensor]]:
    """What is passed forward, and then backward: layers alone, and what goes into them."""
    with torch.no_grad():
        audio_NH = model.audio_tokens(batch)
    return {
        "speech encoder": lambda: model.encode(batch.features).speech_BTD.float().square().mean(),
        "LLM": lambda: model.hidden(batch, audio_NH).float().square().mean(),
    }


def measured(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds of a pass, plain and compiled, and those of the first compiled one."""
    model, processor = _layers(recipe, arguments.layers)
    rng, found = np.random.default_rng(0), {}
    waves = [rng.normal(scale=0.1, size=round(s * SAMPLE_RATE)) for s in _lengths(arguments)]
    batch = processor([Clip(wave.astype(np.float32), "transcribe", " ".join(["one"] * WORDS)) for wave in waves])
    plain, _ = _layers(recipe, arguments.layers)
    compile_layers(model)
    ways = {"plain": passes(plain.train(), batch), "compiled": passes(model.train(), batch)}
    for part in ways["plain"]:
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds + 1):
            for way, of in ways.items():
                began = time.process_time()
                of[part]().backward()
                times[way].append(time.process_time() - began)
        found[part] = {way: statistics.median(of[1:]) for way, of in times.items()} | {"first": times["compiled"][0]}
    return found


def _lengths(arguments: argparse.Namespace) -> list[float]:
    return [arguments.seconds * (1 - 0.1 * number / arguments.clips) for number in range(arguments.clips)]


def _layers(recipe: Recipe, layers: int) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """The student with so many layers of each kind, and its processor."""
    torch.manual_seed(0)
    model, processor = untrained_student(recipe)
    model.encoder.layers = model.encoder.layers[:layers]
    decoder = model.llm.get_decoder()
    decoder.layers = decoder.layers[:layers]
    dtype = torch.bfloat16 if recipe.deepspeed.get("bf16", {}).get("enabled") else torch.float32
    return model.to(dtype), processor


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = recipe_parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2, help="of each kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the longest clip")
    parser.add_argument("--clips", type=int, default=4, help="in the batch")
    parser.add_argument("--rounds", type=int, default=7, help="that count, in turn")
    parser.add_argument("--out", type=Path, help="where the table goes; default: results/compiling_NAME.md")
    arguments = parser.parse_args(words)
    prepare_process()
    recipe = of_sizes(recipe_of(arguments))
    about = {"recipe": recipe.name, "layers": arguments.layers, "seconds": arguments.seconds, "clips": arguments.clips}
    about |= {"threads": torch.get_num_threads(), "rounds": arguments.rounds, "parts": measured(recipe, arguments)}
    about |= {"load": os.getloadavg()[0], "bf16": bool(recipe.deepspeed.get("bf16", {}).get("enabled"))}
    write_measured(arguments.out or resolve(recipe.results) / f"compiling_{recipe.name}.md", about, page(about))


def page(about: dict) -> str:
    """The table, for people."""
    lines = [
        [part, f"{of['plain'] * 1e3:,.0f}", f"{of['compiled'] * 1e3:,.0f}", f"{of['compiled'] / of['plain']:.2f} x"]
        for part, of in about["parts"].items()
    ]
    first = ", ".join(f"{part} {of['first']:.0f} s" for part, of in about["parts"].items())
    return (
        f"# Compiled layers: {about['recipe']}\n\n"
        f"Forward and backward of {about['layers']} layers of each kind and what leads to them, "
        f"{about['clips']} clips of up to {about['seconds']:g} s, in {'bf16' if about['bf16'] else 'fp32'} on a CPU "
        f"({about['threads']} threads, load {about['load']:.1f}); medians of {about['rounds']} in turn, of processor "
        f"time. Compiling took, in this process alone: {first}. `python scripts/bench.py compiling`; not run on a GPU."
        f"\n\n{markdown(['part', 'plain, ms', 'compiled, ms', 'ratio'], lines)}\n"
    )
