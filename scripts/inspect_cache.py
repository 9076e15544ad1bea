"""Shows what is in a teacher cache.

python scripts/inspect_cache.py DIR [--examples 5] [--clips 1609722] [--json]
"""

import argparse
import json
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.cache.reader import CacheReader
from data.errors import run_cli

_BAR = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the cache folder")
    parser.add_argument("--examples", type=int, default=5, help="rows whose texts are shown")
    parser.add_argument(
        "--clips", type=int, default=1_609_722, help="clips whose cache's size is estimated (SALMONN's training data)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    cache = CacheReader(arguments.folder)
    stats = cache.stats()
    if arguments.json:
        print(json.dumps(asdict(stats), indent=2))
        return
    print(f"rows {stats.rows:,}, tokens {stats.tokens:,}, failed {len(cache.failed()):,}")
    print(f"{stats.bytes / 1e6:,.1f} MB, {stats.bytes_per_token:.1f} bytes a token, texts included")
    if stats.feature_bytes:
        print(f"{stats.feature_bytes / 1e6:,.1f} MB of features")
    if stats.rows:
        whole = (stats.bytes + stats.feature_bytes) / stats.rows * arguments.clips
        print(f"estimate for {arguments.clips:,} clips like these: {whole / 1e9:,.1f} GB")
    print(f"kept mass: mean {stats.kept_mass_mean:.4f}, 1st percentile {stats.kept_mass_p01:.4f}")
    print(f"ids kept a token: mean {stats.ids_per_token:.1f}")
    for most, count in stats.ids_histogram.items():
        label = f"{most // 2 + 1} to {most}" if most > 2 else str(most)
        print(f"  {label:>12} {count:>12,} {'#' * round(_BAR * count / max(stats.ids_histogram.values()))}")
    for row in islice(cache.rows(), arguments.examples):
        known = {"mean log-probability": row.hypothesis_logp, "WER": row.hypothesis_wer}
        known = ", ".join(f"{name} {amount:.2f}" for name, amount in known.items() if amount is not None)
        print(f"\n{row.id} ({row.task}: {row.prompt})\n  reference:  {row.reference}")
        if row.hypothesis is not None:
            print(f"  hypothesis: {row.hypothesis} ({known})")
    print(f"\ncontent {stats.content_sha256}")


if __name__ == "__main__":
    run_cli(main)
