"""What is said of long work: when the first line comes, and how the time left is told."""

import io

import pytest

from data import progress
from data.progress import Progress


@pytest.fixture
def wait(monkeypatch):
    """A function that lets seconds go by on a clock that stands still otherwise."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_the_time_left_is_told_by_the_seconds_of_sound_that_are_left(wait):
    said = io.StringIO()
    told = Progress("caching", 100, seconds=600.0, stream=said)
    wait(20)
    told.add(4, 100.0, 90.0)  # the longest four: a sixth of the sound
    assert said.getvalue() == "caching: 4/100 clips, 0.2 clips/s, 4 audio-s/s, 1:40 left\n"
    wait(40)
    told.add(46, 200.0, 270.0)
    assert said.getvalue().splitlines()[1].endswith("1:00 left")
    wait(60)
    told.add(50, 300.0, 500.0)
    assert said.getvalue().splitlines()[2:] == ["caching: 100/100 clips, 0.8 clips/s, 4 audio-s/s, took 2:00"]


def test_without_sound_the_time_left_is_told_by_units(wait):
    said = io.StringIO()
    told = Progress("scan", 100, "files", stream=said)
    wait(30)
    told.add(25)
    assert said.getvalue() == "scan: 25/100 files, 0.8 files/s, 1:30 left\n"


def test_nothing_is_said_before_there_is_something_to_tell_from(wait):
    said = io.StringIO()
    told = Progress("caching", 10, seconds=60.0, stream=said)
    wait(1)
    told.add(1, 10.0)  # of one second nothing follows for the rest
    assert not said.getvalue()
    wait(19)
    told.add(1, 10.0)
    assert said.getvalue() == "caching: 2/10 clips, 0.1 clips/s, 0:40 left\n"


def test_where_no_sound_is_done_yet_no_time_left_is_told(wait):
    said = io.StringIO()
    told = Progress("caching", 10, seconds=60.0, stream=said)
    wait(20)
    told.add(0)
    assert said.getvalue() == "caching: 0/10 clips, 0.0 clips/s, 0:20 so far\n"


def test_what_ends_at_once_is_told_at_once(wait):
    said = io.StringIO()
    Progress("caching", 2, seconds=4.0, stream=said).add(2, 4.0)
    assert "2/2 clips" in said.getvalue() and "took 0:00" in said.getvalue()
