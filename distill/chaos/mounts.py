"""A small disk, and a folder that cannot be written to, for this process and its children alone (Linux)."""

import ctypes
import os
import subprocess
from pathlib import Path

from data.errors import InputError

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000


def own_mounts() -> None:
    """Gives this process mounts of its own; without being root it becomes root of a namespace of its own.

    Raises:
        InputError: The system does not allow it.
    """
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)):
        raise InputError(f"this system gives no mounts of one's own ({os.strerror(ctypes.get_errno())})")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("--make-rprivate", "/")


def small_disk(folder: Path, size: int) -> None:
    """Mounts an empty disk of so many bytes on a folder, or makes the one there so large."""
    again = ["-o", "remount"] if os.path.ismount(folder) else ["-t", "tmpfs", "tmpfs"]
    _mount(*again, "-o", f"size={size}", str(folder))


def used_bytes(folder: Path) -> int:
    """What is taken of the disk that is mounted on a folder."""
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def read_only(folder: Path, on: bool) -> None:
    """Whether a folder, on which a disk is mounted, can be read alone."""
    _mount("-o", f"remount,{'ro' if on else 'rw'}", str(folder))


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"mount {' '.join(words)}: {done.stderr.strip()}")
