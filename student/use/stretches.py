"""A sound of any length in stretches of which each is heard at once, none over 30 s: longer ones no model takes.

Speech is cut at pauses, and what is none is left out. Everything else is cut into windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.sound.audio import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE
from student.use.voice import FRAME, VoiceDetector

_SPEECH, _QUIET = 0.5, 0.35
"""Probabilities of speech above which it has begun, and below which it has paused (those that Silero recommends)."""
_LEAST = 3
"""Frames of speech that are more than a click: of 421 spoken test clips of the mini recipe none has fewer."""
_PAUSE = 16
"""Frames of a pause at which a stretch ends: 0.5 s.

Measured on the mini teacher, 90 test clips joined with 0.3 to 4 s between them: WER 13.6% with pauses of 0.3 s, 13.1%
with 0.5 s, 15.1% with 1 s, 25.2% with 1.5 s; the clips one by one 14.0%.
"""
_MARGIN = 6
"""Frames that are heard before and after what is said: 0.2 s, less than half a pause."""
_SHORT_PAUSE = 3
"""Frames of a pause that is as good a place as any, where there is no longer one: 0.1 s."""
_SILENT = 1e-3
"""Amplitude (-60 dB of full scale) that nothing in a silent window exceeds."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a sound that a model hears at once.

    Attributes:
        start_s: Where what is said in it begins in the sound, seconds; of a window, where the window does.
        end_s: Where it ends.
        wave: What is heard, at times with a margin: float32 mono at 16 kHz, at least 1 s, at most 30 s.
        silent: Whether there is nothing to be heard.
    """

    start_s: float
    end_s: float
    wave: np.ndarray
    silent: bool = False

    @property
    def seconds(self) -> float:
        """How much is heard."""
        return len(self.wave) / SAMPLE_RATE


@dataclass(frozen=True)
class Span:
    """Frames of a stretch: what is heard, and within that what is said."""

    heard: tuple[int, int]
    said: tuple[int, int]


Blocks = Iterator[np.ndarray]


def speech(blocks: Blocks, longest_s: float = MAX_SECONDS) -> Iterator[Stretch]:
    """The stretches of a sound in which somebody speaks, each as soon as it has ended.

    A sound that is not longer than a stretch may be is heard as it is: so the models were trained and are scored. Of a
    longer one a stretch ends at a pause of half a second; where there is none, at the longest shorter one of its second
    half, or else where it is least loud.

    Args:
        blocks: The sound.
        longest_s: Most seconds of a stretch.
    """
    most = int(longest_s * SAMPLE_RATE) // FRAME
    detector = VoiceDetector()
    wave, speech_T, base, beginning = np.zeros(0, np.float32), np.zeros(0, np.float32), 0, True
    for block, last in _with_last(blocks):
        wave = np.concatenate([wave, block])
        known = len(speech_T) * FRAME
        whole = len(wave) if last else len(wave) // FRAME * FRAME
        speech_T = np.concatenate([speech_T, detector(wave[known:whole])])
        if beginning and len(wave) <= longest_s * SAMPLE_RATE:
            if last and (span := _said(speech_T, 0, len(speech_T))):
                yield _stretch(wave, 0, Span((0, len(speech_T)), span))
            continue
        beginning = False
        spans, done = cut(speech_T, _loudness(wave[: len(speech_T) * FRAME]), last, most)
        for span in spans:
            yield _stretch(wave, base, span)
        wave, speech_T, base = wave[done * FRAME :], speech_T[done:], base + done


def windows(blocks: Blocks, longest_s: float = MAX_SECONDS) -> Iterator[Stretch]:
    """A sound in windows of `longest_s` seconds; where a last part is over, it is halved with the one before it."""
    limit = int(longest_s * SAMPLE_RATE)
    wave, first = np.zeros(0, np.float32), 0
    for block, last in _with_last(blocks):
        wave = np.concatenate([wave, block])
        while len(wave) > (limit if last else 2 * limit):
            length = limit if len(wave) >= 2 * limit else -(-len(wave) // 2)
            yield _window(wave[:length], first)
            wave, first = wave[length:], first + length
    if len(wave):
        yield _window(wave, first)


def cut(speech_T: np.ndarray, loudness_T: np.ndarray, last: bool, most: int) -> tuple[list[Span], int]:
    """Cuts frames into stretches.

    Args:
        speech_T: How likely speech is in each frame.
        loudness_T: How loud each is.
        last: Whether the sound ends with them.
        most: Frames of the longest stretch.

    Returns:
        The stretches that have ended, none of which overlap; and the frames that are done with.
    """
    spans, done, count = [], 0, len(speech_T)
    while True:
        begins = np.flatnonzero(speech_T[done:] >= _SPEECH)
        if not len(begins):
            # The last frames may be the margin of what comes.
            return spans, count if last else max(done, count - _MARGIN)
        first = done + int(begins[0])
        start = max(done, first - _MARGIN)
        limit = start + most
        end = _pause(speech_T, first, min(limit, count))
        if end is not None:
            stop = min(end + _MARGIN, limit, count)
        elif limit < count or (limit == count and not last):
            stop = end = _best_cut(speech_T, loudness_T, start + most // 2, limit)
        elif last:
            stop = end = count
        else:
            return spans, start
        if said := _said(speech_T, first, end):
            spans.append(Span((start, stop), said))
        done = stop


def _pause(speech_T: np.ndarray, first: int, limit: int) -> int | None:
    """Where speech from `first` on ends with a pause that is all within `limit`."""
    return next((begin for begin, end in _quiet_runs(speech_T, first, limit) if end - begin >= _PAUSE), None)


def _best_cut(speech_T: np.ndarray, loudness_T: np.ndarray, low: int, high: int) -> int:
    """Where speech without a real pause is best cut: in the longest short one, else where it is least loud."""
    runs = [(end - begin, begin, end) for begin, end in _quiet_runs(speech_T, low, high)]
    length, begin, end = max(runs, default=(0, 0, 0))
    if length >= _SHORT_PAUSE:
        return (begin + end) // 2
    return low + int(np.argmin(loudness_T[low:high]))


def _quiet_runs(speech_T: np.ndarray, low: int, high: int) -> list[tuple[int, int]]:
    """First frame and end of each run of quiet frames."""
    quiet = np.concatenate([[0], (speech_T[low:high] < _QUIET).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(quiet)) + low
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _said(speech_T: np.ndarray, low: int, high: int) -> tuple[int, int] | None:
    """The first frame of speech and the end of the last one; None where there is hardly any."""
    frames = np.flatnonzero(speech_T[low:high] >= _SPEECH) + low
    return (int(frames[0]), int(frames[-1]) + 1) if len(frames) >= _LEAST else None


def _loudness(wave: np.ndarray) -> np.ndarray:
    """Mean square of each frame and its neighbours."""
    frames = np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME)
    return np.convolve(np.square(frames).mean(1), np.ones(3), mode="same")


def _stretch(wave: np.ndarray, base: int, span: Span) -> Stretch:
    heard, (first, end) = slice(span.heard[0] * FRAME, span.heard[1] * FRAME), span.said
    times = [(base + first) * FRAME / SAMPLE_RATE, (base * FRAME + min(end * FRAME, len(wave))) / SAMPLE_RATE]
    return Stretch(*times, _as_heard(wave[heard]))


def _window(wave: np.ndarray, first: int) -> Stretch:
    times = first / SAMPLE_RATE, (first + len(wave)) / SAMPLE_RATE
    return Stretch(*times, _as_heard(wave), silent=bool(np.abs(wave).max() <= _SILENT))


def _as_heard(wave: np.ndarray) -> np.ndarray:
    """A copy (what it was cut from is not kept for it), at least 1 s long."""
    return np.pad(wave, (0, max(0, MIN_SECONDS * SAMPLE_RATE - len(wave))))


def _with_last(blocks: Blocks) -> Iterator[tuple[np.ndarray, bool]]:
    """Each block, and whether it is the last one."""
    before = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    if before is not None:
        yield before, True
