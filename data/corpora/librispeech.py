"""LibriSpeech (Panayotov et al. 2015): read English, a folder a split, a `.trans.txt` a chapter."""

import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.entry import Entry
from data.corpora.files import Files
from data.corpora.lists import lines_of
from data.errors import InputError

NAME = "librispeech"
LAYOUT = "SPLIT/SPEAKER/CHAPTER/*.trans.txt beside its sounds, as the corpus is unpacked"
NORMALISE = "english"
_GENDERS = {"F": "female", "M": "male"}
_SPLIT = re.compile(r"(train|dev|test)(-[A-Za-z0-9-]+)?")
_OFFICIAL = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
_UTTERANCE = re.compile(r"\w+-\w+-\w+")


def entries(sounds: Files, lists: Files) -> Iterator[Entry]:
    """Every utterance as `asr`, and, where SPEAKERS.TXT is there, as `gender_recognition`."""
    genders = {speaker: gender for path in lists.named("SPEAKERS.TXT") for speaker, gender in _speakers(path)}
    for chapter in lists.named("*.trans.txt"):
        split = _split(chapter, lists.folder)
        for number, line in enumerate(lines_of(chapter), 1):
            name, words = [*line.split(maxsplit=1), "", ""][:2]
            where = f"{chapter}, line {number}"
            if not name:
                continue
            if not _UTTERANCE.fullmatch(name):
                raise InputError(f"{where}: must be SPEAKER-CHAPTER-NUMBER and words; mend it")
            sound = sounds.sound(name, beside=chapter.parent)
            yield Entry(split, name, sound, words, "asr", where=where)
            if gender := genders.get(name.split("-")[0]):
                yield Entry(split, f"{name}#gender", sound, gender, "gender_recognition", where=where)


def _split(chapter: Path, root: Path) -> str:
    """The folder nearest to the chapter that is called as a split is; above the root only an official name counts."""
    for part in reversed((root.resolve().name, *chapter.relative_to(root).parts[:-1])):
        if _SPLIT.fullmatch(part):
            return part
    for part in reversed(root.resolve().parts):
        if _OFFICIAL.fullmatch(part):
            return part
    raise InputError(f"{chapter}: in no folder of a split, such as dev-clean; give a --root that has them")


def _speakers(path: Path) -> Iterator[tuple[str, str]]:
    """Speaker and gender; comments begin with a semicolon."""
    for line in lines_of(path):
        parts = [part.strip() for part in line.split("|")]
        if not line.startswith(";") and len(parts) > 1 and parts[1] in _GENDERS:
            yield parts[0], _GENDERS[parts[1]]
