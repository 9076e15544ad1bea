"""Real sounds with labels, and spoken words: from the stamps of a children's drawing program."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from data.fetch import check_contents, debian_package
from data.mini.clips import ASR, Splits, trimmed
from data.sound.audio import resample
from data.text import normalise

NAME = "tuxpaint"
CONTENTS = "bad0750e499c1d6065ff19a1a2cae54079dfe33b0135e585b9ed008d3d325a5e"
_LETTERS = "symbols/alphabets/english/filled/lowercase/{}_filled_en_GB.ogg"
_DIGITS = {"symbols/math/{}.ogg": "", "symbols/math/{}_en_GB.ogg": ""}
# Pictures whose sound is speech or something else than what the label names.
_NOT_SOUNDS = re.compile(
    r"symbols/|seasonal/hanukkah|roadsigns/|gift|hard_candy|santahat|spider|apple_red|xanthia|checkeredflag"
    r"|final-roll-call|apollo_lander|bathyscape"
    # The same recording as another picture's.
    r"|beaver|mountaingoat|bovines/ram|dromedary|scissors_small_closed"
)
_LABELS = {
    "mosquito": "a mosquito",
    "toilet": "a toilet",
    "scissors_small_open": "a pair of scissors",
    "sheep_lamb": "a lamb",
    "pig_golden": "a pig",
    "pig_golden2": "a pig",
    "hippopotamus": "a hippopotamus",
    "blackcat": "a cat",
    "fireworks": "fireworks",
    "hen": "a hen",
    "rooster": "a rooster",
    "heron_greatblue_flying": "a heron",
    "mallet_metal": "a metal mallet",
}


@dataclass(frozen=True)
class Word:
    """A word or two, spoken by people."""

    file: str
    text: str
    task: str = ASR
    corpus: str = "tuxpaint_words"
    references: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{self.corpus}-{Path(self.file).stem}"

    def render(self) -> np.ndarray:
        """The recording, trimmed."""
        samples, rate = soundfile.read(_stamps() / self.file, dtype="float32", always_2d=True)
        return trimmed(resample(samples[:, 0], rate))


def splits() -> Splits:
    """Spoken words: for training only, as the test set of speech is the prompts'."""
    folder = _stamps()
    # Sounds and English words; names of translated words end in a language.
    used = (path for path in folder.rglob("*.ogg") if not re.search(r"_desc_|math/._(?!en_GB)", path.as_posix()))
    check_contents("tuxpaint-stamps-default", folder, used, CONTENTS)
    texts = {}
    for sound in sorted(folder.rglob("*_desc.ogg")):
        written = sound.with_name(sound.name.replace("_desc.ogg", ".txt"))
        text = normalise(_first_line(written))
        if text:
            texts[sound.relative_to(folder).as_posix()] = text
    for letter in "abcdefghijklmnopqrstuvwxyz":
        texts[_LETTERS.format(letter)] = letter
    for digit in range(10):
        for pattern in _DIGITS:
            texts[pattern.format(digit)] = normalise(str(digit))
    return Splits(train=[Word(file, text) for file, text in texts.items() if (folder / file).is_file()])


@cache
def labelled() -> dict[str, str]:
    """The label of each recording of a sound, by its file."""
    folder = _stamps()
    found = {}
    for sound in sorted(folder.rglob("*.ogg")):
        file = sound.relative_to(folder).as_posix()
        if not (sound.stem.count("_desc") or _NOT_SOUNDS.search(file)):
            label = _LABELS.get(sound.stem) or normalise(_first_line(sound.with_suffix(".txt")))
            if label:
                found[file] = label
    return found


@cache
def recording(file: str) -> np.ndarray:
    """A sound: float32, 16 kHz, trimmed."""
    samples, rate = soundfile.read(_stamps() / file, dtype="float32", always_2d=True)
    samples = resample(samples[:, 0], rate)
    return trimmed(samples - samples.mean())


def _first_line(path: Path) -> str:
    """The English label; what stands in parentheses explains it and is dropped."""
    if not path.is_file():
        return ""
    return re.sub(r"\([^)]*\)", "", path.read_text(encoding="utf-8").partition("\n")[0])


@cache
def _stamps() -> Path:
    return debian_package("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
