"""Memory, time to first token and time per token of one model, in a process of its own.

`python -m distill.efficiency --config C --model student --folder DIR` prints one JSON line; the evaluation calls it so
that what it did before does not count towards the peak.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from deepspeed.accelerator import get_accelerator
from transformers.utils.logging import disable_progress_bar

from data.audio import SAMPLE_RATE
from data.errors import InputError, run_cli
from data.paths import REPOSITORY
from data.prompts import instruction
from distill.models import load_for_scoring
from distill.recipe import Recipe, read_recipe
from teacher.device import give_back_memory
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor

NOISE_S = 10
TOKENS = 16


@dataclass(frozen=True)
class Efficiency:
    """Batch 1, ten seconds of noise (the reference's protocol), clocks synchronised; medians of the measured runs.

    Attributes:
        ttft_s: Features in to first logits: encoder, connector, prefill; seconds.
        tpot_s: One decoding step with the key-value cache, seconds.
        peak_memory_bytes: Peak allocated on an accelerator; on the CPU, peak resident set of the process, which
            holds Python and its libraries as well.
    """

    ttft_s: float
    tpot_s: float
    peak_memory_bytes: int


def forget_peak(device: torch.device) -> None:
    """Starts the peak anew: what loading copied says nothing of the model."""
    gc.collect()
    if device.type != "cpu":
        get_accelerator().reset_peak_memory_stats(device.index)
    else:
        give_back_memory()
        Path("/proc/self/clear_refs").write_text("5")


def present_bytes(device: torch.device) -> int:
    """Memory now: allocated on an accelerator; on the CPU, resident of this whole process."""
    return get_accelerator().memory_allocated(device.index) if device.type != "cpu" else _resident("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Most memory since `forget_peak`, or since the start, counted as `present_bytes`."""
    return get_accelerator().max_memory_allocated(device.index) if device.type != "cpu" else _resident("VmHWM")


def _resident(which: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) * 1024


@torch.no_grad()
def measure(
    model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, prompt: str, *, warmup: int, runs: int
) -> Efficiency:
    """Times one model on its device.

    Args:
        model: In evaluation mode.
        processor: The model's.
        prompt: Wording of the instruction.
        warmup: Runs not counted.
        runs: Runs counted.
    """
    wave = np.random.default_rng(0).normal(scale=0.1, size=NOISE_S * SAMPLE_RATE).astype(np.float32)
    synchronize = get_accelerator().synchronize if model.device.type != "cpu" else (lambda: None)
    first, following = [], []
    for run in range(warmup + runs):
        batch = processor([Clip(wave, prompt)]).to(model.device)
        synchronize()
        start = time.perf_counter()
        out = model.llm(
            inputs_embeds=model.embed(batch, model.audio_tokens(batch)),
            attention_mask=batch.attention_mask_BT,
            use_cache=True,
            logits_to_keep=1,
        )
        token = out.logits[:, -1:].argmax(-1)
        synchronize()
        prefilled = time.perf_counter()
        for _ in range(TOKENS):
            out = model.llm(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        synchronize()
        if run >= warmup:
            first.append(prefilled - start)
            following.append((time.perf_counter() - prefilled) / TOKENS)
    return Efficiency(statistics.median(first), statistics.median(following), peak_bytes(model.device))


def measure_apart(recipe_file: Path, which: str, folder: Path | None) -> Efficiency:
    """Runs this module in a fresh process on one model of a resolved recipe."""
    command = [sys.executable, "-m", "distill.efficiency", "--config", str(recipe_file), "--model", which]
    if folder:
        command += ["--folder", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"measuring the {which} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return Efficiency(**json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Measures one model and prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model", choices=("teacher", "student"), required=True)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    recipe: Recipe = read_recipe(arguments.config)
    disable_progress_bar()  # and memory as the C library has it: what is freed while loading is to go
    model, processor = load_for_scoring(recipe, arguments.model, arguments.folder)
    forget_peak(model.device)
    prompt = instruction(recipe.data.prompts, next(iter(recipe.data.prompts)))
    settings = recipe.evaluation
    figures = measure(model, processor, prompt, warmup=settings.warmup_runs, runs=settings.measured_runs)
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    run_cli(main)
