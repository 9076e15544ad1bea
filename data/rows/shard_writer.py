"""From a manifest to tar shards and the manifest that says where each sound lies in them."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data.errors import InputError
from data.paths import remove_leftovers, written_whole
from data.progress import Progress
from data.rows.manifest import BATCH_ROWS, SCHEMA, Manifest, sealed
from data.rows.shards import MANIFEST, SHARD_NAME, member_path
from data.sound.decode import SoundBytes, blocks, sound_info
from data.sound.encode import as_flac
from data.strict_json import loads

_PLAN = "plan.json"
_PIECE = ("path", "start_s", "end_s")
_LONG_S = 60.0
"""A recording of more is cut into its rows' stretches."""
_CUT_BYTES = 3
"""Of a sample that is cut out, at most."""


class Piece(NamedTuple):
    """What lies in a tar for itself: a sound file, or a stretch that is cut out of a long one."""

    path: str
    start_s: float = 0.0
    end_s: float = 0.0
    cut: bool = False


def write_shards(
    rows: Manifest, out: Path, *, megabytes: float, seed: int = 0, outside: bool = False, quiet: bool = False
) -> int:
    """Packs the sound files of a manifest, each once, in a shuffled order.

    Of a recording of more than a minute its rows' stretches are packed, each for itself, so that a clip is fetched
    without the rest of it. A run that was cut off goes on with the shard that it was at.

    Args:
        rows: What `read_manifest` gives.
        out: The folder.
        megabytes: Of sound in a shard, at most (one piece at least).
        seed: Of the order.
        outside: Whether files that do not lie below the manifest's root are packed too.
        quiet: Show no progress.

    Returns:
        How many shards there are.

    Raises:
        InputError: A sound file is missing, no sound, or outside, or the folder holds shards of something else.
    """
    if not outside:
        _require_inside(rows)
    sizes, pieces = _sizes(rows), {}
    for number, piece in enumerate(_pieces(rows, sizes)):
        pieces.setdefault(piece, []).append(number)
    shards = _shared_out(list(pieces), sizes, megabytes, seed)
    _require_same_plan(out, {"rows": rows.fingerprint(), "shards": hashlib.sha256(repr(shards).encode()).hexdigest()})
    remove_leftovers(out)
    progress = Progress("shards", len(pieces), unit="sounds", quiet=quiet)
    places: dict[Piece, str] = {}
    first = 0
    for number, shard in enumerate(shards):
        part = out / f".{SHARD_NAME.format(number)}.json"
        if not part.is_file():
            members = _write_shard(rows, out / SHARD_NAME.format(number), shard, pieces, first)
            with written_whole(part) as temporary:
                temporary.write_text(json.dumps(members))
        for piece, (start, size) in zip(shard, _read_members(part, len(shard)), strict=True):
            name = piece.path.rpartition("/")[2]
            places[piece] = member_path(number, start, size, name, piece.start_s if piece.cut else 0.0)
        first += len(shard)
        progress.add(len(shard))
    _write_manifest(rows, out / MANIFEST, [places[piece] for piece in _pieces(rows, sizes)])
    for part in out.glob(".*.tar.json"):
        part.unlink()
    return len(shards)


def _require_inside(rows: Manifest) -> None:
    for number, path in enumerate(rows.values("path")):
        inside = os.path.normpath(path)
        if os.path.isabs(inside) or inside.partition("/")[0] == "..":
            raise InputError(
                f'row {rows[number].id}: "path" names {rows.root / path}, outside of {rows.root}; mend it, give '
                "another root, or pack such files too with --outside"
            )


def _sizes(rows: Manifest) -> dict[str, tuple[float, float]]:
    """Of each file its bytes, and those of a second of what is cut out of it; 0 where nothing is."""
    sizes = {}
    stretched = {path for path, *times in zip(*map(rows.values, _PIECE), strict=True) if any(times)}
    for path in dict.fromkeys(rows.values("path")):
        sound = rows.root / path
        try:
            size = sound.stat().st_size
        except OSError as error:
            raise InputError(f"{sound}: cannot be read ({error.strerror}); drop its rows") from None
        about = sound_info(sound) if path in stretched else None
        long = about and about.seconds > _LONG_S
        sizes[path] = size, _CUT_BYTES * about.rate * about.channels if long else 0
    return sizes


def _pieces(rows: Manifest, sizes: dict[str, tuple[float, float]]) -> Iterator[Piece]:
    """The piece of each row."""
    for path, start_s, end_s in zip(*map(rows.values, _PIECE), strict=True):
        yield Piece(path, start_s, end_s, True) if sizes[path][1] and (start_s or end_s) else Piece(path)


def _shared_out(
    pieces: list[Piece], sizes: dict[str, tuple[float, float]], megabytes: float, seed: int
) -> list[list[Piece]]:
    """The pieces of each shard."""
    shards, filled = [], np.inf
    for number in np.random.default_rng(seed).permutation(len(pieces)):
        piece = pieces[number]
        size, per_second = sizes[piece.path]
        if piece.cut and piece.end_s:
            size = per_second * (piece.end_s - piece.start_s)
        if filled + size > megabytes * 1e6:
            shards.append([])
            filled = 0
        shards[-1].append(piece)
        filled += size
    return shards


def _require_same_plan(out: Path, plan: dict[str, str]) -> None:
    path = out / _PLAN
    if path.is_file() and _read(path) != plan:
        raise InputError(f"{out}: holds shards of other rows, or of another size or seed; give another folder")
    if (out / MANIFEST).is_file():
        raise InputError(f"{out}: these shards are there already; nothing is left to do")
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(plan))


def _read(path: Path) -> Any:
    """What an earlier run wrote down; None where that is damaged."""
    try:
        return loads(path.read_text())
    except (OSError, ValueError):
        return None


def _read_members(part: Path, count: int) -> list[list[int]]:
    """First byte and size of each sound of a shard, as an earlier run wrote them down."""
    members = _read(part)
    if not isinstance(members, list) or [len(of) for of in members if isinstance(of, list)] != [2] * count:
        raise InputError(f"{part}: damaged; remove it, and start again")
    return members


def _write_shard(
    rows: Manifest, out: Path, shard: list[Piece], pieces: dict[Piece, list[int]], first: int
) -> list[tuple[int, int]]:
    """Writes one tar: each sound with its rows as JSON. First byte and size of each sound."""
    members = []
    with written_whole(out) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, piece in enumerate(shard, first):
            content, suffix = _content(rows.root / piece.path, piece)
            _add(tar, f"{number:09d}.{suffix}", content)
            # The tar is at the end of the sound, filled up to blocks.
            members.append((tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(content)))
            entries = _annotation(rows, pieces[piece], piece.cut)
            _add(tar, f"{number:09d}.json", json.dumps(entries, ensure_ascii=False).encode())
    return members


def _content(sound: Path, piece: Piece) -> tuple[bytes, str]:
    """A piece as it lies in a tar, and the ending of its name: the file as it is, or what is cut out of it.

    Raises:
        InputError: It is no sound.
    """
    if not piece.cut:
        content = sound.read_bytes()
        sound_info(SoundBytes(content, str(sound)))  # what is no sound is not packed, whatever names it
        return content, sound.name.rpartition(".")[2].lower()
    seconds = piece.end_s - piece.start_s if piece.end_s else None
    parts = list(blocks(sound, start_s=piece.start_s, seconds=seconds))
    if not parts:
        raise InputError(f"{sound}: holds no samples from {piece.start_s:g} s on; mend the row's times, or drop it")
    return as_flac(np.concatenate([samples for samples, _ in parts]), parts[0][1])


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times, no owner: the same rows make the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _annotation(rows: Manifest, numbers: list[int], cut: bool) -> dict[str, list[dict]]:
    """The rows of one sound, with an annotation file's keys; one that was cut out is that sound from end to end."""
    entries = []
    for row in (rows[number] for number in numbers):
        entry = {"id": row.id, "path": row.path.name, "text": row.text, "task": row.task, "corpus": row.corpus}
        more = {"duration": row.duration_s, "references": list(row.references), "Q": row.question}
        more |= {"testset_id": row.testset_id} | ({} if cut else {"start": row.start_s, "end": row.end_s})
        entries.append(entry | {key: value for key, value in more.items() if value})
    return {"annotation": entries}


def _write_manifest(rows: Manifest, out: Path, places: list[str]) -> None:
    table = rows.table if rows.indices is None else rows.table.take(pa.array(rows.indices))
    table = table.set_column(SCHEMA.get_field_index("path"), SCHEMA.field("path"), pa.array(places))
    about = {"root": ".", "fingerprint": rows.fingerprint()}
    with (
        written_whole(out) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch)
        about |= sealed(sink, temporary)
        writer.write_batch(pa.RecordBatch.from_pylist([], SCHEMA), custom_metadata=about)
