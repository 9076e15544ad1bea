"""The streams of an ogg, which may be several joined: libsndfile hears the first alone."""

from collections.abc import Iterator

from data.sound.joined import require_no_other_at
from data.sound.source import Part, Probe, truncated, unreadable

_HEAD = 27
_REACH = 1 << 17
"""A page is shorter than half of this."""
_FIRST, _LAST = 2, 4


def ogg_parts(sound: Probe, first: int) -> list[Part]:
    """The streams in a file, one after the other; none where several are interleaved.

    Page by page, as joined files may have equal numbers, and all that a tail says may fit each of them.

    Args:
        sound: The file.
        first: Where it begins, behind tags.

    Raises:
        InputError: A page is damaged, the last one of a stream is not its end, or another format is joined to it.
    """
    begins: list[int] = []
    before = _LAST
    interleaved = False
    for at, flags in _pages(sound, first):
        if flags & _FIRST:
            interleaved = interleaved or bool(before & _FIRST and not before & _LAST)
            if not before & (_FIRST | _LAST):
                raise truncated(sound)
            begins.append(at)
        before = flags
    if not begins or not before & _LAST:
        raise truncated(sound)
    return [] if interleaved else [Part(*place) for place in zip(begins, [*begins[1:], sound.size], strict=True)]


def _pages(sound: Probe, at: int) -> Iterator[tuple[int, int]]:
    """Where each page begins, and its flags."""
    while at + _HEAD <= sound.size:
        head = sound.read(at, _HEAD + 255)
        if head[:4] != b"OggS":
            require_no_other_at(sound, at, "ogg")
            if b"OggS" in sound.read(at, _REACH):
                raise unreadable(sound, "an ogg whose pages do not follow one another")
            return
        end = at + _HEAD + head[26] + sum(head[_HEAD : _HEAD + head[26]])
        if end > sound.size:
            raise truncated(sound)
        yield at, head[5]
        at = end
