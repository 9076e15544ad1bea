"""Samples that are written down again are heard as they were."""

import numpy as np
import pytest

from data.sound.decode import SoundBytes, blocks
from data.sound.encode import as_flac


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize(
    ("rate", "channels", "kind"),
    [
        (1_000, 1, "flac"),
        (384_000, 8, "flac"),
        (16_000, 9, "wav"),
        (96_001, 1, "wav"),  # flac has no such rate
        (768_000, 2, "wav"),
    ],
)
def test_what_sounds_may_be_is_written_to_the_last_bit(rate, channels, bits, kind):
    whole = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (500, channels))
    samples = (whole / 2 ** (bits - 1)).astype(np.float32)
    content, ending = as_flac(samples, rate)
    ((found, own_rate),) = blocks(SoundBytes(content, "written"))
    assert ending == kind and own_rate == rate
    np.testing.assert_array_equal(found, samples)
