"""The texts of a test set, as one model writes them: the same on however many ranks, and whatever was written before.

The last bits of a number depend on the batch that it is computed in, and in 16 bits a text may turn on them. So the
rows of a set alone, all of them, make its batches; ranks are dealt whole batches, and a batch of which a text is wanted
or missing is written whole.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data.batches import batches_by_length
from data.errors import InputError
from data.hashing import hash_of
from data.progress import Progress
from data.rows.row import Row
from data.sound.audio import load_clip
from data.sound.headers import fingerprint, read_headers
from distill.scoring.hypothesis_writer import HypothesisWriter
from distill.scoring.sources import Source
from teacher.device import lowering

BATCH_SECONDS = 120.0
WINDOW_ROWS = 128
_TOLERATED = 3
_ANEW = " (what is written stays, and counts where its batch is the same)"


def fixed_batches(seconds: np.ndarray, max_seconds: float | None = None) -> list[list[int]]:
    """Row numbers in batches of like length, of `max_seconds` (`BATCH_SECONDS`) padded seconds at most.

    They are made among `WINDOW_ROWS` rows that follow one another: the first rows of a set are then in few batches.
    """
    return [
        [start + i for i in batch]
        for start in range(0, len(seconds), WINDOW_ROWS)
        for batch in batches_by_length(seconds[start : start + WINDOW_ROWS], max_seconds or BATCH_SECONDS)
    ]


def batch_hash(rows: Sequence[Row]) -> str:
    """A hash of what a batch hears and is asked, and of what is expected: a text counts while all of it is the same."""
    asked = [
        [row.id, row.path.name, row.task, row.text, row.question, row.start_s, row.end_s, row.duration_s, row.mono]
        for row in rows
    ]
    return hash_of([asked, [_fingerprint(row) for row in rows]])[:16]


def write_set(
    source: Source,
    writer: HypothesisWriter,
    name: str,
    pairs: Sequence[tuple[Row, str]],
    *,
    limit: int | None = None,
    max_unreadable: float = 1.0,
    max_seconds: float | None = None,
    rank: int = 0,
    world: int = 1,
    label: str = "hypotheses",
) -> None:
    """Writes this rank's share of what is missing of a set.

    A clip that cannot be heard gets an empty text. It is tried anew each time, and its batch written again once it can.

    Args:
        source: Writes them.
        writer: Takes the texts, and knows those of earlier runs.
        name: The test set's.
        pairs: All its rows, with the wording of their instruction.
        limit: The first rows, whose texts are wanted; all if not given.
        max_unreadable: See `require_readable`.
        max_seconds: Padded audio seconds of a batch; None: `BATCH_SECONDS`.
        rank: Number of this process.
        world: Number of processes.
        label: Of the progress line.

    Raises:
        InputError: Too many clips cannot be heard, or a batch is too much for the device's memory.
    """
    seconds = source.seconds([row for row, _ in pairs])
    wanted = [batch for batch in fixed_batches(seconds, max_seconds) if min(batch) < (limit or len(pairs))]
    # The longest come first, so that dealing them out balances the ranks.
    share = sorted(wanted, key=lambda batch: -seconds[batch[0]])[rank::world]
    todo = [batch for batch in share if not _is_written(writer, name, [pairs[i][0] for i in batch])]
    progress = Progress(label, sum(map(len, todo)), seconds=sum(seconds[batch].sum() for batch in todo), quiet=rank > 0)
    faults: dict[str, str] = {}
    for indices in todo:
        batch = [pairs[i] for i in indices]
        key = batch_hash([row for row, _ in batch])
        with lowering("evaluation.max_seconds", max_seconds or BATCH_SECONDS, _ANEW):
            texts = source.write(batch)
        for hypothesis in texts:
            writer.append(name, hypothesis, key)
            if hypothesis.fault:
                faults[hypothesis.row.id] = hypothesis.fault
        require_readable(name, faults, len(pairs), max_unreadable)
        progress.add(len(indices), seconds[indices].sum())


def require_readable(name: str, faults: dict[str, str], clips: int, max_unreadable: float) -> None:
    """Refuses a set of which too much cannot be heard: most likely its folder is another one.

    Args:
        name: The test set's.
        faults: What is wrong with those clips that cannot be heard, by id.
        clips: How many it has.
        max_unreadable: The share of them that is taken for empty texts; three always are, but at 0.

    Raises:
        InputError: There are more, or there is no other clip.
    """
    allowed = max(max_unreadable * clips, _TOLERATED) if max_unreadable else 0
    if faults and len(faults) > min(allowed, clips - 1):
        raise InputError(
            f"the {name} set: {len(faults)} of {clips} clips cannot be heard, more than evaluation.max_unreadable "
            f"({max_unreadable:g}) allows; fetch them again, or name the right folder; the first: "
            f"{next(iter(faults.values()))}"
        )


def faults_of_files(rows: Sequence[Row]) -> dict[str, str]:
    """What is wrong with clips by what their files' headers say, by row id; nothing is decoded but of these."""
    with ThreadPoolExecutor() as pool:
        headers = list(read_headers([row.path for row in rows], pool))
    faults = {
        row.id: fault_of_clip(row)
        for row, header in zip(rows, headers, strict=True)
        if header.fault or row.fault_of_length(header.duration_s)
    }
    return {row_id: fault for row_id, fault in faults.items() if fault}


def fault_of_clip(row: Row) -> str:
    """Why a clip cannot be heard; empty where it can."""
    try:
        load_clip(row)
    except InputError as error:
        return str(error)
    return ""


def _fingerprint(row: Row) -> str:
    """Of a clip's file; empty where it cannot be read."""
    try:
        return fingerprint(row.path)
    except OSError:
        return ""


def _is_written(writer: HypothesisWriter, name: str, rows: Sequence[Row]) -> bool:
    """Whether a batch's texts are there, and its clips that could not be heard still cannot be."""
    if not writer.has(name, rows, batch_hash(rows)):
        return False
    faults = writer.faults(name, rows)
    return all(fault_of_clip(row) for row in rows if row.id in faults)
