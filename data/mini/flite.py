"""The voices of flite, a small program that synthesises speech: of four people, three by models, one by diphones."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from data.errors import InputError
from data.fetch import debian_package

VOICES = ("rms", "slt", "awb", "kal16")


def say(text: str, voice: str, rate: float) -> tuple[np.ndarray, int]:
    """Samples and their rate; a text said at `rate` times the voice's own speed."""
    program, environment = fetched()
    with tempfile.TemporaryDirectory() as folder:
        words, sound = Path(folder, "text"), Path(folder, "sound.wav")
        words.write_text(text, encoding="utf-8")
        # The pitch of the voices by models is their own; the stretch of time works for all.
        command = [program, "-voice", voice, "--setf", f"duration_stretch={1 / rate:.3f}", "-f", words, "-o", sound]
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"flite failed ({done.stderr.strip()}); remove its folder from the cache and run again")
        return soundfile.read(sound, dtype="float32")


@cache
def fetched() -> tuple[Path, dict[str, str]]:
    """The program, and the environment that it finds its libraries by."""
    program = debian_package("flite") / "usr/bin/flite"
    folders = [debian_package("libflite1"), debian_package("libasound2", ("libasound2t64",))]
    libraries = sorted({str(library.parent) for folder in folders for library in folder.rglob("*.so*")})
    return program, {"LD_LIBRARY_PATH": ":".join(libraries)}
