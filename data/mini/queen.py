"""Real speech of many actors: the conversations of the game Flight of the Amazon Queen (1995), with their subtitles.

`queen.1c` begins with a table of its files. `*.DOG` are conversations: numbered strings of Joe, whom one plays, and of
whom he talks to; a star and two letters in a string let the speaker turn, and end a segment. Each segment was recorded
by itself and is an mp3, named by the conversation, the string, the speaker and the segment: `0200A4J1.SB`.
"""

import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from data.fetch import check_contents, debian_package
from data.mini.changes import changed
from data.mini.clips import ASR, PLAIN, Splits, at_level, trimmed
from data.sound.audio import resample
from data.text import normalise

NAME = "queen"
CONTENTS = "6e882fd59958e4ea8b800121802adaa5cb61362ab906f1484576033c62c73a71"
_TRAIN, _VALID = 1000, 60
_WORDS = range(1, 30)
_ENTRY, _HEADER, _LEVEL = 21, 20, 96  # bytes: of the table, before a conversation, of one node of its tree
_TURN = re.compile(r"\*(?:XY\d\d\(\d+,\d+\)|..)")


@dataclass(frozen=True)
class Line:
    """One recorded segment."""

    file: str
    text: str
    corpus: str
    task: str = ASR
    references: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{NAME}-{self.file.removesuffix('.SB').lower()}"

    def render(self) -> np.ndarray:
        """The recording, trimmed, at one loudness."""
        samples, rate = soundfile.read(io.BytesIO(_file(self.file)), dtype="float32", always_2d=True)
        return at_level(trimmed(resample(samples[:, 0], rate)), 0.08)


def splits() -> Splits:
    """Other people's lines for validation; the rest as they are, and changed for the long recipe."""
    check_contents("flight-of-the-amazon-queen", _data().parent, [_data()], CONTENTS)
    rng = random.Random("queen")
    lines = sorted(_lines(), key=lambda line: line.id)
    rng.shuffle(lines)
    others = [line for line in lines if line.corpus == NAME]
    valid = others[:_VALID]
    train = [line for line in lines if line not in valid]
    # In the short recipe half of them are changed.
    small = [line if i % 2 else changed(line, rng) for i, line in enumerate(train[:_TRAIN])]
    more = [*train[_TRAIN:], *(changed(line, rng, "again") for line in train)]
    return Splits(valid=list(valid), train=small, extra=more)


def _lines() -> Iterator[Line]:
    seen = set()
    for conversation in sorted(name for name in _index() if name.endswith(".DOG")):
        for speaker, written, file in _strings(_file(conversation)[_HEADER:]):
            for segment, part in enumerate(_TURN.split(written), 1):
                name = f"{file}{segment:X}.SB"
                text = normalise(part)
                if name in _index() and name not in seen and PLAIN.fullmatch(part) and len(text.split()) in _WORDS:
                    seen.add(name)
                    yield Line(name, text, f"{NAME}_joe" if speaker == "J" else NAME)


def _strings(data: bytes) -> Iterator[tuple[str, str, str]]:
    """Speaker, string, and what its sounds' names begin with."""

    def word(at: int) -> int:
        return int.from_bytes(data[at : at + 2], "big", signed=True)

    # Joe's strings come after the tree of the conversation; the other's are where the header says.
    for speaker, at, count in (("J", 32 + abs(word(0)) * _LEVEL, word(6)), ("P", word(22) & 0xFFFF, word(8))):
        for _ in range(count):
            number, length = word(at + 2) & 0xFFFF, data[at + 4]
            yield speaker, data[at + 5 : at + 5 + length].decode("latin-1"), f"{word(4):02d}{number:04X}{speaker}"
            at += 5
            if length:
                at = (at + length + 3) & ~3


def _file(name: str) -> bytes:
    offset, size = _index()[name]
    with _data().open("rb") as file:
        file.seek(offset)
        return file.read(size)


@cache
def _index() -> dict[str, tuple[int, int]]:
    """Offset and size of every file, by its name."""
    with _data().open("rb") as file:
        count = int.from_bytes(file.read(15)[13:], "big")
        table = file.read(count * _ENTRY)
    found = {}
    for at in range(0, len(table), _ENTRY):
        name = table[at : at + 12].rstrip(b"\0 ").decode("ascii")
        found[name] = tuple(int.from_bytes(table[at + i : at + i + 4], "big") for i in (13, 17))
    return found


@cache
def _data() -> Path:
    return debian_package("flight-of-the-amazon-queen") / "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
