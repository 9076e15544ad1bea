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
    """The number of processes on this machine; 1 where it is not told."""
    return _beside() or 1


def launched_host() -> int:
    """The number of this process's host, from 0."""
    return int(os.environ.get("CROSS_RANK") or os.environ.get("GROUP_RANK") or 0)


def launched_beside() -> tuple[int, int]:
    """This process's number among those of its host, from 0, and how many these are; alone, where it is not told."""
    beside = _beside()
    return (int(os.environ.get("LOCAL_RANK", 0)), beside) if beside else (0, 1)


def on_several_hosts() -> bool:
    """Whether not all processes of the run are on this machine."""
    return 0 < _beside() < launched_world()


def _beside() -> int:
    """How many processes this machine has; 0 where the launcher does not tell."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 0)
