"""What is asked of transformers beyond its interface; another release may not have it, and loses nothing but time."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import masking_utils


@contextmanager
def one_text_a_row() -> Iterator[None]:
    """Takes it for granted that no row of a batch holds several texts, one behind the other.

    Without a padding mask transformers looks at the positions for such rows, and the host would wait for the device.
    """
    looks = getattr(masking_utils, "find_packed_sequence_indices", None)
    if looks is None:
        yield
        return
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks
