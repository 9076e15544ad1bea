"""Whether the length that an mp3 states can be believed; where it cannot, the sound is counted.

What is looked at is a few blocks of the file: headers are read by the thousand.
"""

import re
import struct
from functools import cache

from data.sound.joined import require_no_other_at
from data.sound.source import Probe, joined_unlike, truncated

_TAIL = 65_536
_MP3_RATES = (44_100, 48_000, 32_000, 0)
_HALVED = {3: 0, 2: 1, 0: 2}
"""How often the rate is halved in MPEG 1, 2 and 2.5."""
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_TAG_AT = {(True, False): 36, (True, True): 21, (False, False): 21, (False, True): 13}
_CHECKED = 154
"""Bytes from the tag's name to the checksum that its encoder put behind it."""


def is_mp3(sound: Probe) -> bool:
    """Whether a frame of an mp3 is what it begins with, or what comes behind its ID3 tags."""
    return _is_frame(sound.read(mp3_begin(sound), 4096).lstrip(b"\0"))


def mp3_counted(sound: Probe) -> tuple[int, int, int] | None:
    """Samples of a channel, rate and channels of an mp3, as the tag in its first frame counts them.

    Returns:
        None where there is no such tag, or one that is not that of this file: by its own checksum, or as more frames
        come behind those that it counts (several files joined keep the first one's tag).

    Raises:
        InputError: The file is shorter than its tag says, or another format is joined to it.
    """
    first = mp3_begin(sound)
    head = sound.read(first, 256)
    if len(head) < 256 or not head[0] or not is_mp3(sound):
        return None
    version, mono = head[1] >> 3 & 3, head[3] >> 6 == 3
    at = _TAG_AT[version == 3, mono]
    if head[at : at + 4] not in (b"Xing", b"Info") or head[at + 7] & 3 != 3:  # with frames and bytes
        return None
    end = at + _CHECKED
    checked = _crc(head[:end]) == int.from_bytes(head[end : end + 2], "big")
    frames, size = struct.unpack(">2I", head[at + 8 : at + 16])
    # FFmpeg's checksum of a mono file is another one: its bytes are believed where both places have the same.
    if sound.size < first + size and (checked or head[end - 6 : end - 2] == head[at + 12 : at + 16]):
        raise truncated(sound)
    if not checked:
        return None
    require_no_other_at(sound, first + size, "mp3")
    behind = sound.read(first + size, 3)
    if not frames or behind == b"ID3" or (behind[:1] == b"\xff" and behind[1:2] >= b"\xe0"):
        return None
    added = int.from_bytes(head[at + 141 : at + 144], "big")  # 12 bits each: samples before the sound, and behind it
    # The decoder is 529 samples late itself.
    samples = (1152 if version == 3 else 576) * frames - (added >> 12) - 529 - max((added & 0xFFF) - 529, 0)
    rate = _MP3_RATES[head[2] >> 2 & 3] >> _HALVED[version]
    return max(samples, 0), rate, 1 if mono else 2


def behind_id3(sound: Probe) -> int:
    """Where the frames begin: an ID3 tag states its length in four bytes of seven bits."""
    at = 0
    while (tag := sound.read(at, 10))[:3] == b"ID3" and len(tag) == 10:
        at += 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]) + (10 if tag[5] & 0x10 else 0)
    return at


def mp3_begin(sound: Probe) -> int:
    """Where an mp3 begins behind its ID3 tags; in one that states more than its length, with three frames in a row."""
    end = behind_id3(sound)
    if not end or _begins(sound.read(end, 4096)):
        return end
    within = sound.read(0, min(end, _TAIL))
    for match in _MP3_FRAME.finditer(within, 10):
        at = match.start()
        for _ in range(3):
            length = _frame_bytes(sound.read(at, 4))
            at += length
            if not length:
                break
        else:
            return match.start()
    return end


def _begins(head: bytes) -> bool:
    return head[:4] in (b"fLaC", b"RIFF", b"OggS") or _is_frame(head.lstrip(b"\0"))


def _is_frame(head: bytes) -> bool:
    """Whether a frame of layer 3 begins so."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 8


def _frame_bytes(head: bytes) -> int:
    """Length of the frame that begins so; 0 where none does."""
    if len(head) < 4 or not _is_frame(head) or head[2] >> 4 == 15 or head[2] >> 2 & 3 == 3:
        return 0
    version = head[1] >> 3 & 3
    rate = _MP3_RATES[head[2] >> 2 & 3] >> _HALVED[version]
    return (144 if version == 3 else 72) * 1000 * _KBITS[version == 3][head[2] >> 4] // rate + (head[2] >> 1 & 1)


def require_one_m4a(sound: Probe) -> None:
    """Refuses several m4a joined, of which FFmpeg hears one alone, and one that another format is joined to.

    Raises:
        InputError: It is not one file.
    """
    at = 0
    while at + 8 <= sound.size:
        head = sound.read(at, 16)
        if at and head[4:8] == b"ftyp":
            raise joined_unlike(sound, "m4a")
        require_no_other_at(sound, at, "m4a")
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:  # up to the file's end, or none
            break
        at += length


def _crc(content: bytes) -> int:
    """The checksum of an mp3's tag."""
    table, value = _crc_table(), 0
    for byte in content:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


@cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0xA001 if value & 1 else 0) for value in table]
    return table
