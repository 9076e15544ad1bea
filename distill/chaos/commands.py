"""Commands as children of a process that has imported what they need: a start takes no libraries' time, so that kills
fall where the work is. They run on the CPU; a process that has asked for a GPU could not be forked.
"""

import mmap
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.paths import REPOSITORY

_POLL_S = 0.002
_LONGEST_S = 600.0
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Moment:
    """When a command is killed: so long after its start, or at one of its changes of files and a little later.

    Attributes:
        after_s: Seconds after the start; None where it goes by the change.
        change: The number of the change, counted from 1, just before which it is.
        later_s: Seconds after that change began.
    """

    after_s: float | None = None
    change: int = 0
    later_s: float = 0.0

    def __str__(self) -> str:
        if self.after_s is not None:
            return f"after {self.after_s:.2f} s"
        return f"at change {self.change} of files" + (f" and {1000 * self.later_s:.0f} ms" if self.later_s else "")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; the signal's number below zero where one ended it.
        seconds: How long it ran.
        changes: Of files in the watched folder, so far.
        said: What it printed, on either stream.
    """

    status: int
    seconds: float
    changes: int
    said: str

    @property
    def killed(self) -> bool:
        """Whether a kill met it: whichever of the two signals that nobody catches here."""
        return -self.status in (signal.SIGKILL, signal.SIGALRM)


class Running:
    """A command that runs.

    Args:
        script: Below the repository.
        words: Its arguments.
        watched: The folder whose changes are counted.
        kill: When it is killed.
        prepare: Called in the child, before the command: limits, patches.
        rank: Its number, of so many, and the port at which they meet.
    """

    def __init__(
        self,
        script: str,
        words: Sequence[object],
        watched: Path,
        kill: Moment | None = None,
        prepare: Callable[[], None] = lambda: None,
        rank: tuple[int, int, int] = (0, 1, 0),
    ) -> None:
        self._kill_s = None if kill is None else kill.after_s
        self._counted = mmap.mmap(-1, 8)  # shared with the child, and there when it is gone
        self.log = watched.with_name(f"{watched.name}.{Path(script).stem}.{rank[0]}.log")
        self._began, self._status = time.monotonic(), None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(script, words, self.log, rank, lambda: (prepare(), _watch(watched, self._counted, kill)))

    def poll(self) -> bool:
        """Whether it still runs."""
        if self._status is None:
            if self._kill_s is not None and time.monotonic() - self._began > self._kill_s:
                self.signal(signal.SIGKILL)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status, self._seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self._began
                self.signal(signal.SIGKILL)  # what it has started itself
        return self._status is None

    def signal(self, number: int) -> None:
        """Sends a signal to it and to what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)  # where it has no group of its own yet

    def wait(self, seconds: float = _LONGEST_S) -> bool:
        """Whether it has ended within so many seconds."""
        until = time.monotonic() + seconds
        while self.poll():
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True

    def ended(self) -> Ended:
        """How it ended.

        Raises:
            InputError: It does not end.
        """
        if not self.wait():
            self.signal(signal.SIGKILL)
            self.wait()
            raise InputError(f"a command hangs, {_LONGEST_S:g} s so far; its last words are in {self.log}")
        changes = int.from_bytes(self._counted[:8], "little")
        return Ended(self._status, self._seconds, changes, self.log.read_text(encoding="utf-8", errors="replace"))


def _become(script: str, words: Sequence[object], log: Path, rank: tuple[int, int, int], prepare: Callable) -> None:
    """Runs a command in this process, and ends it."""
    status = 1
    try:
        os.setsid()  # a group of its own: what it starts is killed with it
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        number, world, port = rank
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it, see `_watch`, whatever it means where this is called
        names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        if world > 1:
            os.environ |= {k: str(v) for k, v in names.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        sys.argv = [script, *map(str, words)]
        prepare()
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch(folder: Path, counted: mmap.mmap, kill: Moment | None) -> None:
    """Counts what this process changes below a folder, and ends it at one of these changes."""
    below, number = f"{folder}{os.sep}", 0

    def seen(event: str, arguments: tuple) -> None:
        nonlocal number
        if event != "open" and event not in _CHANGES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        if not str(arguments[0]).startswith(below):
            return
        number += 1
        counted[:8] = number.to_bytes(8, "little")
        if kill is not None and number == kill.change:
            if kill.later_s:
                signal.setitimer(signal.ITIMER_REAL, kill.later_s)  # SIGALRM, which nobody catches, ends it at once
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(seen)
