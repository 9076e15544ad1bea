"""A few kills and faults of a whole run, in processes of its own; `scripts/chaos.py` does hundreds."""

import subprocess
import sys

from data.paths import REPOSITORY


def chaos(environment, *words):
    command = [sys.executable, "scripts/chaos.py", *words]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1500)


def test_a_run_that_is_killed_ends_as_one_that_nobody_touched(environment, tmp_path):
    done = chaos(environment, "--kills", "8", "--share", "2", "--faults", "quota", "--folder", tmp_path / "chaos")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("all ends are equal, bit for bit") and "quota: as it should be" in lines
    assert any(line.startswith("kill 8/8: ") and line.endswith("left") for line in lines)
    assert any(line.startswith("8 kills (") and line.endswith(" 0 faults") for line in lines)


def test_a_fault_that_there_is_not_is_refused(environment):
    done = chaos(environment, "--faults", "fire")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "there is no 'fire'; take all, none, or some of disk, quota" in line
