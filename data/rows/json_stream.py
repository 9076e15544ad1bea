"""Long lists in JSON files, item by item: memory is that of one item, whatever the file's size."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from data.errors import InputError
from data.strict_json import loads, unique

_BLOCK = 1 << 20
LONGEST_ITEM = 1 << 26
"""Characters: what does not end within them is taken for broken."""
_END = 1 << 16
_CUT = 2
"""Characters of a number that say nothing yet: "e-"."""
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(object_pairs_hook=unique)


def stream_list(
    path: Path,
    key: str,
    *,
    before: dict[str, Any] | None = None,
    behind: dict[str, Any] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """The items of the list under a key of a file that holds one JSON object.

    Args:
        path: The file, in UTF-8.
        key: Of the outermost object.
        before: Is filled with what stands before that key, once the first item is asked for.
        behind: Is filled with what stands behind it, once all items were.
        on_bytes: Is told of bytes as they are read.

    Raises:
        InputError: No such file, not JSON (with the line), a key there twice, or no list under the key.
    """
    before, behind = ({} if found is None else found for found in (before, behind))
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from _items(_Text(file, path, on_bytes), key, before, behind)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it must be a JSON file in UTF-8") from None


def keys_behind(path: Path) -> dict[str, Any]:
    """What stands behind the last list of a file, where its end tells: the few keys that a list is followed by."""
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, 2) - _END, 0))
        end = file.read().decode(errors="replace").rpartition("]")[2].strip().removeprefix(",")
    try:
        return loads("{" + end)
    except ValueError:
        return {}


def _items(text: "_Text", key: str, before: dict[str, Any], behind: dict[str, Any]) -> Iterator[Any]:
    if text.peek() != "{":
        text.value()  # not JSON at all, perhaps
        raise InputError(f'{text.path}: must be {{"{key}": [...]}}; put the list under the key "{key}"')
    text.take("{")
    found, names = False, set()
    while text.peek() != "}":
        name = text.value()
        if not isinstance(name, str) or name in names:
            text.fail(
                "Expecting a key" if not isinstance(name, str) else f"the key {json.dumps(name)[:40]} is there twice"
            )
        names.add(name)
        text.take(":")
        if name == key and text.peek() == "[":
            found = True
            yield from _list(text)
        else:
            (behind if found else before)[name] = text.value()
        if text.peek() != "}":
            text.take(",")
    text.take("}")
    if text.peek():
        text.fail("Extra data")
    if not found:
        raise InputError(f'{text.path}: must be {{"{key}": [...]}}; put the list under the key "{key}"')


def _list(text: "_Text") -> Iterator[Any]:
    text.take("[")
    while text.peek() != "]":
        yield text.value()
        if text.peek() != "]":
            text.take(",")
    text.take("]")


class _Text:
    """A window over a JSON text, moved on as it is taken."""

    def __init__(self, file: TextIO, path: Path, on_bytes: Callable[[int], None] | None) -> None:
        self.file, self.path, self.on_bytes = file, path, on_bytes
        self.window, self.at, self.lines, self.told = "", 0, 0, 0

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self.at = _SPACE.match(self.window, self.at).end()
            if self.at < len(self.window):
                return self.window[self.at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Goes past a character that must come now."""
        if self.peek() != character:
            self.fail(f"Expecting '{character}'")
        self.at += 1

    def value(self) -> Any:
        """Goes past a value, and gives it."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.window, self.at)
            except json.JSONDecodeError as error:
                # It may only be cut by the window's end.
                if len(self.window) - self.at < LONGEST_ITEM and self._more():
                    continue
                self.fail(error.msg, error.pos)
            except (ValueError, RecursionError) as error:  # what Python cannot hold
                self.fail("nested too deep" if isinstance(error, RecursionError) else str(error).split(";")[0])
            if len(self.window) - end > _CUT or not self._more():  # "1" may be what is there of "1.5e-3"
                self.at = end
                return value

    def _more(self) -> bool:
        """Reads on, twice as much as was not enough; False at the file's end."""
        block = self.file.read(max(_BLOCK, len(self.window) - self.at))
        if not block:
            return False
        self.lines += self.window.count("\n", 0, self.at)
        self.window, self.at = self.window[self.at :] + block, 0
        if self.on_bytes is not None:
            read = self.file.buffer.tell()
            self.on_bytes(read - self.told)
            self.told = read
        return True

    def fail(self, reason: str, at: int | None = None) -> NoReturn:
        """Refuses the file, at a place in the window."""
        line = self.lines + self.window.count("\n", 0, self.at if at is None else at) + 1
        raise InputError(f"{self.path}, line {line}: not JSON ({reason}); mend it or write it again") from None
