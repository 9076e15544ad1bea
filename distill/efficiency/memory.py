"""Memory of this process now and at its peak: allocated on an accelerator, or resident on the CPU."""

import gc
from pathlib import Path

import torch

from teacher.device import get_accelerator, give_back_memory


def forget_peak(device: torch.device) -> None:
    """Starts the peak anew: what loading copied says nothing of the model."""
    gc.collect()
    if device.type != "cpu":
        get_accelerator().reset_peak_memory_stats(device.index)
    else:
        give_back_memory()
        Path("/proc/self/clear_refs").write_text("5")


def empty_cache() -> None:
    """Hands what this process has freed of an accelerator's memory to others on it (not run on one yet)."""
    gc.collect()
    get_accelerator().empty_cache()


def present_bytes(device: torch.device) -> int:
    """Memory now: allocated on an accelerator; on the CPU, resident of this whole process."""
    return get_accelerator().memory_allocated(device.index) if device.type != "cpu" else _resident("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Most memory since `forget_peak`, or since the start, counted as `present_bytes`."""
    return get_accelerator().max_memory_allocated(device.index) if device.type != "cpu" else _resident("VmHWM")


def _resident(which: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) * 1024
