"""Writes hypotheses.jsonl as the texts come, alone or as one of several processes, and goes on where a run stopped."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from data.kinds import named, set_of
from data.paths import written_whole
from data.rows.row import Row
from teacher.hypotheses import Hypothesis

_KEYS = ("id", "kind", "hypothesis", "batch")


class HypothesisWriter:
    """A context in which hypotheses are appended; `texts` has all of them afterwards, in the first process.

    On entering, lines of another model or another way of writing are dropped, and those of clips that a set that is
    written now has no more. The first process writes into the file itself, each other one into a file beside it, which
    the first takes over at the end, or when it enters next time. One command writes at a time: see `scored_alone`.

    Args:
        path: hypotheses.jsonl.
        identity: Of the model and its way of writing.
        ids: Of the rows of each test set that is written now, by the set's name.
        rank: Number of this process.
        meet: Waits until every process is here; not called where there is one.
        world: Number of processes.
    """

    def __init__(
        self,
        path: Path,
        identity: str,
        ids: Mapping[str, Collection[str]],
        rank: int = 0,
        world: int = 1,
        meet: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.identity, self.rank, self._meet = path, identity, rank, meet if world > 1 else lambda: None
        self._ids = {name: frozenset(of) for name, of in ids.items()}
        self._own = path if rank == 0 else path.with_name(f"{path.stem}.{rank}.jsonl")
        self._written: dict[tuple[str, str], dict] = {}

    def __enter__(self) -> "HypothesisWriter":
        lines = self._read()
        self._meet()  # all have read what there is
        if self.rank == 0:
            self._gather(lines)
        self._meet()
        self._own.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._own.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._file.close()
        if kind is not None:
            return
        self._meet()  # all have written
        if self.rank == 0:
            self._gather(self._read())

    def has(self, name: str, rows: Sequence[Row], batch: str) -> bool:
        """Whether the texts of all rows are there, written in this batch."""
        return all(self._written.get((name, row.id), {}).get("batch") == batch for row in rows)

    def append(self, name: str, out: Hypothesis, batch: str) -> None:
        """Writes one line, at once.

        Args:
            name: The test set's.
            out: The text.
            batch: A hash of the batch that it was written in.
        """
        entry = {
            "id": out.row.id,
            **named(name),
            "task": out.row.task,
            "reference": out.row.text,
            "hypothesis": out.text,
            "logp": None if out.logp is None else round(out.logp, 4),
            "seconds": round(out.seconds, 4),
            "batch": batch,
            "identity": self.identity,
        }
        entry |= {"fault": out.fault} if out.fault else {}
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()

    def texts(self, name: str, rows: Sequence[Row]) -> list[str]:
        """The hypotheses of the rows, in the first process and after the context."""
        return [self._written[name, row.id]["hypothesis"] for row in rows]

    def faults(self, name: str, rows: Sequence[Row]) -> dict[str, str]:
        """Why clips of the rows could not be heard, by id: what was known on entering, and after the context all."""
        written = {row.id: self._written.get((name, row.id), {}) for row in rows}
        return {row_id: entry["fault"] for row_id, entry in written.items() if "fault" in entry}

    def _parts(self) -> list[Path]:
        beside = self.path.parent.glob(f"{self.path.stem}.*.jsonl")
        return sorted(path for path in beside if path.suffixes[-2][1:].isdecimal())

    def _read(self) -> dict[tuple[str, str], bytes]:
        """The lines of this identity by test set and id, the later one of two; what is none of ours does not count."""
        lines = {}
        for path in [self.path, *self._parts()]:
            for line in path.read_bytes().split(b"\n") if path.is_file() else ():
                if (entry := _entry(line)).get("identity") != self.identity:
                    continue
                name, row_id = set_of(entry), entry["id"]
                if row_id in self._ids.get(name, (row_id,)):
                    lines[name, row_id] = line
                    self._written[name, row_id] = entry
        return lines

    def _gather(self, lines: dict[tuple[str, str], bytes]) -> None:
        with written_whole(self.path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in lines.values()))
        for part in self._parts():
            part.unlink()


def _entry(line: bytes) -> dict:
    """What a line holds; nothing where it is half a one, or of another form."""
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    is_ours = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in _KEYS)
    return entry if is_ours and isinstance(entry.get("set", ""), str) else {}
