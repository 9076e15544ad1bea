"""Packs the sounds of an annotation file or a manifest into tar shards, for disks and stores that dislike small files.

python scripts/shard_data.py ANNOTATION [--root DIR] --out DIR [--megabytes 500] [--seed 0]

A recipe then says data.source "shards" and names DIR as data.train, or wherever DIR was copied to (s3://bucket/train).
The shards are in WebDataset's layout; manifest.arrow beside them says where each row's sound lies. Recordings of more
than a minute are cut into their rows' stretches. Files that are no sound, or lie outside of the root, are refused.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.rows.manifest_reader import read_manifest
from data.rows.shard_writer import write_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation", type=Path, metavar="ANNOTATION", help="annotation file or manifest")
    parser.add_argument("--root", type=Path, metavar="DIR", help="what its paths are relative to, if not what it says")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the shards go")
    parser.add_argument("--megabytes", type=float, default=500, help="of sound in a shard, at most (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the order that files are packed in (default: 0)")
    parser.add_argument("--outside", action="store_true", help="also pack files that do not lie below the root")
    arguments = parser.parse_args()
    if not arguments.megabytes > 0:
        raise InputError(f"--megabytes {arguments.megabytes:g}: must be more than 0")
    rows = read_manifest(arguments.annotation, arguments.root, texts=False)
    options = {"megabytes": arguments.megabytes, "seed": arguments.seed, "outside": arguments.outside}
    count = write_shards(rows, arguments.out, **options)
    print(f"{arguments.out}: {len(rows):,} rows in {count:,} shards")


if __name__ == "__main__":
    run_cli(main)
