"""A file that one process holds at a time: others see which, on this machine or another that has the same disk."""

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from data.errors import InputError


def take_lock(path: Path, refusal: Callable[[str], str]) -> TextIO:
    """A lock file, held as long as this process lives and the file is open; what a killed process held is free.

    Args:
        path: The file; its folder is there.
        refusal: The line of the error, from the process that holds it.

    Raises:
        InputError: Another process holds it.
    """
    lock = open(path, "a+")  # noqa: SIM115 (closed it would be free)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        with lock:
            lock.seek(0)
            other = lock.read().strip() or "another process"
        raise InputError(refusal(other)) from None
    except OSError:  # a file system without locks
        return lock
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock
