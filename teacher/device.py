"""Where and in what precision a model runs."""

import atexit
import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from data.errors import InputError
from data.ranks import ranks_here

# DeepSpeed says which device it found as it is imported, and its log goes where it finds stdout then. That is for what
# a command was asked for: JSON, a list of keys.
with redirect_stdout(sys.stderr):
    from deepspeed.accelerator import get_accelerator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Torch's variable for how memory on a device is allocated; up to 2.8 it knows the second name alone."""


def let_segments_grow() -> None:
    """Has CUDA's allocator map memory by pages, where the person has not said otherwise (not run on a GPU).

    Batches are of many shapes: blocks that are freed leave gaps that the next batch does not fit, until memory is used
    up that is not in use. Torch reads the variable when memory on a device is first asked for, in each process of a
    launcher for itself.
    """
    if not any(name in os.environ for name in _ALLOCATOR):
        known_as = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9)
        os.environ[_ALLOCATOR[known_as]] = "expandable_segments:True"


let_segments_grow()  # here, where nothing has asked a device yet

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them: x86's, and ARM's."""
_DEFAULT_PORT = "29500"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def pick_device(local_rank: int = -1) -> torch.device:
    """This process's accelerator (DeepSpeed's choice), or the CPU.

    Args:
        local_rank: The process's number on this machine; -1: as the launcher says.
    """
    name = get_accelerator().device_name()
    if name == "cpu":
        return torch.device("cpu")
    if local_rank < 0:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
    # Libraries that place weights themselves (bitsandbytes) take the current device.
    get_accelerator().set_device(local_rank)
    return torch.device(name, local_rank)


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU computes in bf16; where it does not say so, it is taken not to.

    PyTorch computes in it anyway, by way of fp32: on AVX-512 without bf16 a linear layer of the mini teacher's encoder
    takes 2.1 times as long as in fp32, a convolution 2.6 times, and on AVX2 alone 4.3 and 27 times.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return not _BF16_FLAGS.isdisjoint(next(flags, ()))


def prepare_process() -> None:
    """What every entry point does first: no progress bars of libraries, its share of the cores, memory that stays.

    By default each of several ranks takes every core, and they wait for one another: on a CPU for all, on a GPU (not
    run) for their batches' features. There fp32 is multiplied as TF32 is, on the tensor cores. And on a CPU glibc maps
    every large block anew and trims the heap after large frees: the activations of a training step then cost a page
    fault a page, each step.
    """
    disable_progress_bar()
    ranks = ranks_here()
    if ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    if get_accelerator().device_name() != "cpu":
        torch.set_float32_matmul_precision("high")
        return
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def alone_without_launcher() -> None:
    """Started without a launcher, this process is the only rank: DeepSpeed would look for MPI."""
    if "RANK" not in os.environ:
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        os.environ.update({name: str(value) for name, value in alone.items()})


def free_port() -> int:
    """A port that nothing on this machine listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def leave_common_port() -> None:
    """Two runs that one machine's `deepspeed` has started would meet at its default port: each gets one of its own.

    Processes of one command have its process as their parent, and so agree on a port without a word. One that was asked
    for (`--master_port`), and that between several machines, stays.
    """
    on_one_machine = os.environ.get("LOCAL_SIZE") == os.environ.get("WORLD_SIZE")  # as DeepSpeed's launcher tells
    if on_one_machine and os.environ.get("MASTER_PORT") == _DEFAULT_PORT:
        # Below those that systems give to outgoing connections.
        os.environ["MASTER_PORT"] = str(20_000 + os.getppid() % 10_000)


@contextmanager
def port_told() -> Iterator[None]:
    """Raises InputError where the port is taken at which the processes of a run are to meet."""
    try:
        yield
    except RuntimeError as error:  # torch's errors of the network are of this kind
        if "EADDRINUSE" not in str(error) and "address already in use" not in str(error).lower():
            raise
        port = os.environ.get("MASTER_PORT")
        raise InputError(
            f"port {port}, at which the processes of this run would meet, is taken (by another run on this machine?); "
            "name another one: deepspeed --master_port PORT distill/train.py ..."
        ) from error


def leave_group_at_exit() -> None:
    """Whatever ends this process, it leaves gloo's group while Python still runs.

    Otherwise the interpreter's end, now and then, ends it with SIGABRT: gloo's threads hold tensors, and with them
    Python's objects (pytorch pull request 179291). NCCL's group is not left so: after a failure that may wait for ever.
    """
    if dist.get_backend() == "gloo":
        atexit.register(_leave_group)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def lowering(key: str, value: float, mend: str = "") -> Iterator[None]:
    """Raises InputError where memory is used up, which names the key to lower.

    Args:
        key: Of the recipe.
        value: What it is.
        mend: What else helps, as a clause.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
        raise InputError(
            f"{rank}out of memory on {pick_device()}: lower {key}, which is {value:g}{mend}; python scripts/plan.py "
            "computes what fits"
        ) from error


def give_back_memory() -> None:
    """Hands what a process on the CPU has freed back to the system.

    Kept (see `prepare_process`), batches of many shapes leave holes between them that nothing fits, and the process
    grows with every batch; once in a while this costs less than the page faults that keeping saves.
    """
    if get_accelerator().device_name() == "cpu" and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
