"""One clip's way through a model with a clock at every stage; and a process that times one model on command.

`python -m distill.efficiency.timing` answers a JSON line for each JSON line on its standard input, so that
several models, each in a process with a memory of its own, are timed in turn (`distill/efficiency/measuring.py`).
"""

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import StoppingCriteria
from transformers.utils.logging import disable_progress_bar

from data.errors import InputError
from data.prompts import instruction
from data.sound.audio import SAMPLE_RATE, load_clip
from distill.efficiency.memory import forget_peak, peak_bytes, present_bytes
from distill.models.loading import load_for_scoring, parameter_counts, part_bytes
from distill.recipe.reading import read_recipe
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import speech_file, speech_rows
from teacher.device import get_accelerator, pick_device, prepare_process
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor

TTFT_PARTS = ("features", "encoder", "connector", "prefill")


@dataclass(frozen=True)
class Run:
    """Seconds of one batch, from samples in memory to its text.

    Attributes:
        features: Log-mel and filter banks, and their way to the device.
        encoder: Whisper, and BEATs where there is one.
        connector: Norms, Q-Former, projection.
        prefill: The prompt with the audio tokens through the LLM, up to the first token.
        step: One further token with the key-value cache, the mean over all of them.
        total: The whole call.
    """

    features: float
    encoder: float
    connector: float
    prefill: float
    step: float
    total: float


class _Marks(StoppingCriteria):
    """When each token was there; it never stops."""

    def __init__(self, clock) -> None:
        self.clock, self.times = clock, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        self.times.append(self.clock())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def timed(model: SalmonnForConditionalGeneration, processor: SalmonnProcessor, clips: list[Clip], tokens: int) -> Run:
    """Writes exactly 1 + `tokens` tokens for a batch, greedily, by the generation that scores the models.

    Clocks stop when the device has finished what was asked of it.
    """
    synchronize = get_accelerator().synchronize if model.device.type != "cpu" else (lambda: None)

    def clock() -> float:
        synchronize()
        return time.perf_counter()

    marks = _Marks(clock)
    began = clock()
    batch = processor(clips).to(model.device)
    featured = clock()
    states = model.encode(batch.features)
    encoded = clock()
    audio_NH = model.connector(states)
    connected = clock()
    ids_BT = model.generate(
        batch, audio_NH, max_new_tokens=1 + tokens, min_new_tokens=1 + tokens, stopping_criteria=[marks]
    )
    processor.decode(ids_BT)
    ended = clock()
    if ids_BT.shape[1] != 1 + tokens or len(marks.times) != 1 + tokens:
        raise RuntimeError(f"{ids_BT.shape[1]} tokens in {len(marks.times)} steps were made, not {1 + tokens}")
    first, last = marks.times[0], marks.times[-1]
    stages = (featured - began, encoded - featured, connected - encoded, first - connected)
    return Run(*stages, step=(last - first) / tokens, total=ended - began)


def told_of(recipe: Recipe) -> str:
    """The instruction under which a recipe's models are timed."""
    return instruction(recipe.data.prompts, next(iter(recipe.data.prompts)))


def waves_of(recipe: Recipe, seconds: float, batch: int, sound: str) -> list[np.ndarray]:
    """Samples of clips of exactly so many seconds: recordings of the first speech set strung together, or white noise.

    Raises:
        InputError: No clip of the set can be heard.
    """
    needed = round(seconds * SAMPLE_RATE)
    if sound == "noise":
        wave = np.random.default_rng(0).normal(scale=0.1, size=needed * batch).astype(np.float32)
    else:
        waves, have = [], 0
        for row in speech_rows(recipe):
            with suppress(InputError):  # scoring says which clips cannot be heard
                waves.append(load_clip(row))
                have += len(waves[-1])
            if have >= needed * batch:
                break
        if not waves:
            raise InputError(f"{speech_file(recipe)}: no clip of it can be heard; check the data's folder")
        wave = np.resize(np.concatenate(waves), needed * batch)
    return list(wave.reshape(batch, needed))


class Subject:
    """One model that is timed, in a process that holds nothing else.

    Args:
        recipe: The recipe.
        which: "teacher" or "student".
        quantise: The LLM's quantisation, or None.
        folder: A student's model folder instead of the run's own.
    """

    def __init__(self, recipe: Recipe, which: str, quantise: str | None = None, folder: Path | None = None) -> None:
        self.recipe, device = recipe, pick_device()
        self.process_bytes = present_bytes(device)
        self.model, self.processor = load_for_scoring(recipe, which, folder, quantise)
        self.loading_bytes = peak_bytes(device)
        forget_peak(device)
        self.clips = cache(self._clips)
        prepare_process()  # only now: memory that loading took and gave back is to be gone

    def about(self) -> dict:
        """What does not change from run to run."""
        counts, sizes = parameter_counts(self.model), part_bytes(self.model)
        return {
            "parameters": sum(counts.values()),
            "parts": counts,
            "weight_bytes": sum(sizes.values()),
            "part_bytes": sizes,
            "process_bytes": self.process_bytes,
            "loading_peak_bytes": self.loading_bytes,
            "device": self.model.device.type,
            "threads": torch.get_num_threads(),
        }

    def run(self, seconds: float, batch: int, tokens: int, sound: str, fresh: bool) -> dict:
        """One timed batch of clips of one length; the peak is that since the last `fresh` one began."""
        clips = self.clips(seconds, batch, sound)
        if fresh:
            forget_peak(self.model.device)
        run = timed(self.model, self.processor, clips, tokens)
        return asdict(run) | {"peak_memory_bytes": peak_bytes(self.model.device)}

    def _clips(self, seconds: float, batch: int, sound: str) -> list[Clip]:
        told = told_of(self.recipe)
        return [Clip(wave, told) for wave in waves_of(self.recipe, seconds, batch, sound)]


def main() -> None:
    """Answers each line of the standard input; its end ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model", choices=("teacher", "student"), required=True)
    parser.add_argument("--quantise")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--answers", type=int, required=True, help="file descriptor of the pipe for answers")
    arguments = parser.parse_args()
    answers = os.fdopen(arguments.answers, "w")

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        disable_progress_bar()
        subject = Subject(read_recipe(arguments.config), arguments.model, arguments.quantise, arguments.folder)
        answer(subject.about())
        for line in sys.stdin:
            answer(subject.run(**json.loads(line)))
    except InputError as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main()
