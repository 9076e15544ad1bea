"""How many files a second a scan looks at, against opening each with librosa in a loop, in one run.

    python scripts/bench.py scan [--files 3000] [--plain 200] [--workers N]

Files: the mini recipe's recordings joined and cut to durations like those of SALMONN's training data (mean 11.2 s,
median 5.3 s, at most 180 s), half flac and half wav, and read once before, so that no way waits for the disk. The
loops take every n-th file only. Writes results/scan.md and results/scan.json.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import librosa

from data.scan.scanning import scan_sounds
from distill.bench.sound_mix import write_mix
from distill.report.table import markdown, write_measured

ROUNDS = 3


def rate(way, files: list[Path]) -> float:
    """Files a second of one round."""
    began = time.monotonic()
    way(files)
    return len(files) / (time.monotonic() - began)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000, help="files that are scanned")
    parser.add_argument("--plain", type=int, default=200, help="of them, those that librosa opens in a loop")
    parser.add_argument("--workers", type=int, help="the scan's processes; default: one a core")
    parser.add_argument("--out", type=Path, default=Path("results/scan.md"), help="where the table goes")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        files = write_mix(Path(folder) / "sounds", arguments.files)
        some = files[:: max(len(files) // arguments.plain, 1)]
        seconds = sum(librosa.get_duration(path=file) for file in some) / len(some)
        number = 0

        def scan(decode: bool):
            def way(files: list[Path]) -> None:
                nonlocal number
                number += 1
                os.environ["SALMONN_DISTILL_CACHE"] = f"{folder}/cache_{number}"  # nothing is known of any file
                names = [file.name for file in files]
                scan_sounds(files[0].parent, names, decode=decode, workers=arguments.workers, quiet=True)

            return way

        ways = {
            "scan_data.py": (scan(False), files),
            "scan_data.py --decode": (scan(True), files),
            "librosa.load (22,050 Hz, as it is by default)": (lambda files: [librosa.load(f) for f in files], some),
            "librosa.load(sr=None)": (lambda files: [librosa.load(file, sr=None) for file in files], some),
            "librosa.get_duration (header alone)": (
                lambda files: [librosa.get_duration(path=file) for file in files],
                some,
            ),
        }
        best = {name: 0.0 for name in ways}
        for _ in range(ROUNDS):
            for name, (way, of) in ways.items():
                best[name] = max(best[name], rate(way, of))
    measured = {"files": len(files), "plain": len(some), "mean_s": seconds, "cores": os.cpu_count(), "rates": best}
    write_measured(arguments.out, measured, page(measured))


def page(measured: dict) -> str:
    """The table, for people."""
    rates = measured["rates"]
    header = ["way", "files/s", "scan_data.py against it", "scan_data.py --decode against it"]
    scans = [rates["scan_data.py"], rates["scan_data.py --decode"]]
    lines = [[way, f"{own:,.0f}", *(f"{scan / own:.1f} x" for scan in scans)] for way, own in rates.items()]
    return (
        "# Scanning\n\n"
        f"{measured['files']:,} files, half flac and half wav, {measured['mean_s']:.1f} s each on average, on "
        f"{measured['cores']} cores; the loops over {measured['plain']:,} of them. The best of {ROUNDS} rounds in "
        f"turn, files in memory. `python scripts/bench.py scan`\n\n{markdown(header, lines)}\n"
    )
