"""A whole annotation file looked at: every sound file in parallel, every row put into the classes of its faults."""

import hashlib
import math
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from data.paths import cache_dir
from data.progress import Progress
from data.rows.faults import FAULTS, Fault, Thresholds
from data.rows.row import fault_of_times, stretch_s
from data.scan.store import ScanStore
from data.sound.checks import SoundCheck, check_sound, file_hash

OK = "ok"
MALFORMED = "malformed"
"""Rows that no reader takes: keys of another kind, times that no clip has."""
CLASSES = (*FAULTS, MALFORMED, OK)

_FORMAT = 4
"""Of what is kept: what an older one has kept is not read."""
_CHUNK = 64
_FLUSH_S = 10.0


@dataclass(frozen=True, slots=True)
class Annotated:
    """What a scan needs of a row.

    Attributes:
        id: Its id.
        path: Its sound file, relative to the root.
        text_fault: The fault of its text.
        start_s: Where its clip begins in the file, seconds.
        end_s: Where it ends; 0: at the file's end.
        duration_s: The length that it states; NaN where it states none.
        malformed: Why no reader takes the row; empty where one does.
    """

    id: str
    path: str
    text_fault: Fault | None
    start_s: float = 0.0
    end_s: float = 0.0
    duration_s: float = math.nan
    malformed: str = ""

    def seconds(self, file_s: float) -> float:
        """Length of its stretch of a file of so many seconds; an end of 0 is the file's."""
        return stretch_s(self.start_s, self.end_s, file_s)

    def fault_of_times(self, file_s: float) -> str:
        """What is wrong with the times that it states, of a file of so many seconds."""
        return fault_of_times(self.path, self.start_s, self.end_s, self.duration_s, file_s)


def scan_sounds(
    root: Path, paths: Iterable[str], *, decode: bool, workers: int | None = None, quiet: bool = False
) -> dict[str, SoundCheck]:
    """Looks at sound files in parallel; what an earlier scan found of an unchanged file is taken over.

    Args:
        root: What the paths are relative to.
        paths: Sound files.
        decode: Whether every sample is looked at, or headers alone.
        workers: Processes; as many as cores if not given.
        quiet: Show no progress (else it goes to stderr).

    Returns:
        What was found, by path.
    """
    root = root.resolve()
    store = ScanStore(cache_dir() / "scans" / hashlib.sha256(f"{_FORMAT} {root}".encode()).hexdigest()[:16])
    known = store.read()
    paths = list(dict.fromkeys(paths))
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    asked = ([(path, _state(known.get(path), decode)) for path in chunk] for chunk in chunks)
    progress = Progress("scan", len(paths), unit="files", quiet=quiet, stream=sys.stderr)
    found: dict[str, SoundCheck] = {}
    flushed = time.monotonic()
    with _mapper(workers, len(chunks)) as run:
        try:
            for chunk, checks in zip(chunks, run(partial(_check_all, root, decode), asked), strict=True):
                for path, check in zip(chunk, checks, strict=True):
                    found[path] = check or known[path]
                    if check is not None and not check.missing:
                        store.add(path, check)
                progress.add(len(chunk))
                if time.monotonic() - flushed > _FLUSH_S:
                    store.flush()
                    flushed = time.monotonic()
            store.flush()
        finally:
            store.flush()  # of what a Ctrl-C cut short, in the loop or in the last flush itself
    return found


def copies(root: Path, found: dict[str, SoundCheck], workers: int | None = None) -> set[str]:
    """Paths whose sound is that of a file before them: byte by byte, or sample by sample where both were decoded.

    Files of one fingerprint are read whole, if not decoded already, so that what is called a copy is one.
    """
    like, alike = defaultdict(list), set()
    for path, check in found.items():
        if check.fingerprint and not check.fault and check.duration_s > 0:
            like[check.fingerprint].append(path)
    groups = (group for group in like.values() if len(group) > 1)
    suspects = [path for group in groups if not all(found[path].samples_hash for path in group) for path in group]
    chunks = [suspects[i : i + _CHUNK] for i in range(0, len(suspects), _CHUNK)]
    with _mapper(workers, len(chunks)) as run:
        hashes = dict(zip(suspects, chain.from_iterable(run(partial(_hash_all, root), chunks)), strict=True))
    for content in (hashes, {path: check.samples_hash for path, check in found.items()}):
        seen: set[str] = set()
        for path in found:
            digest = content.get(path)
            if digest and digest in seen:
                alike.add(path)
            seen.add(digest or "")
    return alike


def classify(
    rows: Sequence[Annotated], found: dict[str, SoundCheck], copied: set[str], thresholds: Thresholds
) -> dict[str, list[str]]:
    """The ids in each class, in the order of the rows, each once.

    An id stands in every class that it belongs to, and in `ok` if in no other. A missing, unreadable or empty sound is
    in that class alone of those of its sound, and a malformed row in none of those of its length; no copy is the first
    file of its content, and rows that share one file are none; of an id that several rows have, all rows are at fault.
    """
    times = Counter(row.id for row in rows)
    classes: dict[str, dict[str, None]] = {name: {} for name in CLASSES}
    for row in rows:
        faults = set(_faults_of_sound(found[row.path], row, thresholds))
        if row.path in copied:
            faults.add("duplicate_audio")
        if times[row.id] > 1:
            faults.add("duplicate_id")
        if row.text_fault:
            faults.add(row.text_fault)
        if row.malformed:
            faults.add(MALFORMED)
        for name in faults or {OK}:
            classes[name][row.id] = None
    return {name: list(ids) for name, ids in classes.items()}


def _faults_of_sound(check: SoundCheck, row: Annotated, thresholds: Thresholds) -> Iterator[str]:
    if check.missing:
        yield "missing_file"
    elif check.fault:
        yield "unreadable"
    elif not row.malformed:
        if fault := thresholds.fault_of_length(row.seconds(check.duration_s)):
            yield fault
        if check.duration_s and row.fault_of_times(check.duration_s):
            yield "wrong_length"
    elif not check.duration_s:
        yield "zero_length"
    if check.missing or check.fault or check.duration_s <= 0 or not check.decoded:
        return
    peak = check.peak_first if thresholds.mono == "first" else check.peak_mix
    if not check.finite:
        yield "nan"
    elif 20 * math.log10(max(peak, 1e-10)) <= thresholds.silence_db:
        yield "silent"
    if check.clipped >= thresholds.clipped_share:
        yield "clipped"


def _state(check: SoundCheck | None, decode: bool) -> tuple[int, int] | None:
    """Size and time of a file of which as much is known as is asked for."""
    return (check.size, check.mtime_ns) if check and (check.decoded or not decode) else None


def _check_all(root: Path, decode: bool, asked: list[tuple[str, tuple[int, int] | None]]) -> list[SoundCheck | None]:
    return [check_sound(root / path, decode=decode, known=known) for path, known in asked]


def _hash_all(root: Path, paths: list[str]) -> list[str]:
    return [file_hash(root / path) for path in paths]


@contextmanager
def _mapper(workers: int | None, tasks: int):
    """A `map` over processes, or the plain one where there is little to do."""
    workers = min(workers or os.cpu_count() or 1, tasks)
    if workers <= 1:
        yield map
        return
    # Ctrl-C is for this process, which keeps what is there and stops the others.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, initializer=ignore) as pool:
        yield pool.map
