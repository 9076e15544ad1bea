"""The one exception for bad input, and the wrapper that turns it into exit status 2."""

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable

from data.ranks import launched_rank

INTERRUPTED, BROKEN_PIPE = 130, 141
"""Exit status after Ctrl-C, and where nobody reads what is printed: 128 and the signal's number, as shells count."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a spent quota, a file beyond its largest size."""


_LONGEST_LINE = 500


class InputError(Exception):
    """Something the person gave is wrong: what, where (file, row, key), and the mend, in one line.

    Args:
        line: The line. It may quote what was given, whatever that is: see `one_line`.
        more: Only a list of files that are not there has a line for each.
    """

    def __init__(self, line: str, *more: str) -> None:
        super().__init__(*map(one_line, (line, *more)))

    def __str__(self) -> str:
        return "\n".join(self.args)


def one_line(text: str) -> str:
    """A text as one line of a message: what cannot be printed is written out, a long one loses its middle."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 205]} ... {text[-200:]}"


def run_cli(main: Callable[[], None]) -> None:
    """Runs an entry point.

    An `InputError`, and what the machine or a file can do wrong, ends it with one line on stderr and exit status 2,
    Ctrl-C with 130. Every command takes `--debug`, which also shows where it happened. Errors of the program itself
    show that always.
    """
    debug = "--debug" in sys.argv[1:]
    if debug:
        sys.argv.remove("--debug")
    try:
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed
        sys.exit(BROKEN_PIPE)
    except (InputError, OSError, RuntimeError, UnicodeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not _is_of_the_machine(error):
            raise
        if debug:
            traceback.print_exc()
        if launched_rank() > 0:
            # Mostly every rank finds the same: the first one says it, and the launcher ends the others meanwhile.
            time.sleep(10)
        print(f"error: {_said(error)}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


def _is_of_the_machine(error: RuntimeError) -> bool:
    """Whether what was given is nested too deep, a device's memory is used up, or a path's links lead in a circle:
    before Python 3.13 this is none of the system's errors.
    """
    return isinstance(error, RecursionError) or str(error).startswith("Symlink loop") or _is_of_a_device(error)


def _is_of_a_device(error: BaseException) -> bool:
    """Whether an accelerator's memory is used up; torch, whose error it is, is not loaded for this."""
    return type(error).__name__ == "OutOfMemoryError"


def _said(error: BaseException) -> str:
    """What there is to say of an error, in one line but for an `InputError`'s list."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        said = "out of memory; give the machine more, or take less at once"
    elif _is_of_a_device(error):
        said = "out of memory on the device; leave it to this command alone, or take less at once"
    elif isinstance(error, RecursionError):
        said = "something is nested too deep; mend the file"
    elif isinstance(error, OSError) and error.strerror:
        mend = "make room on the disk, and start again" if error.errno in NO_ROOM else "mend that, and start again"
        said = f"{error.filename or 'a file'}: {error.strerror}; {mend}"
    else:
        said = " ".join(str(error).split())
    return f"{one_line(said)} (--debug shows where)"
