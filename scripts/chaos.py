"""Kills a small run of random weights (caching, training, scoring, exporting, report) in a row, and looks at its ends.

python scripts/chaos.py [--kills 200] [--seed 0] [--faults all|none|NAME,...] [--set A.B=C] [--folder DIR]

Each kill is a SIGKILL at a moment that the seed draws. The commands go on until they are through, and what is there
then must be, bit for bit, what a run left that nobody touched. Then come the faults, one by one: a full disk, a quota,
a folder that cannot be written to, a flipped byte, SIGTERM with 30 s of grace, a rank that is lost. All of it runs on
the CPU, in a folder of its own. Exit status 1: something was not as it should be.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
# Children are forked, which a process that has asked for a GPU, or has threads, cannot be.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

from data.errors import InputError, run_cli
from distill.chaos.faults import FAULTS
from distill.chaos.kills import kill_in_a_row, untouched
from distill.chaos.small_run import SmallRun


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many, in a row (200)")
    parser.add_argument("--share", type=int, default=6, help="most kills of a command before it is let through (6)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {', '.join(FAULTS)} (all)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="overrides one key of the recipe")
    parser.add_argument("--folder", type=Path, help="where it runs: a new folder, which is kept (one that is removed)")
    arguments = parser.parse_args()
    names = {"all": [*FAULTS], "none": []}.get(arguments.faults, arguments.faults.split(","))
    if unknown := [name for name in names if name not in FAULTS]:
        raise InputError(f"--faults: there is no '{unknown[0]}'; take all, none, or some of {', '.join(FAULTS)}")
    if arguments.kills < 0 or arguments.share < 1:
        raise InputError("--kills: 0 or more; --share: 1 or more")
    if arguments.folder and arguments.folder.exists():
        raise InputError(f"--folder {arguments.folder}: is there already; name a new one")
    with tempfile.TemporaryDirectory(prefix="chaos_") as temporary:
        wrong = tried((arguments.folder or Path(temporary, "run")).resolve(), arguments, names)
    for line in wrong:
        say(f"WRONG: {line}")
    if wrong:
        sys.exit(1)
    say("all ends are equal, bit for bit, to that of the run that nobody touched")


def tried(folder: Path, arguments: argparse.Namespace, names: list[str]) -> list[str]:
    """Everything that was asked for; what went wrong, a line each."""
    run = SmallRun(folder, arguments.set)
    model = untouched(run)
    took = ", ".join(f"{name} {ended.seconds:.1f} s" for name, ended in model.commands.items())
    say(f"untouched: {took}; {len(model.end)} files")
    wrong = []
    if arguments.kills:
        found = kill_in_a_row(run, model, arguments.kills, arguments.seed, arguments.share, say)
        wrong += found.faults
        of = ", ".join(f"{count} of {name}" for name, count in found.of.items())
        say(f"{found.all} kills ({of}) over {found.rounds} runs: {len(wrong)} faults")
    for name in names:
        lines = FAULTS[name](run, model)
        say(f"{name}: {'as it should be' if not lines else '; '.join(lines)}")
        wrong += [f"{name}: {line}" for line in lines]
    return wrong


if __name__ == "__main__":
    run_cli(main)
