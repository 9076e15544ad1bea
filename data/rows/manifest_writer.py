"""From annotation files to one Arrow file, with what the sound files' headers say."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import InputError
from data.paths import written_whole
from data.progress import Progress
from data.rows.annotation import open_annotation, relative_root
from data.rows.faults import LEAST_S
from data.rows.identity import Ids, RowsDigest
from data.rows.manifest import BATCH_ROWS, SCHEMA, append_row, batch_of, sealed
from data.rows.row import lengths_differ
from data.sound.headers import read_headers


@dataclass(frozen=True)
class Written:
    """What a manifest was made of.

    Attributes:
        rows: Rows in it.
        seconds: Of sound, over all rows.
        left_out: Rows whose file is missing or no sound file, or that lie beyond its end.
        corrected: Rows that stated another length than their sound has.
        list: Where those are listed, with the reason of each.
    """

    rows: int
    seconds: float
    left_out: int
    corrected: int
    list: Path


def write_manifest(annotations: Sequence[Path], out: Path, root: Path | None = None, workers: int = 0) -> Written:
    """Makes one manifest of annotation files; memory does not grow with their rows but for 100 bytes of each's id.

    Args:
        annotations: JSON files, read one after the other.
        out: The `.arrow` file; it appears whole or not at all.
        root: What the rows' paths are relative to, instead of what each file says.
        workers: Processes that read headers; as many as there are cores if 0.

    Raises:
        InputError: A file or a row is not as it should be, an id is there twice, or no sound file can be read.
    """
    out = Path(out)
    if workers < 0:
        raise InputError(f"--workers {workers}: must be 0 (as many as cores) or more")
    if out.suffix != ".arrow":
        raise InputError(f"{out}: a manifest's name ends in .arrow; give it such a one")
    counted = _Megabytes("manifest", annotations)
    opened = [(path, *open_annotation(path, root, counted, texts=False)) for path in annotations]
    common = Path(os.path.commonpath([own for _, own, _ in opened]))
    about = {"root": relative_root(common, out.parent)}
    listed = out.with_suffix(".left_out.jsonl")
    kept = left_out = corrected = 0
    seconds, digest, ids, columns = 0.0, RowsDigest(), Ids(), {name: [] for name in SCHEMA.names}
    with ExitStack() as stack:
        temporary, failed = stack.enter_context(written_whole(out)), stack.enter_context(written_whole(listed))
        failures = stack.enter_context(failed.open("w", encoding="utf-8"))
        pool = stack.enter_context(ProcessPoolExecutor(workers or len(os.sched_getaffinity(0))))
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for row in _with_headers(_rows(opened, common, ids), common, pool):
                if fault := row.pop("fault"):
                    failures.write(json.dumps({"id": row["id"], "path": row["path"], "reason": fault}) + "\n")
                    left_out += 1
                    continue
                corrected += row.pop("corrected")
                digest.add(*(row[name] for name in RowsDigest.COLUMNS), "first")
                append_row(columns, row)
                kept, seconds = kept + 1, seconds + row["duration_s"]
                if len(columns["id"]) == BATCH_ROWS:
                    writer.write_batch(batch_of(columns))
            if not (kept or left_out):
                raise InputError(f"{annotations[0]}: no rows; there is nothing to make a manifest of")
            if not kept:
                raise InputError(f"{annotations[0]}: none of its sound files can be read below {common}; give --root")
            writer.write_batch(batch_of(columns))
            about |= {"fingerprint": digest.hexdigest()} | sealed(sink, temporary)
            writer.write_batch(batch_of(columns), custom_metadata=about)
    if not left_out:
        listed.unlink()
    return Written(kept, seconds, left_out, corrected, listed)


class _Megabytes:
    """Progress in what has been read of some files."""

    def __init__(self, label: str, files: Sequence[Path]) -> None:
        self.size, self.read = sum(path.stat().st_size for path in files if path.is_file()), 0
        self.progress = Progress(label, -(-self.size // 1_000_000), unit="MB")

    def __call__(self, count: int) -> None:
        self.read += count
        done = self.progress.total if self.read >= self.size else self.read // 1_000_000
        if done > self.progress.done:
            self.progress.add(done - self.progress.done)


def _rows(opened: list[tuple[Path, Path, Iterator[dict]]], common: Path, ids: Ids) -> Iterator[dict[str, Any]]:
    """The rows of all files, their paths relative to one root."""
    for path, root, entries in opened:
        inside = "" if root == common else root.relative_to(common).as_posix() + "/"
        for number, entry in enumerate(entries):
            entry["id"] = ids.take(f"{path}, row {number}", entry)
            entry["path"] = os.path.join(inside, entry["path"])  # a whole path stays as it is
            yield entry


def _with_headers(rows: Iterator[dict[str, Any]], root: Path, pool: Executor) -> Iterator[dict[str, Any]]:
    """Rows with what their sound files' headers say, which is right where it differs from the annotation."""
    ended = False
    while not ended:
        part = [row for _, row in zip(range(BATCH_ROWS), rows, strict=False)]
        ended = len(part) < BATCH_ROWS
        sounds = list(dict.fromkeys(row["path"] for row in part))  # a file has several rows where it has several tasks
        headers = dict(zip(sounds, read_headers([root / path for path in sounds], pool), strict=True))
        for row in part:
            header = headers[row["path"]]
            # A stretch of the file.
            length_s = max(min(row["end_s"] or math.inf, header.duration_s) - row["start_s"], 0.0)
            beyond = not header.fault and row["start_s"] > 0 and length_s < LEAST_S
            fault = "nothing of the file lies between its start and its end" if beyond else header.fault
            stated_s = length_s if math.isnan(row["duration_s"]) else row["duration_s"]
            found = {"fault": fault, "fingerprint": header.fingerprint, "duration_s": length_s}
            yield row | found | {"corrected": lengths_differ(stated_s, length_s)}
