"""Samples written down again, as they are."""

import io

import numpy as np
import soundfile

_FLAC_CHANNELS, _FLAC_RATE, _FLAC_ANY_RATE = 8, 655_350, 65_535


def as_flac(samples: np.ndarray, rate: int) -> tuple[bytes, str]:
    """Samples as a file, and the ending of its name.

    What 16 or 24 bits hold is a flac of them, to the last bit; other samples (of a lossy format, or floats) are rounded
    to 24 bits, and those beyond full scale are a wav of floats; so is what a flac cannot be: of many channels, or of
    another rate than it has (none over 655,350 Hz, and over 65,535 Hz tens alone).

    Args:
        samples: float32 [frames, channels].
        rate: Samples a second.
    """
    file, bits = io.BytesIO(), next((bits for bits in (16, 24) if _fits(samples, bits)), None)
    if bits is None and (np.abs(samples) < 1 - 2**-23).all():
        bits = 24
    has_rate = rate <= _FLAC_ANY_RATE or (rate <= _FLAC_RATE and rate % 10 == 0)
    if bits is None or samples.shape[1] > _FLAC_CHANNELS or not has_rate:
        soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
        return file.getvalue(), "wav"
    whole = np.rint(samples.astype(np.float64) * 2 ** (bits - 1)).astype(np.int16 if bits == 16 else np.int32)
    soundfile.write(file, whole << (whole.itemsize * 8 - bits), rate, format="FLAC", subtype=f"PCM_{bits}")
    return file.getvalue(), "flac"


def _fits(samples: np.ndarray, bits: int) -> bool:
    """Whether the samples are whole numbers of so many bits."""
    scaled = samples.astype(np.float64) * 2 ** (bits - 1)
    return bool(((scaled == np.rint(scaled)) & (scaled >= -(2 ** (bits - 1))) & (scaled < 2 ** (bits - 1))).all())
