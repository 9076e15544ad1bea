"""From a manifest to tar shards and the manifest that says where each sound lies in them."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.errors import InputError
from data.paths import written_whole
from data.progress import Progress
from data.rows.manifest import BATCH_ROWS, SCHEMA, Manifest
from data.rows.shards import MANIFEST, SHARD_NAME, member_path

_PLAN = "plan.json"


def write_shards(rows: Manifest, out: Path, *, megabytes: float, seed: int = 0, quiet: bool = False) -> int:
    """Packs the sound files of a manifest, each once, in a shuffled order.

    A run that was cut off goes on with the shard that it was at.

    Args:
        rows: What `read_manifest` gives.
        out: The folder.
        megabytes: Of sound in a shard, at most (one file at least).
        seed: Of the order.
        quiet: Show no progress.

    Returns:
        How many shards there are.

    Raises:
        InputError: A sound file is missing, or the folder holds shards of something else.
    """
    files: dict[str, list[int]] = {}
    for number, path in enumerate(rows.values("path")):
        files.setdefault(path, []).append(number)
    shards = _shared_out(rows, list(files), megabytes, seed)
    _require_same_plan(out, {"rows": rows.fingerprint(), "shards": hashlib.sha256(repr(shards).encode()).hexdigest()})
    progress = Progress("shards", len(files), unit="files", quiet=quiet)
    places: dict[str, str] = {}
    first = 0
    for number, paths in enumerate(shards):
        part = out / f".{SHARD_NAME.format(number)}.json"
        if not part.is_file():
            members = _write_shard(rows, out / SHARD_NAME.format(number), paths, files, first)
            with written_whole(part) as temporary:
                temporary.write_text(json.dumps(members))
        for path, (start, size) in zip(paths, json.loads(part.read_text()), strict=True):
            places[path] = member_path(number, start, size, path.rpartition("/")[2])
        first += len(paths)
        progress.add(len(paths))
    _write_manifest(rows, out / MANIFEST, places)
    for part in out.glob(".*.tar.json"):
        part.unlink()
    return len(shards)


def _shared_out(rows: Manifest, paths: list[str], megabytes: float, seed: int) -> list[list[str]]:
    """The files of each shard."""
    shards, filled = [], np.inf
    for number in np.random.default_rng(seed).permutation(len(paths)):
        try:
            size = os.stat(f"{rows.root}/{paths[number]}").st_size
        except OSError as error:
            raise InputError(f"{rows.root}/{paths[number]}: cannot be read ({error.strerror}); drop its rows") from None
        if filled + size > megabytes * 1e6:
            shards.append([])
            filled = 0
        shards[-1].append(paths[number])
        filled += size
    return shards


def _require_same_plan(out: Path, plan: dict[str, str]) -> None:
    path = out / _PLAN
    if path.is_file() and json.loads(path.read_text()) != plan:
        raise InputError(f"{out}: holds shards of other rows, or of another size or seed; give another folder")
    if (out / MANIFEST).is_file():
        raise InputError(f"{out}: these shards are there already; nothing is left to do")
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(plan))


def _write_shard(
    rows: Manifest, out: Path, paths: list[str], files: dict[str, list[int]], first: int
) -> list[tuple[int, int]]:
    """Writes one tar: each sound with its rows as JSON. First byte and size of each sound."""
    members = []
    with written_whole(out) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, path in enumerate(paths, first):
            content = (rows.root / path).read_bytes()
            suffix = path.rpartition("/")[2].rpartition(".")[2].lower()
            _add(tar, f"{number:09d}.{suffix}", content)
            # The tar is at the end of the sound, filled up to blocks.
            members.append((tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(content)))
            _add(tar, f"{number:09d}.json", json.dumps(_annotation(rows, files[path]), ensure_ascii=False).encode())
    return members


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times, no owner: the same rows make the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _annotation(rows: Manifest, numbers: list[int]) -> dict[str, list[dict]]:
    """The rows of one sound, with an annotation file's keys."""
    entries = []
    for row in (rows[number] for number in numbers):
        entry = {"id": row.id, "path": row.path.name, "text": row.text, "task": row.task, "corpus": row.corpus}
        more = {"duration": row.duration_s, "references": list(row.references), "Q": row.question}
        more |= {"testset_id": row.testset_id, "start": row.start_s, "end": row.end_s}
        entries.append(entry | {key: value for key, value in more.items() if value})
    return {"annotation": entries}


def _write_manifest(rows: Manifest, out: Path, places: dict[str, str]) -> None:
    table = rows.table if rows.indices is None else rows.table.take(pa.array(rows.indices))
    paths = pa.array([places[path] for path in rows.values("path")])
    table = table.set_column(SCHEMA.get_field_index("path"), SCHEMA.field("path"), paths)
    about = {"root": ".", "fingerprint": rows.fingerprint()}
    with (
        written_whole(out) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch)
        writer.write_batch(pa.RecordBatch.from_pylist([], SCHEMA), custom_metadata=about)
