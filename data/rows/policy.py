"""Training rows under a recipe's policies for faults: what stays, and what was dropped, by class."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.rows.faults import LEAST_S, Fault, FaultPolicies, Lengths
from data.rows.manifest import Manifest
from data.rows.manifest_reader import read_manifest
from data.rows.row import Mono
from data.scan.report import read_report
from data.sound.audio import MAX_SECONDS

CAPTIONS = ("audiocaption", "audiocaption_v2")
_SHOWN = 3


def read_training_rows(
    path: Path,
    policies: FaultPolicies,
    lengths: Lengths,
    *,
    root: Path | None = None,
    scan: Path | None = None,
    limit: int | None = None,
    mono: Mono = "first",
    quiet: bool = False,
) -> Manifest:
    """Reads a manifest, and does with rows at fault what the policies say; says what was dropped.

    Args:
        path: An annotation file or a manifest.
        policies: What is done with each class.
        lengths: From where on a clip or a text is too short or too long.
        root: What the rows' paths are relative to, instead of what the file says.
        scan: What `scan_data.py --out` wrote of the file.
        limit: Takes only the first rows.
        mono: What is heard of several channels.
        quiet: Say nothing (ranks other than the first).

    Raises:
        InputError: The file is not as it should be, there are rows of a class whose policy is "stop", more rows are
            dropped than `max_dropped` allows, or the scan is not of this file as it is and is heard.
    """
    dropped: dict[str, list[str]] = {
        name: []
        for name in ("missing_file", "unreadable", "wrong_length", "duplicate_id")
        if getattr(policies, name) == "drop"
    }
    whole = read_manifest(path, root, texts=False, left_out=dropped).with_mono(mono)
    rows, left_out = whole[:limit], sum(map(len, dropped.values()))
    read = left_out + len(whole if left_out else rows)  # which of them are among the first is not known
    listed = read_report(scan, path, mono) if scan else {}
    stays = np.ones(len(rows), bool)
    for name, mask in _faults(rows, policies, lengths, listed).items():
        policy = getattr(policies, name)
        if policy == "split":
            mask = mask & ~rows.among("task", CAPTIONS)
        if policy == "stop" and mask.any():
            raise InputError(
                f"{path}: {mask.sum()} rows are {name}: {_names(rows.where(mask).values('id'))}; mend them, or set "
                f"data.faults.{name} (python scripts/scan_data.py {path} lists all)"
            )
        if policy in ("drop", "split") and mask.any():
            dropped.setdefault(name, []).extend(rows.where(mask & stays).values("id"))
            stays &= ~mask
    lost = sum(map(len, dropped.values()))
    counts = ", ".join(f"{len(ids)} {name} ({_names(ids)})" for name, ids in dropped.items() if ids)
    stay = stays.mean() * len(whole) / (len(whole) + left_out) if len(rows) else 0
    if lost and round(1 - stay, 9) > policies.max_dropped:
        raise InputError(
            f"{path}: {lost} of {read} rows are dropped, more than data.faults.max_dropped ({policies.max_dropped}): "
            f"{counts}; mend them, or allow more"
        )
    rows = rows.where(stays)
    if policies.too_long == "split":
        rows = _split(rows, min(lengths.max_seconds, MAX_SECONDS))
    if lost and not quiet:
        print(f"{path.name}: {lost} of {read} rows dropped: {counts}", flush=True)
    return rows


def _faults(
    rows: Manifest, policies: FaultPolicies, lengths: Lengths, listed: dict[str, list[str]]
) -> dict[Fault, np.ndarray]:
    """A mask of the rows at each fault: bool [rows]."""
    seconds = rows.durations_s
    found = {
        "zero_length": seconds < LEAST_S,
        "too_short": (seconds >= LEAST_S) & (seconds < lengths.min_seconds),
        "too_long": seconds > lengths.max_seconds,
        "no_text": ~rows.with_text,
    }
    if policies.long_text != "crop":  # every text is looked at
        found["long_text"] = _long_texts(rows, lengths)
    # What is read anew is not taken from the scan.
    for name in ("unreadable", "wrong_length", "silent", "clipped", "nan", "duplicate_audio"):
        if listed.get(name):
            found[name] = rows.among("id", listed[name])
    return found


def _long_texts(rows: Manifest, lengths: Lengths) -> np.ndarray:
    """Where `Lengths.fault_of_text` says long_text, asked by column."""
    masks = [np.zeros(0, bool)]
    for chunk in rows.table.column("text").chunks:
        long = pc.greater(pc.utf8_length(chunk), 4 * lengths.max_text_tokens).to_numpy(zero_copy_only=False)
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(chunk))).to_numpy()
        masks.append(long | (words > lengths.max_text_tokens))
    mask = np.concatenate(masks)
    return mask if rows.indices is None else mask[rows.indices]


def _split(rows: Manifest, seconds: float) -> Manifest:
    """Captions of long clips as rows of their parts (ids with `@` and the second they begin at), behind the others."""
    long = (rows.durations_s > seconds) & rows.among("task", CAPTIONS)
    if not long.any():
        return rows
    whole = rows.where(long)
    at = np.arange(whole.table.num_rows) if whole.indices is None else whole.indices
    parts = np.ceil(whole.durations_s / seconds - 1e-9).astype(int)
    table = whole.table.take(pa.array(np.repeat(at, parts)))
    first_s = np.concatenate([np.arange(count) * seconds for count in parts])
    start_s = table.column("start_s").to_numpy() + first_s
    length_s = np.minimum(np.repeat(whole.durations_s, parts) - first_s, seconds)
    names = [f"{name}@{start:g}" for name, start in zip(table.column("id").to_pylist(), start_s, strict=True)]
    columns = {"id": names, "start_s": start_s, "end_s": start_s + length_s, "duration_s": length_s}
    for name, values in columns.items():
        number = table.schema.get_field_index(name)
        table = table.set_column(number, table.schema.field(number), pa.array(values, table.schema.field(number).type))
    others = rows.where(~long)
    kept = np.arange(rows.table.num_rows) if others.indices is None else others.indices
    indices = np.concatenate([kept, rows.table.num_rows + np.arange(len(names))])
    return Manifest(pa.concat_tables([rows.table, table]), rows.root, indices, rows.mono)


def _names(ids) -> str:
    first = [name for name, _ in zip(ids, range(_SHOWN + 1), strict=False)]
    return ", ".join(first[:_SHOWN]) + (", ..." if len(first) > _SHOWN else "")
