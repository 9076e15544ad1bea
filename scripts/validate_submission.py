"""Checks a submission before it is sent: columns, ids, texts, and with --annotation that every clip is there.

python scripts/validate_submission.py results/kd_1b/student/submission_asr.csv [--annotation test_asr.json]
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_cli
from data.rows.manifest_reader import read_manifest
from distill.scoring.submission import check_submission


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="the CSV")
    parser.add_argument("--annotation", type=Path, metavar="F", help="the test set that it is for")
    arguments = parser.parse_args()
    rows = read_manifest(arguments.annotation, texts=False, sounds=False) if arguments.annotation else None
    count = check_submission(arguments.file, rows)
    print(f"{arguments.file}: {count} rows, as they should be" + ("" if rows else " (completeness was not checked)"))


if __name__ == "__main__":
    run_cli(main)
