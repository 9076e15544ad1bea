"""What tells rows apart: an id for each, and a hash over all."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from data.errors import InputError

_PLAIN = ("", 0.0, 0.0, "first")
"""Question, start, end and channels of most rows: an answer to no question, over a whole file's first channel."""


class RowsDigest:
    """A running hash over rows: that of one JSON list of them.

    Of the sounds it knows the files' names; for their content see `data.rows.manifest.sounds_of`.
    """

    COLUMNS = ("id", "path", "task", "text", "duration_s", "question", "start_s", "end_s")

    def __init__(self) -> None:
        self._digest, self._waiting, self._begun = hashlib.sha256(b"["), [], False

    def add(self, id: str, path: str, task: str, text: str, duration_s: float, *more: Any) -> None:
        """Takes in one row: the values of `COLUMNS`, and what is heard of several channels."""
        values = [id, path.rpartition("/")[2], task, text, round(duration_s, 3)]
        if more != _PLAIN:
            values += more
        self._waiting.append(values)
        if len(self._waiting) >= 1024:  # encoded one by one, they would take several times as long
            self._encode()

    def hexdigest(self) -> str:
        """The hash of the rows so far."""
        if self._waiting:
            self._encode()
        whole = self._digest.copy()
        whole.update(b"]")
        return whole.hexdigest()

    def _encode(self) -> None:
        rows = json.dumps(self._waiting, separators=(",", ":"))[1:-1]
        self._digest.update((b"," if self._begun else b"") + rows.encode())
        self._waiting, self._begun = [], True


class FreeNames:
    """Names with the first free number behind them: a, a#2, a#3, ...

    What is taken once stays so: a name goes on from its last number, else the rows of one recording would take time by
    the square of their number.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def first(self, name: str, is_free: Callable[[str], bool]) -> str:
        """The first one that is free; from then on it is not."""
        key = _key(name)
        number = self._last.get(key, 0) + 1
        while not is_free(unique := name if number == 1 else f"{name}#{number}"):
            number += 1
        if number > 1:  # of most names there is one row
            self._last[key] = number
        return unique


class Ids:
    """Sees to it that the rows of a manifest have ids of their own (8 bytes of a hash are kept of each)."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self._made = FreeNames()

    def take(self, where: str, entry: dict[str, Any]) -> str:
        """The row's id, or one made of path and task with the first free number behind it."""
        if entry["id"]:
            if not self._free(entry["id"]):
                raise InputError(f'{where}: id "{entry["id"]}" is there twice; give each row its own "id"')
            return entry["id"]
        return self._made.first(f"{entry['path']}#{entry['task']}", self._free)

    def has(self, name: str) -> bool:
        """Whether a row has this id; no row has an empty one."""
        return bool(name) and _key(name) in self.taken

    def _free(self, name: str) -> bool:
        key = _key(name)
        if key in self.taken:
            return False
        self.taken.add(key)
        return True


def _key(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
