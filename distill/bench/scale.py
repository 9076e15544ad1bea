"""Whether millions of rows go through manifest, scan, cache and loader in time that grows as they do.

    python scripts/bench.py scale [--rows 3000000]

No sound is there: what headers say is made up, so that the time is this project's own and no disk's; the cache's
distributions are made up too, of as many tokens as a transcript of 11 s has. A tenth of the rows is measured beside all
of them, each step in a process of its own: time that is linear and memory that is flat show. What a cache of 100,000
hours takes is computed from it. Takes 2 kB of disk a row. Writes results/scale.md and scale.json. Linux only.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import data.rows.manifest_writer as manifest_writer
import data.scan.scanning as scanning
from data.batches import LengthBatches
from data.cache.reader import CacheReader
from data.cache.row import CachedRow, CacheIdentity
from data.cache.targets import SparseTargets
from data.cache.writer import CacheWriter
from data.errors import run_cli
from data.rows.annotation import annotation_writer
from data.rows.faults import Thresholds
from data.rows.manifest_reader import read_manifest
from data.scan.report import report_of
from data.sound.checks import SoundCheck
from data.sound.headers import Header
from distill.bench.apart import measured_apart
from distill.bench.manifest import WORDS, own_bytes
from distill.bench.sound_mix import MEAN_S, real_durations
from distill.report.table import markdown, write_measured

CLIPS_A_ROW = 1_609_722 / 3_000_000
"""Sound files a row, as in SALMONN's training data."""
TOKENS, IDS = 28, 8
"""Of a row's cached text, and kept at each of them."""
RANKS, BATCH_S = 1000, 240.0
LOOKED_AT = 1000
HOURS = 100_000
_IDENTITY = CacheIdentity("teacher", "tokenizer", "prompts", "audio", "targets")
_LENGTHS = real_durations(4096).round(3).tolist()


def _seconds(path: str | Path) -> float:
    return _LENGTHS[int(Path(path).stem) % len(_LENGTHS)]


def _header(path: str | Path) -> Header:
    return Header(_seconds(path), 16_000, 1, f"{int(Path(path).stem):016x}")


def _check(path: Path, *, decode: bool, known: tuple[int, int] | None = None) -> SoundCheck:
    seconds = _seconds(path)
    return SoundCheck(size=int(seconds * 32_000), duration_s=seconds, rate=16_000, channels=1, fingerprint=path.stem)


def annotation(folder: Path, rows: int) -> dict[str, float]:
    """Writes the annotation file, which counts as no step."""
    draw, words, files = random.Random(0), WORDS.split(), max(int(rows * CLIPS_A_ROW), 1)
    with annotation_writer(folder / "rows.json", folder) as write:
        for number in range(rows):
            file = number % files
            text = " ".join(draw.choices(words, k=draw.randint(3, 25)))
            write(path=f"{file % 1000:03}/{file}.flac", text=text, task="asr", id=f"made-up/{number}", corpus="made up")
    return {}


def manifest(folder: Path, rows: int) -> dict[str, float]:
    """Makes the manifest."""
    manifest_writer.read_headers = lambda paths, pool: map(_header, paths)
    manifest_writer.write_manifest([folder / "rows.json"], folder / "rows.arrow", workers=1)
    return {"disk": (folder / "rows.arrow").stat().st_size}


def opened(folder: Path, rows: int) -> dict[str, float]:
    """Opens it, with the hash over its rows, all lengths, and some rows."""
    found = read_manifest(folder / "rows.arrow")
    found.fingerprint()
    total = float(found.durations_s.sum()) + found.with_text.sum()
    began = time.process_time()
    for at in random.Random(1).choices(range(len(found)), k=LOOKED_AT):
        total += found[at].duration_s
    return {"row_us": (time.process_time() - began) / LOOKED_AT * 1e6}


def scan(folder: Path, rows: int) -> dict[str, float]:
    """Scans the annotation file."""
    scanning.check_sound = _check
    os.environ["SALMONN_DISTILL_CACHE"] = str(folder / "known")
    report = report_of(folder / "rows.json", None, Thresholds(), decode=False, workers=2, quiet=True)
    (folder / "scan.json").write_text(json.dumps(report.as_json()))
    return {}


def cache(folder: Path, rows: int) -> dict[str, float]:
    """Writes a cache of all rows."""
    rng, kept = np.random.default_rng(0), []
    for number in range(64):
        ids = np.concatenate([rng.choice(128_000, IDS, replace=False) for _ in range(TOKENS)]).astype(np.int32)
        falling = np.tile(np.log(0.999 * 0.5 ** np.arange(1, IDS + 1)), TOKENS).astype(np.float16).astype(np.float32)
        tokens = rng.integers(0, 128_000, TOKENS).astype(np.int32)
        targets = SparseTargets(tokens, ids, falling, np.full(TOKENS, IDS, np.int32))
        kept.append(CachedRow("", "asr", "transcribe", " ".join([WORDS] * 2), targets={"reference": targets}))
        kept[-1] = replace(kept[-1], sound=f"{number:016x}")
    with CacheWriter(folder / "cache", _IDENTITY, rank=0, world=1) as writer:
        for number in range(rows):
            writer.add(replace(kept[number % len(kept)], id=f"made-up/{number}"))
    shards = [shard.stat().st_size for shard in (folder / "cache").glob("shard-*")]
    return {"disk": sum(shards), "files": len(shards)}


def reader(folder: Path, rows: int) -> dict[str, float]:
    """Opens the cache, asks for each row of the manifest whether it is there, and reads some."""
    found = CacheReader(folder / "cache")
    assert found.has(read_manifest(folder / "rows.arrow").values("id")).all()
    began = time.process_time()
    for at in random.Random(1).choices(range(rows), k=LOOKED_AT):
        assert found[f"made-up/{at}"].targets
    return {"row_us": (time.process_time() - began) / LOOKED_AT * 1e6}


def loader(folder: Path, rows: int) -> dict[str, float]:
    """Makes the batches of an epoch, for one of many ranks."""
    found = read_manifest(folder / "rows.arrow")
    world = min(RANKS, max(rows // 1000, 1))
    batches = LengthBatches(found.durations_s.clip(1, 30), max_seconds=BATCH_S, seed=0, rank=world - 1, world=world)
    began = time.process_time()
    batches.step(batches.steps_per_epoch + 1)
    epoch_s = time.process_time() - began
    began = time.process_time()
    for step in range(min(LOOKED_AT, batches.steps_per_epoch)):
        batches.step(step)
    return {
        "epoch_s": epoch_s,
        "step_us": (time.process_time() - began) / min(LOOKED_AT, batches.steps_per_epoch) * 1e6,
    }


STEPS: dict[str, tuple[Callable[[Path, int], dict[str, float]], str]] = {
    "annotation": (annotation, "the annotation file is written"),
    "manifest": (manifest, "a manifest is made of it"),
    "opened": (opened, "the manifest is opened"),
    "scan": (scan, "the annotation file is scanned"),
    "cache": (cache, "a cache of all rows is written"),
    "reader": (reader, "the cache is opened, and asked for all rows"),
    "loader": (loader, "a rank's batches are made, for two epochs"),
}


def one(step: str, folder: Path, rows: int) -> dict[str, float]:
    """A step, in this process: seconds on the clock and of the processor, and memory of its own that it took."""
    before, began, began_cpu = own_bytes("VmHWM"), time.monotonic(), time.process_time()
    more = STEPS[step][0](folder, rows)
    seconds, cpu_s = time.monotonic() - began, time.process_time() - began_cpu
    return {"seconds": seconds, "cpu_s": cpu_s, "bytes": own_bytes("VmHWM") - before} | more


def page(about: dict) -> str:
    """The tables, for people."""
    few, many = about["few"], about["rows"]
    lines = []
    for step, (_, words) in STEPS.items():
        small, large = about["steps"][step]
        times = [f"{of['cpu_s']:,.1f}" for of in (small, large)]
        sizes = [f"{of['bytes'] / 1e6:,.0f}" for of in (small, large)]
        lines.append([words, *times, f"{large['cpu_s'] / small['cpu_s']:.1f} x", *sizes])
    header = ["", f"s, {few:,} rows", f"s, {many:,} rows", "ratio", f"MB, {few:,} rows", f"MB, {many:,} rows"]
    clips = HOURS * 3600 / MEAN_S
    written, read, made = (about["steps"][name][1] for name in ("cache", "reader", "loader"))

    def grown(step: str, key: str) -> float:
        """By as much a row as from the smaller run to the larger one: what a process takes anyway does not count."""
        small, large = about["steps"][step]
        return (large[key] - small[key]) / max(many - few, 1) * clips

    hours = [
        ["clips", f"{clips / 1e6:.1f} million"],
        ["disk, distributions alone", f"{grown('cache', 'disk') / 1e9:,.0f} GB"],
        ["files", f"{grown('cache', 'files'):,.0f}"],
        ["opened by a rank in", f"{grown('reader', 'cpu_s'):,.0f} s of processor time"],
        ["memory of the open cache, a rank", f"{16 * clips / 1e9:.2f} GB"],
        ["an epoch shuffled and batched in", f"{grown('loader', 'epoch_s'):,.0f} s of processor time"],
        ["memory of that at the peak, a rank", f"{grown('loader', 'bytes') / 1e9:,.1f} GB"],
    ]
    return (
        "# Millions of rows\n\n"
        f"Steps over {few:,} and {many:,} made-up rows, each in a process of its own: seconds of processor time, and "
        "how much its peak of memory rose, pages of mapped files included. Linear in time is "
        f"{many / few:.0f} x. On {about['cores']} cores at a load of {about['load']:.1f}. `python scripts/bench.py "
        f"scale --rows {many}`\n\n{markdown(header, lines)}\n\n"
        f"A random row of the manifest takes {about['steps']['opened'][1]['row_us']:,.0f} us, one of the cache "
        f"{read['row_us']:,.0f} us, a step's rows {made['step_us']:,.0f} us. The cache takes "
        f"{written['disk'] / many:,.0f} bytes a row of {TOKENS} tokens with {IDS} ids each.\n\n"
        f"## A cache of {HOURS:,} hours, computed\n\n"
        f"Of clips of {MEAN_S} s, by what the larger run took more for each row.\n\n{markdown(['', ''], hours)}\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows; a tenth of them is measured too")
    parser.add_argument("--folder", type=Path, help="where they are written; a temporary folder if not given")
    parser.add_argument("--out", type=Path, default=Path("results/scale.md"), help="where the tables go")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.step:
        print(json.dumps(one(arguments.step, arguments.folder, arguments.rows)))
        return
    few = max(arguments.rows // 10, 1)
    about = {"rows": arguments.rows, "few": few, "cores": os.cpu_count(), "load": 0.0, "steps": {}}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for rows in (few, arguments.rows):
            inside = Path(folder) / str(rows)
            inside.mkdir()
            for step in STEPS:
                asked = ["--step", step, "--folder", inside, "--rows", rows]
                about["steps"].setdefault(step, []).append(measured_apart("distill.bench.scale", asked))
    about["load"] = os.getloadavg()[0]
    write_measured(arguments.out, about, page(about))


if __name__ == "__main__":
    run_cli(main)
