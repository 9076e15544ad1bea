"""Each way of doing a thing in a process of its own: what one of them leaves in memory says nothing of the next."""

import json
import subprocess
import sys
from collections.abc import Iterable

from data.errors import InputError
from data.paths import REPOSITORY

NOT_THERE = 3
"""Exit status of a way whose library is not installed."""


def measured_apart(module: str, words: Iterable[object]) -> dict | None:
    """Runs `python -m MODULE WORDS`; what it says on the way is on stderr.

    Args:
        module: One that prints its figures as JSON, in the last line of stdout.
        words: Its arguments.

    Returns:
        The figures; None where a library is missing.

    Raises:
        InputError: It failed.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode == NOT_THERE:
        return None
    if done.returncode:
        raise InputError(f"{' '.join(command[1:])}: ended with status {done.returncode}; its last words are above")
    return json.loads(done.stdout.strip().splitlines()[-1])
