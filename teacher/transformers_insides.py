"""What is asked of transformers beyond its interface; another release may not have it, and loses nothing but time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import masking_utils

_NAME = "find_packed_sequence_indices"
_looks = getattr(masking_utils, _NAME, None)
_here = threading.local()


@contextmanager
def one_text_a_row() -> Iterator[None]:
    """Takes it for granted that no row of a batch holds several texts, one behind the other; in this thread alone.

    Without a padding mask transformers looks at the positions for such rows, and the host would wait for the device.
    """
    before, _here.granted = getattr(_here, "granted", False), True
    try:
        yield
    finally:
        _here.granted = before


def _find(position_ids: Tensor) -> Tensor | None:
    return None if getattr(_here, "granted", False) else _looks(position_ids)


if _looks is not None:
    setattr(masking_utils, _NAME, _find)
