"""Compares this model with the reference implementation on a fixture folder that the reference ran.

python scripts/check_parity.py FIXTURE_DIR [--json] [--out results/parity.md]
Exit status is 0 only where every stage is within its tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.paths import written_whole
from distill.report.table import markdown
from teacher.device import prepare_process
from teacher.parity import TOLERANCES, Parity, check_parity

HEADER = ("stage", "largest difference", "allowed")


def lines(parity: Parity) -> list[tuple[str, str, str]]:
    """The table: each stage with its tolerance, then whether labels and generated ids are the same."""
    stages = [
        (stage, f"{value:.2e}", f"{TOLERANCES[stage]:.0e}" + ("" if value <= TOLERANCES[stage] else "  TOO FAR"))
        for stage, value in parity.differences.items()
    ]
    ids = [(name, "identical" if equal else "DIFFERENT", "identical") for name, equal in parity.equal.items()]
    return [HEADER, *stages, *ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FIXTURE_DIR", help="the fixture")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the table as Markdown too")
    arguments = parser.parse_args()
    prepare_process()
    parity = check_parity(arguments.folder)
    if arguments.json:
        stages = {
            stage: {"max_abs_diff": value, "tolerance": TOLERANCES[stage], "ok": value <= TOLERANCES[stage]}
            for stage, value in parity.differences.items()
        }
        print(json.dumps({"ok": parity.ok, "stages": stages, "equal": parity.equal}, indent=2))
    else:
        for line in lines(parity):
            print(f"{line[0]:<16} {line[1]:>18} {line[2]:>9}")
    if arguments.out:
        about = (
            f"# Parity with the reference\n\nLargest absolute difference of each stage on the fixture "
            f"`{arguments.folder.resolve().name}`, its samples alone and batched (`scripts/check_parity.py`).\n\n"
        )
        with written_whole(arguments.out) as temporary:
            temporary.write_text(f"{about}{markdown(HEADER, lines(parity)[1:])}\n", encoding="utf-8")
    sys.exit(0 if parity.ok else 1)


if __name__ == "__main__":
    run_cli(main)
