"""Real speech of two more people, for tests only: what PocketSphinx is tested with, and its transcripts."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from data.fetch import check_contents, debian_package
from data.mini.clips import ASR, Clip, Splits
from data.sound.audio import resample
from data.text import normalise

NAME = "sphinx"
CONTENTS = "797116225c7e631438c7ab242988269e8c4f10212dcea2f49b03d79d2c4a6ec8"
_TRANSCRIPTS = {"librivox": "librivox/transcription", "cards": "cards/cards.transcription"}
_LINE = re.compile(r"<s>(.*)</s>\s*\((.+)\)")


@dataclass(frozen=True)
class Recording:
    """One recording."""

    file: str
    text: str
    corpus: str
    task: str = ASR
    references: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{NAME}-{self.corpus}-{Path(self.file).stem}"

    def render(self) -> np.ndarray:
        """The recording as it is, at 16 kHz."""
        samples, rate = soundfile.read(_folder() / self.file, dtype="float32", always_2d=True)
        return resample(samples[:, 0], rate)


def splits() -> Splits:
    """A reader of LibriVox, and one who names playing cards."""
    folder = _folder()
    used = [*folder.glob("librivox/*.wav"), *folder.glob("cards/*.wav"), *map(folder.joinpath, _TRANSCRIPTS.values())]
    check_contents("pocketsphinx-testdata", folder, used, CONTENTS)
    found: list[Clip] = []
    for corpus, file in _TRANSCRIPTS.items():
        for said, name in _LINE.findall((folder / file).read_text(encoding="utf-8")):
            found.append(Recording(f"{corpus}/{name}.wav", normalise(said), corpus))
    return Splits({"asr_speakers": found})


@cache
def _folder() -> Path:
    return debian_package("pocketsphinx-testdata") / "usr/share/pocketsphinx/test/data"
