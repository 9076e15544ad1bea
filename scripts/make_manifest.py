"""Makes one manifest of annotation files: an Arrow table with the clips' lengths and their sounds' fingerprints.

python scripts/make_manifest.py librispeech_train-*.json clotho_train.json --out train.arrow

A recipe names it as it names an annotation file. It opens in a blink, and takes no memory, whatever its size.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.rows.manifest_writer import write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation", nargs="+", type=Path, help="annotation files (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="the manifest, NAME.arrow")
    parser.add_argument("--root", type=Path, help="what paths are relative to, instead of what the files say")
    parser.add_argument("--workers", type=int, default=0, help="processes that read headers; 0: as many as cores")
    arguments = parser.parse_args()
    written = write_manifest(arguments.annotation, arguments.out, arguments.root, arguments.workers)
    print(f"{arguments.out}: {written.rows} rows, {written.seconds / 3600:.2f} h", flush=True)
    if written.corrected:
        print(
            f"corrected: {written.corrected} rows stated another length than their sound has; that is taken", flush=True
        )
    if written.left_out:
        print(f"left out: {written.left_out} rows without a readable sound file, listed in {written.list}", flush=True)


if __name__ == "__main__":
    run_cli(main)
