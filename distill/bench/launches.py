"""How fast the training's thread launches operations: alone, beside a thread that makes batches, beside a process.

    python scripts/bench.py launches [--seconds 2] [--rounds 7]

A GPU's operations are launched by Python, one after the other. Here each is an addition to a single number on the CPU,
which is nothing but its launch. Beside it batches are made all the time, as in `bench.py loader`; what taking them
costs is not counted. Where a machine has too few cores for all that runs, the thread is held up by that too, which on a
host of a GPU it is not: so what it waited for the interpreter is counted apart, as sleeps of its own accord. Writes
results/launches.md and launches.json.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from threading import Event

import torch

from distill.bench.loader import Asks, rows_of
from distill.bench.sound_mix import write_mix
from distill.recipe.reading import read_recipe
from distill.report.table import markdown, write_measured
from teacher.device import prepare_process

GOAL = 0.95
"""Of the speed alone, beside what makes batches."""
_AT_ONCE = 500
_TAKEN_EVERY_S = 0.05
_AHEAD = 400

WAYS = {
    "alone": "nothing",
    "thread": "a thread of this process that makes batches",
    "process": "a process that makes batches",
    "two": "two processes that make batches",
}


def launched(seconds: float, take: Callable[[], object]) -> tuple[float, float]:
    """Operations a second, and how often in a million of them the thread slept; a batch is taken now and then."""
    number, spent, slept, taken = torch.zeros(1), 0.0, 0, time.perf_counter()
    launches = 0
    while spent < seconds:
        sleeps, began = _sleeps(), time.perf_counter()
        for _ in range(_AT_ONCE):
            number.add_(1.0)
        now = time.perf_counter()
        launches, spent, slept = launches + _AT_ONCE, spent + now - began, slept + _sleeps() - sleeps
        if now - taken > _TAKEN_EVERY_S:
            take()
            taken = time.perf_counter()
    return launches / spent, 1e6 * slept / launches


def _sleeps() -> int:
    """How often this thread gave its core away of its own accord, as one does that waits for the interpreter."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


@contextmanager
def beside(way: str, asks: Asks) -> Iterator[Callable[[], object]]:
    """Batches are made all the time, until the context ends; gives what takes one."""
    if way == "alone":
        yield lambda: None
    elif way == "thread":
        stop, begun = Event(), Event()

        def make() -> None:
            try:
                for step in count():
                    if stop.is_set():
                        return
                    asks.examples(*asks(step)[0])
                    begun.set()
            finally:
                begun.set()

        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(make)
            begun.wait()
            try:
                yield lambda: None
            finally:
                stop.set()
        made.result()
    else:
        with closing(asks.process(ahead=_AHEAD, workers=2 if way == "two" else 1)) as maker:
            steps = count()
            maker.load(next(steps))
            yield lambda: maker.load(next(steps))


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/kd_mini.json", help="the recipe whose student hears the clips")
    parser.add_argument("--clips", type=int, default=200, help="of which batches are made")
    parser.add_argument("--seconds", type=float, default=2.0, help="of launching in each round")
    parser.add_argument("--rounds", type=int, default=7, help="of all ways in turn; the medians count")
    parser.add_argument("--out", type=Path, default=Path("results/launches.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    prepare_process()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_mix(Path(folder) / "sounds", arguments.clips)
        asks = Asks(read_recipe(arguments.config), rows_of(files))
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, rates in found.items():
                with beside(way, asks) as take:
                    rates.append(launched(arguments.seconds, take))
    about = {"rounds": arguments.rounds, "seconds": arguments.seconds, "cores": os.cpu_count()}
    rates = {way: [rate for rate, _ in of] for way, of in found.items()}
    # By round: what else the machine did then slowed the ways of one round alike.
    ratios = {way: [a / b for a, b in zip(of, rates["alone"], strict=True)] for way, of in rates.items()}
    sleeps = {way: [slept for _, slept in of] for way, of in found.items()}
    about["load"] = os.getloadavg()[0]
    for name, of in (("rates", rates), ("ratios", ratios), ("sleeps", sleeps)):
        about[name] = {way: statistics.median(values) for way, values in of.items()}
    write_measured(arguments.out, about, page(about))


def page(about: dict) -> str:
    """The table, for people."""
    lines = [
        [words, f"{about['rates'][way]:,.0f}", f"{about['ratios'][way]:.2f} x", f"{about['sleeps'][way]:,.0f}"]
        for way, words in WAYS.items()
    ]
    header = ["beside", "a second", "to alone", "waits for the interpreter, in a million"]
    return (
        "# Launching beside what makes batches\n\n"
        f"Operations that a thread launches in a second; medians of {about['rounds']} rounds in turn, "
        f"{about['seconds']:g} s each, on {about['cores']} cores at a load of {about['load']:.1f}. The goal, with "
        f"cores enough, is {GOAL} x. `python scripts/bench.py launches`\n\n{markdown(header, lines)}\n"
    )
