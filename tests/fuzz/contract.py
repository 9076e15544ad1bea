"""What every reader owes, whatever it is given: sense, or one line that names the file, and status 2.

    SALMONN_FUZZ=20000 python -m pytest tests/fuzz      # so many inputs of each format, others each time

Without it each format gets a few hundred, always the same ones.
"""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from hypothesis import HealthCheck, settings

from data.errors import run_cli

LONG = int(os.environ.get("SALMONN_FUZZ", 0))
SECONDS = 30
"""For one input, on a machine that does more than this; most take a hundredth of one."""
GIB = 2**30


def inputs(short: int = 200, share: float = 1.0) -> settings:
    """How many inputs a format gets.

    Args:
        short: In CI.
        share: Of the long form's.
    """
    return settings(
        max_examples=round(LONG * share) or short,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def ends_well(call: Callable[[], object], *names: object, seconds: float = SECONDS) -> bool:
    """Runs what a command would run, as a command would.

    Args:
        call: Reads the input, and asserts that what was read makes sense.
        names: One of them must be in the line, where it is refused.
        seconds: It may take.

    Returns:
        Whether it was accepted. Else it ended in one line and status 2, which is asserted.
    """
    told, before = io.StringIO(), _memory(anew=True)
    try:
        with redirect_stderr(told), redirect_stdout(io.StringIO()), _stopped_after(seconds):
            run_cli(call)
    except SystemExit as end:
        *notes, line, rest = told.getvalue().split("\n")
        assert end.code == 2 and rest == ""
        assert all(note.startswith(("warning: ", "note: ")) for note in notes), notes
        assert line.startswith("error: ") and line.isprintable() and len(line) < 550, line
        assert any(str(name) in line for name in names), line
        return False
    finally:
        assert _memory() - before < GIB
    return True


class Hung(BaseException):
    """An input takes too long. (Not an Exception: those are caught in places.)"""


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _memory(anew: bool = False) -> int:
    """The most that was resident, bytes: up to now, or from now on."""
    if anew:
        with suppress(OSError):  # where that is forbidden, only what is beyond all before is seen
            Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
