"""Memory of this process now and at its peak: allocated on an accelerator, or resident on the CPU."""

import gc

import torch

from distill.efficiency.resident import forget_resident_peak, resident_bytes
from teacher.device import get_accelerator


def forget_peak(device: torch.device) -> None:
    """Starts the peak anew: what loading copied says nothing of the model."""
    if device.type == "cpu":
        forget_resident_peak()
        return
    gc.collect()
    get_accelerator().reset_peak_memory_stats(device.index)


def empty_cache() -> None:
    """Hands what this process has freed of an accelerator's memory to others on it (not run on one yet)."""
    gc.collect()
    get_accelerator().empty_cache()


def present_bytes(device: torch.device) -> int:
    """Memory now: allocated on an accelerator; on the CPU, resident of this whole process."""
    return get_accelerator().memory_allocated(device.index) if device.type != "cpu" else resident_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Most memory since `forget_peak`, or since the start, counted as `present_bytes`."""
    return get_accelerator().max_memory_allocated(device.index) if device.type != "cpu" else resident_bytes("VmHWM")
