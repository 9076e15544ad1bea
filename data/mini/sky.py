"""Real speech of many actors, for tests only: the lines of the game Beneath a Steel Sky (1994) with their subtitles.

Two files hold the game: `sky.dnr` lists where in `sky.dsk` each numbered file begins. Seven of them hold the subtitles,
Huffman-coded, and one for each spoken line its sound, 8 bits at 11,025 Hz, compressed. Nothing of it is in training, as
who speaks a line is not told.
"""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from data.fetch import check_contents, debian_package
from data.mini.clips import ASR, PLAIN, Clip, Splits, at_level, trimmed
from data.mini.rnc import unpacked
from data.sound.audio import resample
from data.text import normalise

NAME = "sky"
CONTENTS = "a30bde3cd285f11f260b68592b688eb1d0a8b8e76ba9c4dd3c4c14742984ecee"
_CLIPS = 400
_WORDS = range(3, 30)  # by fewer, "hmm" and the like
_RATE, _HEADER, _LONGEST = 11025, 22, 600  # Hz, bytes before a sound, bytes of a subtitle
_TEXTS, _SOUNDS = 60600, 50000  # numbers of the first files
# Lines of each section, and from where on its sounds are numbered.
_SECTIONS = ((553, 0), (488, 600), (1303, 1100), (922, 2430), (1140, 3380), (531, 4530), (150, 5080))
# The Huffman code of version 0.0372: symbols from the left of its tree to the right, and how long their codes are.
_LENGTHS = (
    "3445555554665556666665776667777776887778877799888998889999aa9aa9bbaaabbabbaccbccbccbbbccccddcccddddd"
    "dddeedeeeeffeeeffefffgg"
)
_SYMBOLS = (
    " eaostn.ir\x00EumAlIdRNSTOhcDgLCpU!yMPvH?b'f,GBVkFqwK-WJ*zYj+Q\x85"
    ')Z\x8b<\x95~\x8a\x87:\x7f]#xX\x91\x88`20\x831/(=\x86^39\x984}8\\"\x90&\x8d56\x92'
    "\x8f\x8e\x93\x8c7\x80\x81\x99$@[\x9a_>\x96\x82%\t\x9c\x97{\x94!"
)


@dataclass(frozen=True)
class Line:
    """One spoken line."""

    section: int
    number: int
    text: str
    task: str = ASR
    corpus: str = NAME
    references: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{self.corpus}-{self.section}-{self.number:04d}"

    def render(self) -> np.ndarray:
        """The recording, trimmed, at one loudness."""
        samples = np.frombuffer(_sound(self.section, self.number), np.uint8).astype(np.float32) / 128 - 1
        return at_level(trimmed(resample(samples - samples.mean(), _RATE)), 0.08)


def splits() -> Splits:
    """A seeded choice of the lines of three words and more, each text once."""
    files = [_folder() / name for name in ("sky.dnr", "sky.dsk")]
    check_contents("beneath-a-steel-sky", _folder(), files, CONTENTS)
    lines: dict[str, Clip] = {}
    for section, (count, first) in enumerate(_SECTIONS):
        for number in range(count):
            if _SOUNDS + first + number in _index() and PLAIN.fullmatch(written := _subtitle(section, number)):
                text = normalise(written)
                if len(text.split()) in _WORDS:
                    lines.setdefault(text, Line(section, number, text))
    return Splits(
        {"asr_speakers": random.Random("sky").sample(sorted(lines.values(), key=lambda line: line.id), _CLIPS)}
    )


def _subtitle(section: int, number: int) -> str:
    """Decodes one subtitle: its place is the sum of the lengths of those before it, in steps of two bits."""
    data = _file(_TEXTS + section)

    def word(at: int) -> int:
        return int.from_bytes(data[at : at + 2], "little")

    block, rest = divmod(number, 32)
    steps = sum(word(4 + 2 * i) for i in range(block))
    lengths = word(0) + 32 * block
    steps += sum((length & 127) << 3 if length & 128 else length for length in data[lengths : lengths + rest])
    coded = "".join(f"{byte:08b}" for byte in data[word(2) + steps // 4 :][:_LONGEST])
    said, code = "", ""
    for bit in coded[steps % 4 * 2 :]:
        code += bit
        symbol = _codes().get(code)
        if symbol == "\0":
            break
        if symbol is not None:
            said, code = said + symbol, ""
    return said


@cache
def _codes() -> dict[str, str]:
    """Symbols by code: each code is the next one of its length, from all zeros on."""
    codes, value, length = {}, 0, 0
    for symbol, digit in zip(_SYMBOLS, _LENGTHS, strict=True):
        value = (value << int(digit, 36)) >> length
        length = int(digit, 36)
        codes[f"{value:0{length}b}"] = symbol
        value += 1
    return codes


def _sound(section: int, number: int) -> bytes:
    data = _file(_SOUNDS + _SECTIONS[section][1] + number)
    packed = data[_HEADER:]
    return unpacked(packed) if packed.startswith(b"RNC\x01") else packed


def _file(number: int) -> bytes:
    offset, size = _index()[number]
    with (_folder() / "sky.dsk").open("rb") as disk:
        disk.seek(offset)
        return disk.read(size)


@cache
def _index() -> dict[int, tuple[int, int]]:
    """Offset and size of every file, by its number."""
    table = (_folder() / "sky.dnr").read_bytes()[4:]
    found = {}
    for at in range(0, len(table) - 7, 8):
        number, offset, size = (int.from_bytes(table[at + i : at + j], "little") for i, j in ((0, 2), (2, 5), (5, 8)))
        # The highest bit says that the offset counts 16 bytes; the two highest of the size are flags.
        found.setdefault(number, ((offset & 0x7FFFFF) << (4 if offset >> 23 else 0), size & 0x3FFFFF))
    return found


@cache
def _folder() -> Path:
    return debian_package("beneath-a-steel-sky") / "usr/share/scummvm/beneath-a-steel-sky"
