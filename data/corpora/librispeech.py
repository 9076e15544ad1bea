"""LibriSpeech (Panayotov et al. 2015): read English, a folder a split, a `.trans.txt` a chapter."""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import SOUNDS, Entry, found, lines_of
from data.errors import InputError
from data.text import normalise

NAME = "librispeech"
LAYOUT = "SPLIT/SPEAKER/CHAPTER/*.trans.txt beside its sounds, as the corpus is unpacked"
_GENDERS = {"F": "female", "M": "male"}
_SPLITS = ("train", "dev", "test")


def entries(root: Path, lists: Path) -> Iterator[Entry]:
    """Every utterance as `asr`, and, where SPEAKERS.TXT is there, as `gender_recognition`."""
    genders = {speaker: gender for path in found(lists, "SPEAKERS.TXT") for speaker, gender in _speakers(path)}
    for chapter in found(lists, "*.trans.txt"):
        split = next((part for part in reversed(chapter.parent.parts) if part.startswith(_SPLITS)), "train")
        for number, line in enumerate(lines_of(chapter), 1):
            name, _, words = line.strip().partition(" ")
            if not name:
                continue
            if name.count("-") != 2:
                raise InputError(f"{chapter}, line {number}: must be SPEAKER-CHAPTER-NUMBER and words; mend it")
            sounds = (chapter.parent / f"{name}{ending}" for ending in SOUNDS)
            sound = next((path for path in sounds if path.is_file()), None)
            yield Entry(split, name, sound, normalise(words), "asr")
            if gender := genders.get(name.split("-")[0]):
                yield Entry(split, f"{name}#gender", sound, gender, "gender_recognition")


def _speakers(path: Path) -> Iterator[tuple[str, str]]:
    """Speaker and gender; comments begin with a semicolon."""
    for line in lines_of(path):
        parts = [part.strip() for part in line.split("|")]
        if not line.startswith(";") and len(parts) > 1 and parts[1] in _GENDERS:
            yield parts[0], _GENDERS[parts[1]]
