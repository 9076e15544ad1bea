"""Looks at every sound file and row of an annotation file, and lists what is at fault.

python scripts/scan_data.py ANNOTATION [--root DIR] [--decode] [--json] [--out FILE]

Headers alone tell missing_file, unreadable, zero_length, too_short, too_long and duplicate_audio (same bytes); with
--decode every sample is looked at: silent, clipped, nan, files that break off, and copies in another format. What is
found of a file is kept in the cache folder: a scan that was cut off, or is made again, looks at new and changed files
only. A row stands in each class that it belongs to, and in `ok` if in no other.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.paths import written_whole
from data.rows.faults import Thresholds
from data.scan.report import report_of, summary
from data.settings import add_options, settings_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation", type=Path, metavar="ANNOTATION", help="the annotation file")
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="what its paths are relative to; default: what it says, else its folder",
    )
    parser.add_argument("--decode", action="store_true", help="look at every sample, not at headers alone")
    parser.add_argument("--json", action="store_true", help="print JSON, with all ids")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write that JSON, for a recipe's data.scan")
    parser.add_argument("--ids", type=int, default=20, help="ids of a class that are printed without --json")
    parser.add_argument("--workers", type=int, help="processes; default: one a core (more where the disk is far away)")
    add_options(parser, Thresholds)
    arguments = parser.parse_args()
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: must be 1 or more")
    thresholds = settings_of(Thresholds, arguments)
    report = report_of(
        arguments.annotation, arguments.root, thresholds, decode=arguments.decode, workers=arguments.workers
    )
    content = json.dumps(report.as_json(), ensure_ascii=False, indent=2)
    if arguments.out:
        with written_whole(arguments.out) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    print(content if arguments.json else summary(report, arguments.ids))


if __name__ == "__main__":
    run_cli(main)
