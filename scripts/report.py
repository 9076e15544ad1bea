"""Makes the report of a results folder again, the table of an ablation, or of loss curves that should be one.

python scripts/report.py results/kd_mini
python scripts/report.py --ablation ce=RUN,RUN,RUN ce_kd=RUN,RUN,RUN --out results/ablation.md
python scripts/report.py --curves one=RUN two=RUN --out results/zero_curves.md
"""

import sys
from pathlib import Path

# This folder has an evaluate.py, which would shadow the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from data.errors import InputError, run_cli
from data.paths import written_whole
from distill.report import print_table, write_report
from distill.report.ablation import ablation_page, read_arms
from distill.report.curves import curves_page, read_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", nargs="?", type=Path, help="a results folder, with teacher/ and student/")
    what.add_argument("--ablation", nargs="+", metavar="ARM=FOLDER[,FOLDER...]", help="runs of each arm, in seed order")
    what.add_argument("--curves", nargs="+", metavar="NAME=RUN", help="runs whose loss should be the same")
    parser.add_argument("--out", type=Path, help="where the table goes (Markdown)")
    arguments = parser.parse_args()

    if arguments.folder:
        print_table(write_report(arguments.folder))
        print(f"written: {arguments.folder / 'report.md'}, report.json and report.png beside it")
        return
    if not arguments.out:
        raise InputError("--ablation and --curves need --out FILE.md")
    if arguments.ablation:
        text = ablation_page(read_arms(arguments.ablation))
    else:
        text = curves_page(read_curves(arguments.curves))
    with written_whole(arguments.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run_cli(main)
