"""Sounds that lie within a corpus's own files, written out: named by their bytes, never by what the data say."""

import hashlib
import re
from pathlib import Path

from data.errors import InputError
from data.paths import written_whole

_MAGIC = {
    ".wav": rb"(RIFF|RF64|BW64).{4}WAVE",
    ".flac": rb"fLaC",
    ".ogg": rb"OggS",
    ".m4a": rb".{4}ftyp",
    ".aiff": rb"FORM.{4}AIF[FC]",
    ".mp3": rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]",  # a tag, or a frame of layer 1 to 3
}


def ending_of(content: bytes) -> str:
    """The ending that a sound's first bytes ask for; empty where they are no sound's that is known."""
    return next((ending for ending, magic in _MAGIC.items() if re.match(magic, content[:12], re.DOTALL)), "")


def written_out(content: bytes, folder: Path, out: Path) -> Path:
    """Writes a sound below a folder, if it is not there yet.

    Args:
        content: The sound file's bytes; they have a known beginning.
        folder: Where it goes.
        out: What it must not leave, whatever links there are.

    Returns:
        Its path, which is that of no other bytes.

    Raises:
        InputError: A link leads out of `out`.
    """
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    path = folder / digest[:2] / f"{digest}{ending_of(content)}"
    if not path.parent.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{path.parent}: a link leads out of {out}; remove it, or give another --out")
    if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    return path
