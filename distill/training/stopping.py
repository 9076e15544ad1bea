"""Whether a run was asked to stop."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LAUNCHER = "deepspeed.launcher.launch"


class StopRequest:
    """Notes SIGTERM, SIGINT, and the end of the `deepspeed` command, from its making on.

    That command has no handler of its own: a signal to it alone ends it, and would leave the training behind.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._parent = os.getppid()
        self._command = _parent_of(self._parent) if _LAUNCHER in _words(self._parent) else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def __bool__(self) -> bool:
        return self._signalled or (self._command is not None and _parent_of(self._parent) != self._command)

    @contextmanager
    def where_nobody_reads(self) -> Iterator[None]:
        """Asks to stop where what is printed is read no more: as on several hosts when `deepspeed` is told to stop."""
        try:
            yield
        except BrokenPipeError:
            self._signalled = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())

    def _on_signal(self, *_: object) -> None:
        self._signalled = True


def _words(process: int) -> list[str]:
    """The command line of a process; none where the system does not tell."""
    path = Path(f"/proc/{process}/cmdline")
    return path.read_text().split("\0") if path.is_file() else []


def _parent_of(process: int) -> int | None:
    path = Path(f"/proc/{process}/stat")
    # The name in brackets may hold spaces; state and parent follow it.
    return int(path.read_text().rpartition(")")[2].split()[1]) if path.is_file() else None
