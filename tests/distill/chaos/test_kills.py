"""Commands that are killed at a moment, and what is said of their ends."""

import random
import subprocess
import sys

from data.paths import REPOSITORY
from distill.chaos.commands import Ended, Moment
from distill.chaos.kills import differences, drawn

WORK = """
import sys
from pathlib import Path
from data.paths import written_whole
folder = Path(sys.argv[1])
for number in range(3):
    if not (folder / str(number)).exists():
        with written_whole(folder / str(number)) as path:
            path.write_text(str(number))
"""
DRIVER = """
import shutil, sys
from pathlib import Path
from distill.chaos.commands import Moment, Running
work, folder = sys.argv[1], Path(sys.argv[2])

def run(kill=None):
    return Running(work, [folder], folder, kill).ended()

def begin():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

begin()
whole = run()
assert whole.status == 0 and not whole.killed and whole.changes >= 9, whole
for change in range(1, whole.changes + 1):
    for later_s in (0.0, 0.001):
        begin()
        ended = run(Moment(change=change, later_s=later_s))
        assert ended.killed or later_s, ended
        assert ended.changes == change or later_s, ended
        for path in folder.glob("[0-9]"):
            assert path.read_text() == path.name  # whole, or not there
        assert run().status == 0
        assert sorted(path.name for path in folder.glob("[0-9]")) == ["0", "1", "2"]
begin()
assert run(Moment(after_s=0.0)).killed
print("all", whole.changes)
"""


def test_a_command_is_killed_at_each_change_of_its_files(tmp_path):
    for name, text in (("work.py", WORK), ("driver.py", DRIVER)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, tmp_path / "driver.py", tmp_path / "work.py", tmp_path / "folder"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.startswith("all "), done.stderr


def test_moments_are_those_of_the_seed_and_lie_within_the_command():
    ended = Ended(0, 3.0, 20, "")
    first, again = ([drawn(draws, ended) for _ in range(200)] for draws in (random.Random(5), random.Random(5)))
    assert first == again
    by_time = [moment.after_s for moment in first if moment.after_s is not None]
    by_change = [moment.change for moment in first if moment.after_s is None]
    assert min(by_time) >= 0 and max(by_time) <= 3 and set(by_change) == set(range(1, 21))
    assert all(drawn(random.Random(seed), Ended(0, 3.0, 0, "")).after_s is not None for seed in range(20))
    assert str(Moment(change=4, later_s=0.02)) == "at change 4 of files and 20 ms"


def test_ends_differ_by_what_is_missing_left_or_another():
    model = {"a": "1", "b": "2", "c": "3"}
    assert differences(model, dict(model)) == []
    assert differences(model, {"a": "1", "b": "9", "d": "4"}) == ["b is another", "c is missing", "d was left behind"]
