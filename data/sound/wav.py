"""What a wav's header says against what is there: lengths that a writer into a pipe could not know, files joined.

libsndfile takes a length of 0 for no sound, a wav that breaks off for a shorter one, and of joined ones none.
"""

import re
from collections.abc import Iterator

import numpy as np

from data.sound.joined import require_no_other, require_no_other_at
from data.sound.source import Part, Probe, truncated

_FORMS = (b"RIFF", b"RIFX", b"RF64")
_BEGINS = re.compile(rb"(?:RIF[FX]|RF64).{4}WAVE(?:fmt |ds64|JUNK|bext|LIST|fact)", re.DOTALL)
_TAIL = 1 << 20


def wav_parts(sound: Probe, first: int | None) -> list[Part]:
    """The wavs in a file, one after the other; none where it is not laid out as one, for libsndfile to say why.

    Args:
        sound: The file.
        first: Where it begins, behind tags.

    Raises:
        InputError: One ends before its sound does, or a sound of another format is joined to it.
    """
    parts = []
    while first is not None and (part := _part(sound, first)):
        parts.append(part)
        first = _joined(sound, part.end)
    return parts


def _part(sound: Probe, first: int) -> Part | None:
    read, size = sound.read, sound.size
    form = read(first, 4)
    if form not in _FORMS or read(first + 8, 4) != b"WAVE":
        return None
    order = "big" if form == b"RIFX" else "little"
    frame, size_at, width, stated_64 = 1, 0, 4, None
    for name, at, stated in _chunks(sound, first + 12, order):  # noqa: B007 (the last one's are used)
        if name == b"fmt ":
            frame = max(int.from_bytes(read(at + 12, 2), order), 1)
        elif name == b"ds64":  # the true sizes, where 32 bits do not hold them
            size_at, width, stated_64 = at + 8, 8, int.from_bytes(read(at + 8, 8), "little")
        elif name == b"data":
            break
    else:
        return None
    if stated_64 is None:
        size_at = at - 4
    else:
        stated = stated_64
    if _is_unknown(stated, width) and not (stated == 0 and _are_chunks(sound, at, order)):
        require_no_other(sound, at, "wav")
        end = _sound_end(sound, at, order)
        right = (end - at) // frame * frame
        if right >= 1 << 8 * width:  # libsndfile takes what is there
            return Part(first, end)
        head = read(first, size_at - first) + right.to_bytes(width, order)
        return Part(first, end, head + read(size_at + width, at - size_at - width))
    # A byte that fills up to an even count may be counted and not be there, and so may a part of a frame.
    if stated - (size - at) > frame:
        raise truncated(sound)
    return Part(first, min(at + stated, size))


def _chunks(sound: Probe, at: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and stated size of each chunk."""
    while at + 8 <= sound.size:
        head = sound.read(at, 8)
        stated = int.from_bytes(head[4:], order)
        yield head[:4], at + 8, stated
        at += 8 + stated + stated % 2


def _is_unknown(stated: int, width: int) -> bool:
    """Whether a size is what writers put there that do not know it: 0, or about the most that its bits hold."""
    if width == 8:
        return stated == 0 or stated >= 1 << 62
    return stated == 0 or 0x7FFF0000 <= stated <= 0x80010000 or stated >= 0xFFFF0000


def _sound_end(sound: Probe, at: int, order: str) -> int:
    """Where the samples of a wav that does not know their number end: at another one, or at chunks, or at the file's.

    Chunks are known by their sizes, which lead to the file's end. By chance a megabyte of random bytes has such a place
    in one file of 200,000 (four printable characters, one in 53, before 32 bits that fit).
    """
    begins = (place - 8 for place in sound.places(b"WAVE", first=at))
    end = next((begin for begin in begins if _BEGINS.match(sound.read(begin, 16))), sound.size)
    first = max(at, end - _TAIL)
    tail = sound.read(first, end - first)
    values = np.frombuffer(tail, np.uint8)
    printable = (values >= 0x20) & (values < 0x7F)
    count = max(len(tail) - 7, 0)
    named = np.logical_and.reduce([printable[byte : byte + count] for byte in range(4)])
    most = 7 if order == "little" else 4
    small = values[most : most + count] == 0  # of a size no larger than the tail is
    begins = {len(tail)}
    for place in np.flatnonzero(named & small)[::-1].tolist():
        behind = place + 8 + int.from_bytes(tail[place + 4 : place + 8], order)
        if behind in begins or (behind % 2 != place % 2 and behind + 1 in begins):
            begins.add(place)
    return first + min(begins)


def _are_chunks(sound: Probe, at: int, order: str) -> bool:
    """Whether there is nothing up to the file's end, or chunks; samples do not look so."""
    for name, first, stated in _chunks(sound, at, order):
        if not _is_name(name) or first + stated > sound.size:
            return False
        at = first + stated + stated % 2
    return at >= sound.size


def _is_name(name: bytes) -> bool:
    return name.isascii() and name.decode().isprintable()


def _joined(sound: Probe, at: int) -> int | None:
    """Where another wav begins behind the end of one, past what was written behind its sound."""
    if at % 2 and sound.read(at, 4) not in _FORMS:
        at += 1
    require_no_other_at(sound, at, "wav")
    for name, first, stated in _chunks(sound, at, "little"):
        if name in _FORMS and sound.read(first, 4) == b"WAVE":
            return first - 8
        if not _is_name(name) or first + stated > sound.size:
            return None
    return None
