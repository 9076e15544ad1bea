"""Compares this model with the reference implementation on a fixture folder that the reference ran.

python scripts/check_parity.py FIXTURE_DIR [--json]; exit status is 0 only where every stage is within its tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from teacher.device import prepare_process
from teacher.parity import TOLERANCES, check_parity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FIXTURE_DIR", help="the fixture")
    parser.add_argument("--json", action="store_true", help="print JSON")
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
        print(f"{'stage':<16} {'largest difference':>18} {'allowed':>9}")
        for stage, value in parity.differences.items():
            allowed = TOLERANCES[stage]
            print(f"{stage:<16} {value:>18.2e} {allowed:>9.0e}{'' if value <= allowed else '  TOO FAR'}")
        for name, equal in parity.equal.items():
            print(f"{name:<16} {'identical' if equal else 'DIFFERENT':>18}")
    sys.exit(0 if parity.ok else 1)


if __name__ == "__main__":
    run_cli(main)
