"""Measures what single operations of the training cost: `python scripts/bench.py loss --help`."""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from distill.bench import encoder, loss, step

BENCHES = {"encoder": encoder, "loss": loss, "step": step}


def main() -> None:
    about = "\n".join(f"{name}: {module.__doc__.splitlines()[0]}" for name, module in BENCHES.items())
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=BENCHES)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the bench's own; --help lists them")
    arguments = parser.parse_args()
    BENCHES[arguments.what].main(arguments.options)


if __name__ == "__main__":
    run_cli(main)
