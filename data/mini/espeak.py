"""espeak-ng: many voices by formants, and the sounds of a language that other voices speak by."""

import _ctypes
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.fetch import pypi_package

VOICES = (
    *("en-us", "en-us+m1", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f4", "en-us+Annie", "en-us+Michael"),
    *("en-us+Andrea", "en-us+grandma", "en-us+klatt2", "gmw/en", "gmw/en+f5", "gmw/en-GB-scotland+m4", "gmw/en-029"),
)
# For x86-64. The Debian package would do too, but needs a sound server's libraries.
_ESPEAK = ("espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d")
_SYNCHRONOUS, _RATE, _PITCH, _UTF8, _IPA = 2, 1, 3, 1, 2  # of its C header


def fetched() -> Path:
    """The folder of its library and data."""
    return pypi_package(*_ESPEAK) / "espeakng_loader"


def say(text: str, voice: str, rate: float, pitch: int) -> tuple[np.ndarray, int]:
    """Samples and their rate; a text said at `rate` times the usual speed, `pitch` (of 100) above the usual one."""
    blocks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, _events):
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    with _library(voice) as (library, sample_rate):
        library.espeak_SetSynthCallback(keep)
        library.espeak_SetParameter(_RATE, round(165 * rate), 0)
        library.espeak_SetParameter(_PITCH, 50 + pitch, 0)
        said = text.encode()
        library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, _UTF8, None, None)
    return np.concatenate(blocks).astype(np.float32) / 32768, sample_rate


def phonemes(clauses: list[str], voice: str) -> list[str]:
    """What is spoken in each clause, in the International Phonetic Alphabet."""
    with _library(voice) as (library, _):
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        found = []
        for clause in clauses:
            rest = ctypes.c_char_p(clause.encode())
            said = []
            while rest.value:
                said.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA).decode())
            found.append(" ".join(said))
    return found


@contextmanager
def _library(voice: str) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library, loaded anew: its sound depends on what it said before, and a clip's must not."""
    folder = fetched()
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    try:
        sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), 0)
        if sample_rate <= 0 or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"{folder}: espeak-ng has no voice {voice}; remove the folder and run again")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # otherwise the time
        yield library, sample_rate
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
