"""Compares the first losses of two commits, step by step: `python scripts/compare_losses.py main HEAD`.

Each commit is checked out beside the repository, caches and trains by its own code with the same recipe and seed, and
is stopped after so many steps. Where the commits keep the same cache (by its identity) it is filled once. For each
change of what is computed; equal to the last digit is the least that a change of names and places owes.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_cli
from data.paths import REPOSITORY
from distill.report.table import markdown

POLL_S = 0.2
STOP_S = 120
NO_LOSS = {"step", "stage", "lr", "tokens", "audio_s", "seconds"}


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A commit's files in a folder, for as long as the block lasts."""
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    done = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{commit}: cannot be checked out ({done.stderr.strip().splitlines()[-1]}); name a commit")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def first_steps(tree: Path, steps: int, options: list[str], *, fill_cache: bool) -> list[dict]:
    """The log of a training's first steps, by the code of a checked-out commit.

    Raises:
        InputError: Caching or training ended before it came to so many steps.
    """
    name = "compare_losses"
    options = [*options, "--set", f"name={name}", "--set", f"runs={tree / 'runs'}"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    launch = ["deepspeed", "--quiet"]
    if (
        fill_cache
        and subprocess.run([*launch, "scripts/cache_teacher.py", *options], cwd=tree, env=environment).returncode
    ):
        raise InputError(f"{tree.name}: caching failed, see above")
    log = tree / "runs" / name / "steps.jsonl"
    run = subprocess.Popen(
        [*launch, "distill/train.py", *options],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # The launcher ends before the ranks do: what all of them print into has its end when the last one has.
    ended = Thread(target=shutil.copyfileobj, args=(run.stdout, sys.stderr.buffer), daemon=True)
    ended.start()
    try:
        while len(_records(log)) < steps and run.poll() is None:
            time.sleep(POLL_S)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(run.pid, number)
            ended.join(STOP_S)
        run.wait()
    records = _records(log)
    if len(records) < steps:
        raise InputError(f"{tree.name}: training ended after {len(records)} of {steps} steps, see above")
    return records[:steps]


def _records(log: Path) -> list[dict]:
    """The whole lines of a log that is still written to."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    return [json.loads(line) for line in lines]


def differences(before: list[dict], after: list[dict]) -> tuple[list[list[str]], float]:
    """Rows of step, loss, both values and their difference, and the largest relative difference."""
    rows, largest = [], 0.0
    for old, new in zip(before, after, strict=True):
        names = (set(old) | set(new)) - NO_LOSS
        for name in sorted(names):
            a, b = old.get(name), new.get(name)
            difference = relative_difference(a, b)
            largest = max(largest, difference)
            rows.append([str(old["step"]), name, repr(a), repr(b), f"{difference:.1e}" if difference else "equal"])
    return rows, largest


def relative_difference(a: float | None, b: float | None) -> float:
    """Of two figures, over the larger one; infinite where one of them is not there or no number."""
    if a == b:
        return 0.0
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", help="another one")
    parser.add_argument("--config", default="configs/kd_mini.json", help="the recipe, in each commit's own form")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="overrides one key of the recipe")
    parser.add_argument("--steps", type=int, default=20, help="steps of each")
    parser.add_argument("--no-cache", action="store_true", help="do not fill the teacher's cache first")
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest relative difference that passes")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        raise InputError("--steps: at least 1")
    options = ["--config", arguments.config, *(word for of in arguments.set for word in ("--set", of))]
    with tempfile.TemporaryDirectory() as folder:
        logs = []
        for name, commit in (("before", arguments.before), ("after", arguments.after)):
            with checked_out(commit, Path(folder) / name) as tree:
                logs.append(first_steps(tree, arguments.steps, options, fill_cache=not arguments.no_cache))
    rows, largest = differences(*logs)
    print(markdown(["step", "figure", arguments.before, arguments.after, "relative difference"], rows))
    print(f"largest relative difference over {arguments.steps} steps: {largest:.1e}" if largest else "all are equal")
    if largest > arguments.tolerance:
        sys.exit(1)


if __name__ == "__main__":
    run_cli(main)
