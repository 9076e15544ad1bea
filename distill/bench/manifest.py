"""How long a manifest of a synthetic annotation takes to make and to open, and in how much memory.

    python scripts/bench.py manifest [--rows 3000000] [--files 100000]

The annotation names as many sound files of a tenth of a second, row by row in random order, so that a header is read
for nearly every row. A tenth of the rows is measured beside all of them: what does not depend on their number shows.
Renews results/manifest.md. Linux only, as it asks /proc for memory.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from data.errors import run_cli
from data.paths import REPOSITORY, written_whole
from data.rows.annotation import annotation_writer
from data.rows.manifest_reader import read_manifest
from data.rows.manifest_writer import write_manifest

RATE = 16_000
LOOKED_AT = 10_000
WORDS = "a dog barks while rain falls on the roof of some old house"


def synthesise(folder: Path, rows: int, files: int) -> Path:
    """An annotation file of so many rows, and its sounds."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE // 10)
    for number in range(files):
        path = folder / f"{number % 100:02}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            soundfile.write(path, np.roll(noise, number), RATE, subtype="PCM_16")
    draw, words = random.Random(0), WORDS.split()
    with annotation_writer(folder / f"{rows}.json", folder) as write:
        for number in range(rows):
            file = draw.randrange(files)
            text = " ".join(draw.choices(words, k=draw.randint(3, 25)))
            write(
                path=f"{file % 100:02}/{file}.wav", text=text, task="asr", id=f"synthetic/{number}", corpus="synthetic"
            )
    return folder / f"{rows}.json"


def own_bytes(name: str) -> int:
    """What this process has in memory of its own (RssAnon), or had at most with its files (VmHWM)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def convert(annotation: Path) -> dict[str, float]:
    """Makes the manifest, in a process of its own."""
    began = time.monotonic()
    written = write_manifest([annotation], annotation.with_suffix(".arrow"))
    return {"rows": written.rows, "convert_s": time.monotonic() - began, "peak_bytes": own_bytes("VmHWM")}


def opened(annotation: Path) -> dict[str, float]:
    """Opens the manifest, in a process of its own, and looks at all lengths and at some rows."""
    before, began = own_bytes("RssAnon"), time.monotonic()
    rows = read_manifest(annotation.with_suffix(".arrow"))
    rows.fingerprint()
    open_s, open_bytes = time.monotonic() - began, own_bytes("RssAnon") - before
    began = time.monotonic()
    total = float(rows.durations_s.sum())
    for at in random.Random(1).choices(range(len(rows)), k=LOOKED_AT):
        total += rows[at].duration_s
    return {
        "open_s": open_s,
        "open_bytes": open_bytes,
        "row_us": (time.monotonic() - began) / LOOKED_AT * 1e6,
        "used_bytes": own_bytes("RssAnon") - before,
        "file_bytes": annotation.with_suffix(".arrow").stat().st_size,
    }


def measured(annotation: Path) -> dict[str, float]:
    """Both, each in a process that has done nothing else."""
    found: dict[str, float] = {"annotation_bytes": annotation.stat().st_size}
    for step in ("convert", "opened"):
        command = [
            sys.executable,
            "-m",
            "distill.bench.manifest",
            "--step",
            step,
            "--annotation",
            str(annotation.resolve()),
        ]
        out = subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True).stdout
        found |= json.loads(out.splitlines()[-1])
    return found


def page(entries: list[dict[str, float]]) -> str:
    """The figures as a page."""
    from distill.report.table import markdown  # here, as it brings libraries that would count in what is measured

    header = ["rows", "annotation, MB", "manifest, MB", "made in, s", "rows/s", "peak memory, MB", "opened in, ms"]
    header += ["memory of the open manifest, MB", "after all lengths and 10,000 rows, MB", "a row, us"]
    lines = []
    for of in entries:
        sizes = [f"{of[name] / 1e6:.1f}" for name in ("annotation_bytes", "file_bytes")]
        made = [f"{of['convert_s']:.1f}", f"{of['rows'] / of['convert_s']:,.0f}", f"{of['peak_bytes'] / 1e6:.0f}"]
        used = [f"{of['open_s'] * 1e3:.1f}", f"{of['open_bytes'] / 1e6:.1f}", f"{of['used_bytes'] / 1e6:.1f}"]
        lines.append([f"{of['rows']:,}", *sizes, *made, *used, f"{of['row_us']:.0f}"])
    return (
        "# Manifests\n\n"
        "An annotation file made into a manifest, with the header of each row's sound file, and the manifest opened "
        "(`python scripts/bench.py manifest`). Peak memory is that of the process that reads and writes, Python and "
        "its libraries included; those that read headers have their own. Memory of the open manifest is what the "
        "process has of its own beyond what it had before; what the system keeps of the mapped file in its cache is "
        f"not counted. The sound files were written just before, and so are cached too.\n\n{markdown(header, lines)}\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000, help="rows of the larger annotation")
    parser.add_argument("--files", type=int, default=100_000, help="sound files; 4 kB each")
    parser.add_argument("--folder", type=Path, help="where they are written; a temporary folder if not given")
    parser.add_argument("--out", type=Path, default=Path("results/manifest.md"), help="where the table goes")
    parser.add_argument("--step", choices=("convert", "opened"), help=argparse.SUPPRESS)
    parser.add_argument("--annotation", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.step:
        print(json.dumps({"convert": convert, "opened": opened}[arguments.step](arguments.annotation)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        counts = (max(arguments.rows // 10, 1), arguments.rows)
        entries = [measured(synthesise(Path(folder), rows, arguments.files)) for rows in counts]
    for path, text in ((arguments.out, page(entries)), (arguments.out.with_suffix(".json"), json.dumps(entries))):
        with written_whole(path) as temporary:
            temporary.write_text(text.rstrip() + "\n")
    print(page(entries) + f"written: {arguments.out}")


if __name__ == "__main__":
    run_cli(main)
