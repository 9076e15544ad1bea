"""The files of a corpus: walked once, and found under the names that its lists give them."""

import fnmatch
import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data.errors import InputError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
"""Endings of sound files, in the order in which they are preferred."""


class Files:
    """The files below a folder, or one file alone.

    The folder is walked when it is first asked by a pattern or by the name of a sound, and once. Links are followed,
    but no folder is entered twice, and real ones come first. Passed over is what Macs, editors and notebooks leave:
    names that begin with a dot, and `__MACOSX`.

    Args:
        place: The folder, or the file.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place.parent if place.is_file() else place

    def named(self, *patterns: str) -> list[Path]:
        """The files whose name fits one of some patterns in either case, sorted; `FOLDER/` before one asks for that."""
        asked = [os.path.split(pattern.lower()) for pattern in patterns]
        return sorted(
            Path(folder, name)
            for folder, names in self._tree.items()
            for name in names
            if any(
                fnmatch.fnmatchcase(name.lower(), pattern) and within in ("", os.path.basename(folder).lower())
                for within, pattern in asked
            )
        )

    def only(self, *patterns: str) -> Path | None:
        """The one file that fits some patterns; None if there is none.

        Raises:
            InputError: There are several.
        """
        found = self.named(*patterns)
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1]}: two lists of the same; name the folder of one as --lists")
        return found[0] if found else None

    def at(self, name: str) -> Path | None:
        """The file at a place below the folder.

        Names are also tried as other systems write them: in the other form of Unicode, with backslashes, with their
        ending in the other case, without blanks around them.
        """
        paths = (self.folder / spelt for spelt in _spellings(name.lstrip("/")))
        return next((path for path in paths if is_file(path)), None)

    def sound(self, *stems: str, within: str = "", beside: Path | None = None) -> Path | None:
        """The sound of the first of these names (without ending) that there is.

        Args:
            stems: Names, the best first.
            within: A folder on the way to it, as its name alone.
            beside: A folder that is preferred.
        """
        for stem in stems:
            found = self._sounds.get(_key(stem), ())
            if within and within != self.folder.resolve().name:
                found = [path for path in found if within in Path(path).relative_to(self.folder).parts[:-1]]
            if found:
                return Path(min(found, key=lambda path: _rank(path, stem, beside)))
        return None

    @cached_property
    def _tree(self) -> dict[str, list[str]]:
        """Names of files by their folder."""
        if self.place.is_file():
            return {str(self.folder): [self.place.name]}
        tree: dict[str, list[str]] = {}
        seen: set[tuple[int, int]] = set()
        waiting, links = [str(self.folder)], []
        while waiting or links:
            folder = (waiting or links).pop()
            try:
                state = os.stat(folder)
                if (state.st_dev, state.st_ino) in seen:
                    continue
                seen.add((state.st_dev, state.st_ino))
                entries = [entry for entry in os.scandir(folder) if not _left_behind(entry.name)]
                for entry in entries:
                    if entry.is_dir():
                        (links if entry.is_symlink() else waiting).append(entry.path)
                tree[folder] = [entry.name for entry in entries if entry.is_file()]
            except OSError as error:
                # Such as lost+found, where a disk is the corpus's own.
                print(f"note: {folder}: cannot be read ({error.strerror}), passed over", file=sys.stderr, flush=True)
        return tree

    @cached_property
    def _sounds(self) -> dict[str, list[str]]:
        """Paths of sounds by the key of their name."""
        by_stem: dict[str, list[str]] = {}
        for folder, names in self._tree.items():
            for name in names:
                stem, ending = os.path.splitext(name)
                if ending.lower() in SOUNDS:
                    by_stem.setdefault(_key(stem), []).append(os.path.join(folder, name))
        return by_stem


def is_file(path: Path) -> bool:
    """Whether there is such a file; no name is too odd to ask."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _key(stem: str) -> str:
    """What the spellings of one name have in common: lists lose blanks around it, Macs take accents apart."""
    return unicodedata.normalize("NFC", stem).strip()


def _rank(path: str, stem: str, beside: Path | None) -> tuple[bool, bool, int, str]:
    """The best of several files of a name has the smallest."""
    folder, name = os.path.split(path)
    own, ending = os.path.splitext(name)
    return beside is not None and folder != str(beside), own != stem, SOUNDS.index(ending.lower()), path


def _spellings(name: str) -> Iterator[str]:
    yield name
    for trimmed in dict.fromkeys((name, name.strip())):
        for slashed in dict.fromkeys((trimmed, trimmed.replace("\\", "/"))):
            for form in ("NFC", "NFD") if not slashed.isascii() else ("NFC",):
                stem, ending = os.path.splitext(unicodedata.normalize(form, slashed))
                yield from dict.fromkeys((stem + ending, stem + ending.lower(), stem + ending.upper()))
