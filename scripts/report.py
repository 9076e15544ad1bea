"""Makes one page of the results of runs: leaderboard, plots, loss curves, examples; Markdown and a single HTML file.

python scripts/report.py                                    # what ran here, into results/report.md and report.html
python scripts/report.py results/kd_mini                    # one run, beside its results
python scripts/report.py results/a results/b --out results/ab
python scripts/report.py results/published/kd_mini --out FOLDER     # a published page, made anew from its figures
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
PUBLISHED = RESULTS / "published"


def runs_below(folder: Path) -> list[Path]:
    """Folders of runs, grids and pages of several runs; those of a grid's runs are not among them."""
    found = {path.parents[1] for path in folder.glob("*/*/metrics.json")}
    found |= {path.parent for name in ("report.json", "grid.json") for path in folder.glob(f"*/{name}")}
    return sorted(found - {PUBLISHED})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="results folders (what ran here; if nothing did, what was published)",
    )
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
        folders, out = runs_below(RESULTS) or runs_below(PUBLISHED), out or RESULTS
    elif out is None and PUBLISHED in folders[0].resolve().parents:
        raise InputError(f"{folders[0]} is published: say where its page goes with --out FOLDER")
    print_table(write_report(folders, out))
    out = out or folders[0]
    print(f"written: {out / 'report.html'} (one file), report.md with its pictures, report.json")


if __name__ == "__main__":
    run_cli(main)
