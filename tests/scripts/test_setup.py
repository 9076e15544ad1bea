"""scripts/setup.sh with Pythons that only pretend: which one it takes, which it refuses, and when it calls pip."""

import os
import shutil
import subprocess

import pytest

from data.paths import REPOSITORY

# Says its version, makes a .venv of itself, has every module that is asked for, and notes what it was called with.
PRETENDER = """#!/usr/bin/env bash
echo "{name} $*" >>"{log}"
case "$*" in
    *python_version*) echo {version} ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def fake(tmp_path):
    """A function that puts a pretended Python on the PATH; gives its path."""

    def fake(name, version):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PRETENDER.format(name=name, log=tmp_path / "log", version=version))
        path.chmod(0o755)
        return path

    return fake


@pytest.fixture
def setup(tmp_path, fake):
    """Runs set-up in a folder of its own; gives exit status, lines of complaint, and how Pythons were called."""
    for name in ("scripts/setup.sh", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    fake("c++", "0")

    def setup(**environment):
        (tmp_path / "log").write_text("")
        environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **environment}
        command = ["bash", "scripts/setup.sh"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr.splitlines(), (tmp_path / "log").read_text().splitlines()

    return setup


def installs(calls):
    return [call for call in calls if " -m pip install " in call]


@pytest.mark.parametrize("version", ["3.10.0", "3.11.7", "3.12.1", "3.13.0", "3.14.2"])
def test_takes_the_python_that_is_named(setup, fake, version):
    fake("python3", "3.12.0")
    status, complaints, calls = setup(PYTHON=str(fake("mine", version)))
    assert (status, complaints) == (0, [])
    assert "mine -m venv --clear .venv" in calls and "python3 -m venv --clear .venv" not in calls


@pytest.mark.parametrize(
    ("version", "what"), [(None, "nothing that runs"), ("3.9.18", "3.9.18"), ("3.15.0", "3.15.0"), ("4.10.1", "4.10.1")]
)
def test_a_named_python_that_cannot_be_used_is_refused(setup, fake, tmp_path, version, what):
    fake("python3", "3.12.0")
    named = fake("mine", version) if version else tmp_path / "bin" / "gone"
    status, complaints, _ = setup(PYTHON=str(named))
    assert (status, len(complaints)) == (2, 1)
    assert complaints[0].startswith(f"error: PYTHON={named} is {what}, not Python 3.10 to 3.14")
    assert not (tmp_path / ".venv").exists()


def test_a_venv_of_another_python_than_the_named_one_is_not_taken_for_it(setup, fake):
    fake("python3", "3.12.0")
    assert setup()[0] == 0
    status, complaints, calls = setup(PYTHON=str(fake("mine", "3.13.0")))
    assert (status, len(complaints)) == (2, 1) and "remove .venv" in complaints[0]
    assert not installs(calls)
    assert setup(PYTHON=str(fake("mine", "3.12.0")))[0] == 0


@pytest.mark.parametrize("name", ["python3.10", "python3.11", "python3.12", "python3.13", "python3.14"])
def test_where_none_is_named_any_that_is_supported_will_do(setup, fake, name):
    for other in ("python3", *(f"python3.{minor}" for minor in range(10, 15))):
        fake(other, f"{name.removeprefix('python')}.1" if other == name else "3.8.0")
    status, _, calls = setup()
    assert status == 0 and f"{name} -m venv --clear .venv" in calls


def test_pip_is_called_again_only_where_the_requirements_changed(setup, fake, tmp_path):
    fake("python3", "3.12.0")
    (first,) = installs(setup()[2])
    assert first.endswith("-r requirements-dev.txt")
    assert not installs(setup()[2])
    for file in ("requirements.txt", "requirements-dev.txt"):
        with (tmp_path / file).open("a") as lines:
            lines.write("another\n")
        assert len(installs(setup()[2])) == 1
        assert not installs(setup()[2])
