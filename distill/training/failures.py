"""What can end a long run from outside the recipe, said in one line. All up to the last checkpoint is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from data.errors import NO_ROOM, InputError

_OF_ANOTHER_PROCESS = ("gloo", "Connection closed by peer", "NCCL", "nccl", "Watchdog caught collective operation")
"""Words of the libraries between processes. (NCCL's watchdog ends a process before Python hears of it: `peers.py`.)"""
_GOES_ON = "then the same command goes on from the last checkpoint"


@contextmanager
def as_input_error(run_dir: Path, timeout_s: float) -> Iterator[None]:
    """Raises InputError for a full disk, a process that is gone (of the run, or one that makes batches), and a loss
    scale that cannot fall further.

    Args:
        run_dir: The run's folder.
        timeout_s: How long this process waits for another one, seconds.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise InputError(f"{error.filename or run_dir}: cannot be written ({error.strerror}); {_no_room()}") from error
    except Exception as error:  # DeepSpeed and gloo raise these as plain Exception and RuntimeError
        message = str(error)
        if "PytorchStreamWriter failed" in message or "unexpected pos" in message:
            raise InputError(f"{run_dir}: a checkpoint cannot be written in full; {_no_room()}") from error
        if "loss scale already at minimum" in message:
            raise InputError(
                "fp16: gradients overflow even at the lowest loss scale, so nothing is learned; lower the learning "
                "rates or train in bf16 (deepspeed.bf16), then go on from the last checkpoint under another name"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(message.split("\n\n")[0].split())
            raise InputError(
                f"train.compile: a layer cannot be compiled here ({reason}); it takes a C++ "
                f"compiler, on a GPU Triton; set train.compile=false, {_GOES_ON}"
            ) from error
        if "DataLoader worker" in message:
            raise InputError(
                f"rank {dist.get_rank()}: a process that makes batches is gone ({' '.join(message.split())}): memory "
                "is short, or /dev/shm, through which batches come (in a container: --shm-size); give more, or set "
                f"train.workers=0, {_GOES_ON}"
            ) from error
        if isinstance(error, dist.DistError) or any(words in message for words in _OF_ANOTHER_PROCESS):
            raise InputError(another_is_gone(f", or was silent for {timeout_s:g} s")) from error
        raise


def another_is_gone(otherwise: str = "") -> str:
    """What is said where another process of the run does not answer.

    Args:
        otherwise: What else it may be, as a clause.
    """
    return (
        f"rank {dist.get_rank()}: another process of this run is gone{otherwise}; see what it said last (a kill "
        f"without a word: out of memory), {_GOES_ON}"
    )


def _no_room() -> str:
    return f"make room on the disk, {_GOES_ON}"
