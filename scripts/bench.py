"""Measures what single operations cost: `python scripts/bench.py loss --help`."""

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.paths import REPOSITORY

BENCHES = ("caching", "compiling", "encoder", "features", "fidelity", "launches", "loader", "loss", "manifest")
BENCHES += ("scale", "scan", "serving", "step")


def about(name: str) -> str:
    """What a bench measures; read, not imported: some need a library that the others do without."""
    return ast.get_docstring(ast.parse((REPOSITORY / "distill/bench" / f"{name}.py").read_text())).splitlines()[0]


def main() -> None:
    lines = "\n".join(f"{name}: {about(name)}" for name in BENCHES)
    parser = argparse.ArgumentParser(description=lines, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=BENCHES)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the bench's own; --help lists them")
    arguments = parser.parse_args()
    try:
        bench = import_module(f"distill.bench.{arguments.what}")
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install -r requirements-dev.txt") from error
    bench.main(arguments.options)


if __name__ == "__main__":
    run_cli(main)
