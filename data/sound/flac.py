"""What a flac's header says against its frames: a length that a writer into a pipe could not know, files joined.

Every frame says which one it is, so a few blocks of the file show whether the length is right.
"""

import re
import struct
from functools import cache

from data.sound.joined import require_no_other
from data.sound.lengths import behind_id3
from data.sound.source import Part, Probe, truncated

_BEGINS = re.compile(rb"fLaC[\x00\x80]\0\0\x22")
_FRAME = re.compile(rb"\xff[\xf8\xf9]")
_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608, **{8 + n: 256 << n for n in range(8)}}
_HEAD, _TOTAL_AT, _REACH = 42, 21, 65_536


def flac_parts(sound: Probe) -> list[Part]:
    """The flacs in a file, one after the other, each with the length that its frames have.

    None where no header is laid out as one, for libsndfile to say why.

    Raises:
        InputError: One ends before the length that it states, or a sound of another format is joined to it.
    """
    first, size = behind_id3(sound), sound.size
    end, last = _last_frame(sound, Part(first, size))
    is_right = end == _stated(sound.read(first, _HEAD)) and _rises(sound, first, size, end)
    require_no_other(sound, last if is_right else first, "flac")
    if is_right:
        return [Part(0, size)]
    begins = [at for at in sound.places(b"fLaC") if _BEGINS.match(sound.read(at, 8))]
    return [_counted(sound, Part(*place)) for place in zip(begins, [*begins, size][1:], strict=True)]


def _stated(head: bytes) -> int:
    """Samples of a channel: 36 bits; 0 where its writer did not know."""
    return int.from_bytes(head[_TOTAL_AT : _TOTAL_AT + 5], "big") & (1 << 36) - 1


def _counted(sound: Probe, part: Part) -> Part:
    head, (end, _) = sound.read(part.first, _HEAD), _last_frame(sound, part)
    if end < _stated(head):
        raise truncated(sound)
    upper = head[_TOTAL_AT] & 0xF0  # bits of another number
    right = (upper << 32 | end).to_bytes(5, "big")
    return Part(part.first, part.end, head[:_TOTAL_AT] + right + head[_TOTAL_AT + 5 :])


def _last_frame(sound: Probe, part: Part) -> tuple[int, int]:
    """The sample behind the last frame, and the byte that this frame begins at."""
    begin = max(part.end - _reach(sound, part.first), part.first)
    frames = _frames(sound.read(begin, part.end - begin), _block(sound, part.first))
    ends = {end for _, end, _ in frames} | {0}
    # What only looks like a frame does not go on where another one ended.
    going_on = [(end, at) for first, end, at in frames if first in ends]
    end, at = max(going_on, default=frames[-1][1:] if frames else (0, 0))
    return end, begin + at


def _rises(sound: Probe, first: int, size: int, end: int) -> bool:
    """Whether the frames' numbers rise through the file, as they do not where another one begins."""
    reach, block, before = _reach(sound, first), _block(sound, first), 0
    if size <= 4 * reach:
        return len(_BEGINS.findall(sound.read(0, size))) == 1
    for quarter in (1, 2, 3):
        found = _frames(sound.read(size * quarter // 4, reach), block)
        if not found or not before < found[0][0] < end:
            return False
        before = found[0][0]
    return True


def _block(sound: Probe, first: int) -> int:
    """Samples of a frame; 0 where each has its own."""
    smallest, largest = struct.unpack(">2H", sound.read(first + 8, 4).ljust(4, b"\0"))
    return largest if smallest == largest else 0


def _reach(sound: Probe, first: int) -> int:
    """Bytes among which one or two frames begin."""
    largest = int.from_bytes(sound.read(first + 15, 3), "big")
    return min(2 * largest + 4096, _REACH) if largest else _REACH


def _frames(window: bytes, block: int) -> list[tuple[int, int, int]]:
    """First sample of each frame that begins in a window, the one behind its last, and where it begins there."""
    starts = (match.start() for match in _FRAME.finditer(window))
    return [(*found, at) for at in starts if (found := _frame(window[at : at + 16].ljust(16, b"\0"), block))]


def _frame(head: bytes, block: int) -> tuple[int, int] | None:
    """What a frame's header says, where it is one by its checksum."""
    if head[3] & 1 or head[2] & 15 == 15:
        return None
    length = next((n for n in range(8) if not head[4] << n & 0x80), 8)  # as in UTF-8: leading ones count the bytes
    if length in (1, 8):
        return None
    end, number = 4 + max(length, 1), head[4] & 0x7F >> length
    for byte in head[5:end]:
        number = number << 6 | byte & 0x3F
    size_code = head[2] >> 4
    samples = _SIZES.get(size_code, 0)
    if size_code in (6, 7):
        samples, end = int.from_bytes(head[end : end + size_code - 5], "big") + 1, end + size_code - 5
    end += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not samples or _crc(head[:end]) != head[end]:
        return None
    first = number if head[1] & 1 else number * block
    return first, first + samples


def _crc(content: bytes) -> int:
    table, value = _crc_table(), 0
    for byte in content:
        value = table[value ^ byte]
    return value


@cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value << 1 & 0xFF ^ (0x07 if value & 0x80 else 0) for value in table]
    return table
