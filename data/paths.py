"""Where fetched weights, corpora and features live on this machine, and files that appear whole or not at all."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
_LEFT_S = 3600


def cache_dir() -> Path:
    """The folder for everything fetched or derived once: `$SALMONN_DISTILL_CACHE`, or ~/.cache/salmonn-distill."""
    return Path(os.environ.get("SALMONN_DISTILL_CACHE") or "~/.cache/salmonn-distill").expanduser()


def resolve(path: str | Path) -> Path:
    """A path of a recipe as a real one: `{cache}` is the cache folder; relative ones start at the repository."""
    expanded = Path(str(path).replace("{cache}", str(cache_dir()))).expanduser()
    return expanded if expanded.is_absolute() else REPOSITORY / expanded


@contextmanager
def written_whole(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; puts it in place, and on the disk, when the block ends without an error.

    Its name cannot be guessed, and it is made there and then: no link is followed, and no other process, on whatever
    machine, has the same.

    Args:
        path: The file; its folder is made if it is not there.
        new: Whether there must be no such file yet.

    Raises:
        FileExistsError: There is, of what must be new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as held:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # `remove_leftovers` sees that it is written
        try:
            yield temporary
            with suppress(OSError):  # a file system without modes
                # safetensors puts a file of its own in this place, which nobody else may read.
                os.chmod(temporary, stat.S_IMODE(os.fstat(held.fileno()).st_mode))
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            (_put_new if new else os.replace)(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a name is one that `written_whole` gives before a file is in place."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Removes what writers that were killed left in a folder: temporary files an hour old that nobody holds."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # gone meanwhile, held, or on a file system without locks
            if is_temporary(path) and time.time() - path.stat().st_mtime > _LEFT_S:
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def _put_new(temporary: Path, path: Path) -> None:
    """Gives a file its name, if no other has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems sync files alone
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
