import errno
import pickle
import subprocess
import sys

import pytest
import torch

from data.errors import InputError, run_cli
from data.paths import REPOSITORY


def _raise(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("clip.wav: empty; record it again"), 2, "error: clip.wav: empty; record it again\n"),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"),
            2,
            "error: a/b: Not a directory; mend that, and start again (--debug shows where)\n",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "x"),
            2,
            "error: x: Disk quota exceeded; make room on the disk, and start again (--debug shows where)\n",
        ),
        (OSError("two\nlines"), 2, "error: two lines (--debug shows where)\n"),
        (RuntimeError("Symlink loop from 'a'"), 2, "error: Symlink loop from 'a' (--debug shows where)\n"),
        (RecursionError(), 2, "error: something is nested too deep; mend the file (--debug shows where)\n"),
        (MemoryError(), 2, "error: out of memory; give the machine more, or take less at once (--debug shows where)\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            2,
            "error: out of memory on the device; leave it to this command alone, or take less at once "
            "(--debug shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_ends_in_one_line_and_a_status(error, status, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run_cli(_raise(error))
    assert ended.value.code == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('id "a\nb"', 'id "a\\nb"'),
        ("\r\u2028\x1b[31m\ud800\0é", "\\r\\u2028\\x1b[31m\\ud800\\x00é"),
        ("a" * 10**6 + "; mend it", "a" * 295 + " ... " + "a" * 191 + "; mend it"),
    ],
    ids=["line", "signs", "long"],
)
def test_what_was_given_is_quoted_in_one_line(given, shown, capsys):
    error = InputError(given)
    assert str(error) == shown and str(pickle.loads(pickle.dumps(error))) == shown
    with pytest.raises(SystemExit):
        run_cli(_raise(InputError(f"list.json: {error}")))
    assert capsys.readouterr().err.count("\n") == 1


def test_a_list_of_files_has_a_line_for_each():
    error = InputError("not there:", "  a\nb", "  c")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "not there:\n  a\\nb\n  c"


def test_a_surrogate_is_said(capsys):
    with pytest.raises(SystemExit):
        run_cli(lambda: "\ud800".encode())
    assert "surrogates not allowed" in capsys.readouterr().err


def test_debug_shows_where_and_is_no_option_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command", "--debug", "file"])
    seen = []

    def main():
        seen.extend(sys.argv)
        raise InputError("clip.wav: empty")

    with pytest.raises(SystemExit):
        run_cli(main)
    told = capsys.readouterr().err
    assert seen == ["command", "file"] and "Traceback" in told and told.endswith("error: clip.wav: empty\n")


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), RuntimeError("x"), AssertionError("x"), ValueError("x")]
)
def test_errors_of_the_program_are_not_hidden(error):
    with pytest.raises(type(error)):
        run_cli(_raise(error))


def test_nobody_reads_what_is_printed():
    code = "from data.errors import run_cli; run_cli(lambda: [print('x' * 100) for _ in range(10_000)])"
    command = f'{sys.executable} -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr, done.stdout) == (141, "", "x" * 100 + "\n")


def test_a_rank_that_finds_something_alone_says_it_in_the_end(monkeypatch, capsys):
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("time.sleep", waited.append)  # as long as the launcher lets it, where the first rank said it
    with pytest.raises(SystemExit):
        run_cli(_raise(InputError("only here")))
    assert waited == [10] and capsys.readouterr().err == "error: only here\n"
