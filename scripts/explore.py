"""Runs a grid of recipes one after the other, and ends in one report: which is the smallest and fastest as accurate?

python scripts/explore.py --grid configs/grids/ablation.json

A grid file is JSON: "name", "config" (the recipe), "arms" (overrides by name) and/or "axes" (values by key, every
combination), "seeds", "set" (overrides of all), "start" (a run that arms begin from), "launcher". Interrupted, the
same command goes on; a run that fails is told and skipped, and tried again the next time.
"""

import sys
from pathlib import Path

# Not scripts/: there evaluate.py would stand before the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from data.errors import InputError, run_cli
from data.settings import read_settings
from distill.explore import Exploration, GridSettings, run_command
from distill.report import print_table, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=Path, required=True, metavar="FILE", help="the grid file")
    arguments = parser.parse_args()
    grid = read_settings(GridSettings, arguments.grid, what="grid", where="configs/grids/")
    exploration = Exploration(grid, run_command)
    whole = exploration.explore()
    folder = exploration.folder
    print_table(write_report([folder]))
    print(f"written: {folder}/report.html (one file), report.md, report.json")
    if not whole:
        raise InputError(f"some runs failed, see {folder}/report.md; the same command tries them again")


if __name__ == "__main__":
    run_cli(main)
