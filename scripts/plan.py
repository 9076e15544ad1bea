"""Computes what a recipe would take on some GPUs: memory by part, largest budgets, steps, operations, hours, disk.

python scripts/plan.py --config configs/kd_1b.json --gpus 8 --memory 80 [--hours 1000 --clips 360000] [--json]

Nothing is loaded, and neither weights nor data need be there: sizes are those of the parts' files, or the recipe's
shapes; rows are counted where the training rows are here, else --hours and --clips say them. What is computed has been
checked on a CPU, on small models; none of it was measured on a GPU.
"""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.paths import resolve
from distill.planning.clips import TOKENS_A_SECOND, Clips, counted_clips, stated_clips
from distill.planning.disk import KEPT
from distill.planning.page import page, planned
from distill.planning.setting import Card, Setting
from distill.recipe.reading import read_recipe, recipe_parser
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows

_HOURS = 1000.0
_MOST = 1e12


def clips_of(arguments: argparse.Namespace, recipe: Recipe) -> Clips:
    """Those of the recipe's rows where they are here, unless others are stated."""
    stated = arguments.hours or arguments.clips
    if not stated and (recipe.data.source == "shards" or resolve(recipe.data.train).is_file()):
        return counted_clips(read_rows(recipe, recipe.data.train))
    if arguments.clips and not arguments.hours:
        raise InputError(f"--clips {arguments.clips}: say their --hours too")
    return stated_clips(arguments.hours or _HOURS, arguments.clips, arguments.tokens)


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of all machines (1)")
    parser.add_argument("--memory", type=float, default=80, help="of one, GB (80)")
    parser.add_argument("--reserve", type=float, default=0.1, help="share of it that nothing here is counted for (0.1)")
    parser.add_argument("--flops", type=float, default=312, help="of one, TFLOP/s; 312: an A100's in bf16")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of these that a training gets (0.4)")
    parser.add_argument("--hours", type=float, help=f"of sound to train on, where its rows are not here ({_HOURS:g})")
    parser.add_argument("--clips", type=int, help="how many these are (of 10 s)")
    parser.add_argument("--tokens", type=float, default=TOKENS_A_SECOND, help="text tokens a second of them (4)")
    parser.add_argument("--kept", type=float, default=KEPT, help="ids of a cached position, on average (11)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    for name in ("gpus", "memory", "flops", "utilisation", "hours", "clips", "tokens", "kept"):
        if (value := getattr(arguments, name)) is not None and not 0 < value <= _MOST:  # nor NaN
            raise InputError(f"--{name} {value}: must be above 0, and at most {_MOST:g}")
    if not 0 <= arguments.reserve < 1:
        raise InputError(f"--reserve {arguments.reserve}: a share, from 0 to 1")
    # As a GPU would run it: this machine's precision is another matter.
    recipe = read_recipe(arguments.config, arguments.set)
    speed = {"flops": arguments.flops * 1e12, "utilisation": arguments.utilisation}
    card = Card(arguments.gpus, arguments.memory * 1e9, arguments.reserve, **speed)
    with redirect_stdout(sys.stderr):
        clips = clips_of(arguments, recipe)
        found = planned(Setting(recipe, clips, card), arguments.kept)
    print(json.dumps(found, indent=2) if arguments.json else page(found, recipe))


if __name__ == "__main__":
    run_cli(main)
