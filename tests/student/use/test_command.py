"""Where the texts of named sounds go."""

from pathlib import Path

import pytest

from data.errors import InputError
from student.use.command import Outputs


def test_the_two_that_would_have_one_name_are_told():
    names = ["a/x.wav", "a/y.wav", "b/y.wav", "b/x.wav"]
    with pytest.raises(InputError, match=r"a/y\.wav and b/y\.wav: both would be out/y\.json"):
        Outputs(names, "json", Path("out"))
    assert Outputs(names, "json").folder is None  # lines of one place, each with its name


def test_many_names_are_looked_through_once(monkeypatch):
    compared, equal = [], Path.__eq__
    monkeypatch.setattr(Path, "__eq__", lambda one, other: (compared.append(one), equal(one, other))[1])
    outputs = Outputs([f"{number}.wav" for number in range(1000)], "text", Path("out"))
    assert len(compared) < 1000  # each with each would be half a million
    assert outputs.place("7.wav") == Path("out/7.txt")
