"""How long the sounds of a corpus are, by their headers, and which stretches are in them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path

from data.corpora.entry import Entry
from data.errors import InputError
from data.progress import Progress
from data.sound.decode import Sound, SoundBytes, sound_info

UNREADABLE = "whose sound cannot be read"
OUTSIDE = "whose stretch is not in their sound"

_LATE_S = 0.25
"""How far a stretch may go beyond its sound's end: less than a word; converting a sound shifts its end by less."""
_BATCH = 128
_THREADS = 8


def with_lengths(entries: Iterator[Entry], progress: Progress) -> Iterator[tuple[Entry, float, tuple[str, str] | None]]:
    """Each row with the length of its sound (s), from its header, or why it is left out."""
    measured = lru_cache(_BATCH)(_length)  # rows of one recording follow each other
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(entries, _BATCH)):
            for entry, (seconds, fault) in zip(batch, pool.map(lambda one: _of(one, measured), batch), strict=True):
                progress.add(1)
                if fault:
                    yield entry, seconds, (UNREADABLE, fault)
                elif _is_outside(entry, seconds):
                    yield entry, seconds, (OUTSIDE, f"{entry.start_s:g} to {entry.end_s:g} s of {seconds:.2f} s")
                else:
                    yield entry, seconds, None


def _is_outside(entry: Entry, seconds: float) -> bool:
    """Whether a stretch is empty, or goes beyond the end of its sound."""
    empty = entry.end_s and entry.end_s <= entry.start_s
    return bool(empty) or 0 < seconds <= entry.start_s or entry.end_s > seconds + _LATE_S


def _of(entry: Entry, measured: Callable[[Path], tuple[float, str]]) -> tuple[float, str]:
    return _length(SoundBytes(entry.content, entry.id)) if entry.content is not None else measured(entry.path)


def _length(sound: Sound) -> tuple[float, str]:
    """Seconds, or why they cannot be read."""
    try:
        return sound_info(sound).seconds, ""
    except InputError as error:
        return 0.0, str(error).removeprefix(f"{sound}: ").split(";")[0]
    except OSError as error:
        return 0.0, error.strerror or str(error)
