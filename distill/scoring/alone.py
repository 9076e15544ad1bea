"""One command at a time writes what a model is scored by; its processes join here."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from data.errors import InputError
from data.locks import take_lock
from data.ranks import launched_rank, launched_world
from teacher.device import leave_group_at_exit


@contextmanager
def scored_alone(folder: Path) -> Iterator[None]:
    """Holds a model's results for this command, all of whose processes join.

    Of two commands one would replace the file of texts that the other goes on writing into.

    Args:
        folder: The model's, below its run's results.

    Raises:
        InputError: Another command holds it. The other processes of this one end, as the first says it.
    """
    rank, world = launched_rank(), launched_world()
    if world > 1:  # they hand one another no more than this line, and the slowest may take as long as it wants
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
        leave_group_at_exit()
    with ExitStack() as held:
        refused = [""]
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(take_lock(folder / "scoring.lock", lambda other: _refusal(folder, other)))
            except InputError as error:
                refused = [str(error)]
        if world > 1:
            torch.distributed.broadcast_object_list(refused)
        if refused[0] and rank > 0:
            sys.exit(2)
        if refused[0]:
            raise InputError(refused[0])
        yield


def _refusal(folder: Path, other: str) -> str:
    return f"{folder}: {other} is scoring this model; wait for it to end, its texts count for this command too"
