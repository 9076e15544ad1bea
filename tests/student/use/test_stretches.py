"""Where sounds are cut: by made-up probabilities of speech, and by a real detector on what is no speech."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.use.stretches import cut, speech, windows
from student.use.voice import FRAME, VoiceDetector
from tests.conftest import sound

SECOND = 16_000


MOST = 30 * SECOND // FRAME


def in_blocks(wave, size):
    return (wave[i : i + size] for i in range(0, len(wave), size))


def joined(*parts):
    """Seconds of sound (positive) and of silence (negative)."""
    return np.concatenate([sound(s, 1) if s > 0 else np.zeros(round(-s * SECOND), np.float32) for s in parts])


def hour():
    """An hour of few distinct seconds, which is never there at once: 3 s of sound and 1 s of silence."""
    four = joined(3, -1)
    return (four for _ in range(900))


def test_a_short_sound_is_heard_as_it_is_and_timed_by_what_is_said(loud):
    wave = joined(-1, 2, -1.5, 3, -2)
    (only,) = speech(in_blocks(wave, 5000))
    np.testing.assert_array_equal(only.wave, wave)
    assert (only.start_s, only.end_s) == pytest.approx((1, 7.5), abs=0.05)


def test_a_long_one_is_cut_at_its_pauses(loud):
    wave = joined(-2, 9, -0.7, 8, -0.3, 9, -5, 4, -1)
    found = list(speech(in_blocks(wave, 30 * SECOND)))
    times = [(stretch.start_s, stretch.end_s) for stretch in found]
    assert times == pytest.approx(np.array([(2, 11), (11.7, 29), (34, 38)]), abs=0.07)
    for stretch in found:
        heard = wave[round((stretch.start_s - 0.15) * SECOND) : round((stretch.end_s + 0.15) * SECOND)]
        assert stretch.seconds == pytest.approx(len(heard) / SECOND, abs=0.2)


@pytest.mark.parametrize("size", [4000, 10 * SECOND, 10_000 * SECOND])
def test_stretches_do_not_depend_on_the_blocks_that_come(loud, size):
    wave = joined(12, -0.8, 45, -0.2, 20, -3, 2, -0.6, 1)
    expected = list(speech(in_blocks(wave, 7 * SECOND)))
    found = list(speech(in_blocks(wave, size)))
    assert [(of.start_s, of.end_s) for of in found] == [(of.start_s, of.end_s) for of in expected]
    assert all(np.array_equal(a.wave, b.wave) for a, b in zip(found, expected, strict=True))


def test_an_hour_takes_the_memory_of_a_minute(loud):
    found = list(speech(hour()))
    assert len(found) == 900 and all(stretch.seconds < 3.6 for stretch in found)
    assert found[-1].start_s == pytest.approx(3596, abs=0.05)
    held = max(stretch.wave.base.nbytes if stretch.wave.base is not None else 0 for stretch in found)
    assert held < 40 * SECOND * 4


def test_without_a_real_pause_a_short_one_is_taken_and_no_word_is_cut(loud):
    wave = joined(20, -0.2, 25, -0.15, 20)
    found = list(speech(in_blocks(wave, SECOND)))
    assert all(stretch.seconds <= 30 for stretch in found)
    ends = [stretch.end_s for stretch in found]
    assert ends[0] == pytest.approx(20, abs=0.1) and ends[1] == pytest.approx(45.2, abs=0.1)


@given(
    parts=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 60)), min_size=1, max_size=8),
    step=st.integers(40, 3000),
)
def test_all_speech_is_in_some_stretch_none_of_which_is_too_long_or_overlaps(parts, step):
    speech_T = np.concatenate([np.r_[np.full(loud, 0.9), np.full(quiet, 0.1)] for loud, quiet in parts])
    loudness_T = np.random.default_rng(len(speech_T)).random(len(speech_T))
    spans, base = [], 0
    for end in [*range(step, len(speech_T), step), len(speech_T)]:
        found, done = cut(speech_T[base:end], loudness_T[base:end], end == len(speech_T), MOST)
        spans += [(base + of.heard[0], base + of.heard[1]) for of in found]
        base += done
    assert all(0 < end - first <= MOST for first, end in spans)
    assert all(end <= first for (_, end), (first, _) in itertools.pairwise(spans))
    whole, _ = cut(speech_T, loudness_T, True, MOST)
    assert [of.heard for of in whole] == spans
    heard = np.zeros(len(speech_T), bool)
    for first, end in spans:
        heard[first:end] = True
    lost = np.flatnonzero((speech_T > 0.5) & ~heard)
    runs = np.split(lost, np.flatnonzero(np.diff(lost) > 1) + 1)
    assert all(len(run) < 3 for run in runs), "more than a click was left out"


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(40 * SECOND, np.float32),
        np.random.default_rng(0).normal(scale=0.1, size=40 * SECOND).astype(np.float32),
        sound(5, 3),
        0.3 * np.sin(2 * np.pi * np.outer(np.arange(6 * SECOND) / SECOND, [261.6, 329.6, 392.0])).sum(1) / 3,
    ],
    ids=["silence", "noise", "a gliding tone", "a chord"],
)
def test_what_is_no_speech_has_no_stretch(wave):
    assert not list(speech(in_blocks(wave.astype(np.float32), 30 * SECOND)))


def test_the_detector_judges_a_frame_alike_in_whatever_parts_it_comes():
    wave = sound(4, 2)
    whole, parts = VoiceDetector()(wave), VoiceDetector()
    cuts = [0, 10 * FRAME, 11 * FRAME, 100 * FRAME, len(wave)]
    found = np.concatenate([parts(wave[a:b]) for a, b in itertools.pairwise(cuts)])
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert len(whole) == -(-len(wave) // FRAME)


@pytest.mark.parametrize(
    ("seconds", "lengths"), [(0.5, [1]), (30, [30]), (31, [15.5, 15.5]), (60, [30, 30]), (100, [30, 30, 20, 20])]
)
def test_windows_of_like_length(seconds, lengths):
    found = list(windows(in_blocks(np.full(round(seconds * SECOND), 0.1, np.float32), 7 * SECOND)))
    assert [stretch.seconds for stretch in found] == pytest.approx(lengths)
    assert found[0].start_s == 0 and found[-1].end_s == pytest.approx(seconds)
    assert not any(stretch.silent for stretch in found)


def test_stretches_are_as_short_as_is_asked(loud):
    wave = joined(25, -0.2, 20)
    assert all(stretch.seconds <= 8 for stretch in speech(in_blocks(wave, SECOND), 8))
    assert [of.seconds for of in windows(in_blocks(wave[: 45 * SECOND], SECOND), 20)] == pytest.approx([20, 12.5, 12.5])


def test_a_silent_window_is_told():
    assert [of.silent for of in windows(in_blocks(joined(30, -30), SECOND))] == [False, True]
