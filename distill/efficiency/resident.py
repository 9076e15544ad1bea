"""Memory that this process holds on the CPU, now and at its peak. Imports nothing that would count."""

import ctypes
import gc
import sys
from pathlib import Path
from typing import Literal


def resident_bytes(which: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of the whole process: now (VmRSS), or its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) * 1024


def forget_resident_peak() -> None:
    """Hands what was freed back to the system, and starts the peak anew."""
    gc.collect()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
