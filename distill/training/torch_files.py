"""Whether a file that PyTorch wrote is as it was written."""

import zipfile
from pathlib import Path

import torch


def as_written(path: Path) -> bool:
    """Whether PyTorch's file, a zip archive, has its checksums: PyTorch does not look, so a flipped bit is a weight.

    Files of its earlier form (`deepspeed.checkpoint`'s checkpoint_serialization false) have none.
    """
    try:
        with path.open("rb") as file:
            archived = file.read(2) == b"PK"
        if archived:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return False
        torch.load(path, map_location="cpu", mmap=archived, weights_only=False)  # what both read otherwise
    except Exception:  # of what is damaged both raise anything
        return False
    return True
