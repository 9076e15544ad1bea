"""Makes one page of the results of runs: leaderboard, plots, loss curves, examples; Markdown and a single HTML file.

python scripts/report.py                                    # all of results/, into results/report.md and report.html
python scripts/report.py results/kd_mini                    # one run, beside its results
python scripts/report.py results/a results/b --out results/ab
python scripts/report.py --curves one=RUN two=RUN --out results/zero_curves.md      # loss curves that should be one
"""

import sys
from pathlib import Path

# This folder has an evaluate.py, which would shadow the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from data.errors import InputError, run_cli
from data.paths import REPOSITORY, written_whole
from distill.report import print_table, write_report
from distill.report.curves import curves_page, read_curves

RESULTS = REPOSITORY / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="results folders (all of results/)")
    parser.add_argument("--curves", nargs="+", metavar="NAME=RUN", help="runs whose loss should be the same")
    parser.add_argument("--out", type=Path, help="folder of the page; with --curves the Markdown file")
    arguments = parser.parse_args()
    if arguments.curves:
        if not arguments.out:
            raise InputError("--curves needs --out FILE.md")
        text = curves_page(read_curves(arguments.curves))
        with written_whole(arguments.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(text)
        return
    out, folders = arguments.out, arguments.runs
    if not folders:
        found = {path.parents[1] for path in RESULTS.glob("*/*/metrics.json")}
        found |= {path.parent for name in ("report.json", "grid.json") for path in RESULTS.glob(f"*/{name}")}
        grids = {folder for folder in found if (folder / "grid.json").is_file()}
        folders, out = sorted(folder for folder in found if not grids & set(folder.parents)), out or RESULTS
    print_table(write_report(folders, out))
    out = out or folders[0]
    print(f"written: {out / 'report.html'} (one file), report.md with its pictures, report.json")


if __name__ == "__main__":
    run_cli(main)
