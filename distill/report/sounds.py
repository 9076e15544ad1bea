"""Short recordings as players in a page: one channel, compressed, cut at some seconds."""

import io
from pathlib import Path

import soundfile

from data.errors import InputError
from data.sound.audio import SAMPLE_RATE, load_audio

LONGEST_S = 8


def player_sound(example: dict) -> bytes | None:
    """The beginning of an example's clip as MP3 (about 4 kB a second); None where its sound is not here."""
    try:
        start_s, end_s = example.get("start_s", 0.0), example.get("end_s", 0.0)
        wave = load_audio(Path(example["sound"]), start_s=start_s, end_s=end_s)[: LONGEST_S * SAMPLE_RATE]
    except (InputError, OSError, KeyError):
        return None
    out = io.BytesIO()
    soundfile.write(out, wave, SAMPLE_RATE, format="MP3")
    return out.getvalue()
