"""Which of the processes of a run this one is, as the launcher (`deepspeed`, `torchrun`) tells each in its environment.

For what is done before the processes have joined, or without their joining.
"""

import os


def launched_rank() -> int:
    """This process's number, from 0; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


def launched_world() -> int:
    """The number of processes; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def ranks_here() -> int:
    """The number of processes on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
