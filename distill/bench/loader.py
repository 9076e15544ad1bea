"""How many seconds of sound a second become batches, by a thread of the training's process and by a process beside it.

    python scripts/bench.py loader [--clips 400] [--rounds 5]

From sound files to log-mel features and laid-out batches, as training makes them of rows without a cache; one core
each. Clips: the mini recipe's recordings joined and cut to durations like those of SALMONN's training data (median
5.3 s), half flac and half wav, in memory. `decode` and `features` are those two steps alone, in one thread. Seconds are
those of processor time, as other work on the machine does not count in them, and for thread and process those on the
clock too. Writes results/loader.md and loader.json.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from data.batches import batches_by_length
from data.rows.annotation import annotation_writer
from data.rows.manifest import Manifest
from data.rows.manifest_reader import read_manifest
from data.sound.audio import load_audio
from data.sound.features import log_mel
from distill.bench.sound_mix import write_mix
from distill.losses.settings import LossWeights
from distill.recipe.reading import read_recipe
from distill.recipe.recipe import Recipe
from distill.report.table import markdown, write_measured
from distill.training.checking import built, of_sizes
from distill.training.examples import Examples
from distill.training.makers import Asked, InProcesses, InThreads, Maker
from teacher.device import prepare_process

BATCH_S, MARGIN_S, MEL_BINS = 60.0, 0.1, 80
WORDS = ["a", "dog", "barks", "while", "rain", "falls", "on", "the", "roof", "of", "some", "old", "house"]


def rows_of(files: Sequence[Path]) -> Manifest:
    """Rows of some sounds, each with a text of two words a second."""
    annotation = files[0].parent / "rows.json"
    with annotation_writer(annotation, files[0].parent) as write:
        for number, file in enumerate(files):
            text = " ".join(WORDS[at % len(WORDS)] for at in range(number, number + 12))
            write(path=file.name, text=text, task="asr", id=str(number), corpus="made up")
    return read_manifest(annotation)


class Asks:
    """Batches of like length, over and over.

    Args:
        recipe: Whose student hears the clips.
        rows: Their rows.
    """

    def __init__(self, recipe: Recipe, rows: Manifest) -> None:
        recipe = recipe.model_copy(update={"cache": None})
        _, processor = built(of_sizes(recipe)).processors
        self.examples = Examples(recipe, processor, rows)
        seconds = processor.seconds(rows)
        self.batches = batches_by_length(seconds, BATCH_S)
        self.sound_s = float((seconds - MARGIN_S).sum())

    def __call__(self, step: int) -> list[Asked]:
        """What is asked for at a step: one batch."""
        return [Asked(self.batches[step % len(self.batches)], LossWeights(ce=1), ("reference",), False)]

    def thread(self) -> Maker:
        """One thread."""
        return InThreads(self.examples, self, 10**9, 1)

    def process(self, ahead: int = 2, workers: int = 1) -> Maker:
        """One process, or some."""
        return InProcesses(self.examples, self, 10**9, ahead, workers=workers, accumulation=1, pinned=False)


def measured(asks: Asks, files: Sequence[Path], rounds: int) -> dict[str, float]:
    """Seconds of sound a second of each way: medians of rounds in turn."""
    makers = {"thread": asks.thread(), "process": asks.process()}
    waves = [load_audio(file) for file in files]
    apart: dict[str, Callable[[], object]] = {
        "decode": lambda: [load_audio(file) for file in files],
        "features": lambda: [
            log_mel([waves[i] for i in batch], mel_bins=MEL_BINS, margin_s=MARGIN_S) for batch in asks.batches
        ],
    }
    found: dict[str, list[float]] = {}

    def noted(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(asks.sound_s / max(seconds, 1e-9))

    makers["process"].load(0)  # begins while no thread reads sounds
    at = {"thread": 0, "process": 1}
    for number in range(rounds + 1):
        for name, way in apart.items():
            began = time.process_time()
            way()
            if number:
                noted(f"{name} cpu", time.process_time() - began)
        for name, maker in makers.items():
            began, began_cpu = time.monotonic(), _processor_s(name)
            for step in range(at[name], at[name] + len(asks.batches)):
                maker.load(step)
            at[name] += len(asks.batches)
            if number:  # the first round makes filters and tables
                noted(f"{name} clock", time.monotonic() - began)
                noted(f"{name} cpu", _processor_s(name) - began_cpu)
    for maker in makers.values():
        maker.close()
    return {name: statistics.median(values) for name, values in found.items()}


def _processor_s(way: str) -> float:
    """Processor time so far, of this process or of those beside it."""
    own = psutil.Process()
    times = [own.cpu_times()] if way == "thread" else [child.cpu_times() for child in own.children()]
    return sum(of.user + of.system for of in times)


def by_kind(files: Sequence[Path]) -> dict[str, float]:
    """Seconds of sound of each format that a second of processor time decodes."""
    rates = {}
    for kind in sorted({file.suffix for file in files}):
        began, samples = time.process_time(), 0
        for file in files:
            if file.suffix == kind:
                samples += len(load_audio(file))
        rates[kind.removeprefix(".")] = samples / 16_000 / max(time.process_time() - began, 1e-9)
    return rates


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/kd_mini.json", help="the recipe whose student hears the clips")
    parser.add_argument("--clips", type=int, default=400, help="how many")
    parser.add_argument("--rounds", type=int, default=5, help="that count; there is one before them")
    parser.add_argument("--out", type=Path, default=Path("results/loader.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    prepare_process()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_mix(Path(folder) / "sounds", arguments.clips)
        asks = Asks(read_recipe(arguments.config), rows_of(files))
        rates = measured(asks, files, arguments.rounds)
        kinds = by_kind(files)
    about = {"clips": arguments.clips, "mean_s": asks.sound_s / arguments.clips, "rounds": arguments.rounds}
    about |= {"cores": os.cpu_count(), "load": os.getloadavg()[0], "rates": rates, "decode": kinds}
    write_measured(arguments.out, about, page(about))


def page(about: dict) -> str:
    """The table, for people."""
    rates = about["rates"]
    both = 1 / (1 / rates["decode cpu"] + 1 / rates["features cpu"])
    kinds = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in about["decode"].items())
    lines = [
        [f"decoding ({kinds})", f"{rates['decode cpu']:,.0f}", "–"],
        ["log-mel features", f"{rates['features cpu']:,.0f}", "–"],
        ["decode to features", f"{both:,.0f}", "–"],
    ]
    for name in ("thread", "process"):
        lines.append([f"whole batches, one {name}", f"{rates[f'{name} cpu']:,.0f}", f"{rates[f'{name} clock']:,.0f}"])
    ratio = rates["process clock"] / rates["thread clock"]
    return (
        "# Making batches\n\n"
        f"Seconds of sound a second and core, of {about['clips']:,} clips of {about['mean_s']:.1f} s on average, half "
        f"flac and half wav, in memory; medians of {about['rounds']} rounds in turn on {about['cores']} cores, at a "
        f"load of {about['load']:.1f}. A process makes {ratio:.2f} x what a thread makes, on the clock. `python "
        "scripts/bench.py loader`\n\n"
        f"{markdown(['what', 'a second of processor time', 'a second on the clock'], lines)}\n"
    )
