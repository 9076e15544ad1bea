"""Which rows are scored: by kind of score, of the test sets or of the validation sets, each clip once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from data.errors import InputError
from data.paths import resolve
from data.rows.manifest import read_manifest
from data.rows.row import Row

if TYPE_CHECKING:  # not loaded: scripts/score.py scores texts without a model's libraries
    from distill.recipe.recipe import Recipe

Kind = Literal["asr", "aac"]
KINDS: tuple[Kind, ...] = ("asr", "aac")


@dataclass(frozen=True)
class Selection:
    """What of a recipe's held-out sets is scored.

    Attributes:
        kinds: Kinds of score.
        split: "test" or "valid".
        limit: The first clips of each kind; None for all.
        answers: Whether the rows must have texts to score against; in a submission they need none, and every row
            counts, also where several are of one clip.
    """

    kinds: tuple[Kind, ...] = KINDS
    split: Literal["test", "valid"] = "test"
    limit: int | None = None
    answers: bool = True

    def files(self, recipe: "Recipe") -> list[str]:
        """The annotation files to read."""
        if self.split == "valid":
            return list(recipe.data.valid)
        return [path for kind, path in recipe.data.test.items() if kind in self.kinds]

    def rows(self, recipe: "Recipe") -> dict[Kind, list[Row]]:
        """The rows by kind; kinds without a row are left out.

        Raises:
            InputError: A file is not as it should be, two of a kind share an id, or no row is left.
        """
        found: dict[Kind, list[Row]] = {}
        for kind in self.kinds:
            if self.split == "test":
                files = [recipe.data.test[kind]] if kind in recipe.data.test else []
                rows = [row for path in files for row in self._read(recipe, path)]
            else:
                rows = [row for path in recipe.data.valid for row in of_kind(self._read(recipe, path), kind)]
            if self.answers:
                rows = grouped(rows, kind)
            ids = [row.id for row in rows]
            if len(set(ids)) < len(ids):
                twice = next(name for name in ids if ids.count(name) > 1)
                raise InputError(f'id "{twice}" is in two of the {self.split} files; give each clip its own')
            if rows:
                found[kind] = rows[: self.limit]
        if not found:
            raise InputError(f"the recipe's {self.split} sets have no rows for {' or '.join(self.kinds)}")
        return found

    def _read(self, recipe: "Recipe", path: str) -> list[Row]:
        return read_manifest(resolve(path), texts=self.answers)[: recipe.data.limit]


def of_kind(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """The rows that are scored so: speech by its words, captions (also `audiocaption_v2`) against references."""
    return [row for row in rows if (row.task == "asr" if kind == "asr" else row.task.startswith("audiocaption"))]


def grouped(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """Captions with all their references: rows of one clip and task, one reference each (AudioCaps), become one.

    The clip keeps the id of its first row. Speech stays as it is.
    """
    if kind == "asr":
        return list(rows)
    by_clip: dict[tuple, list[Row]] = {}
    for row in rows:
        by_clip.setdefault((row.path, row.start_s, row.end_s, row.task), []).append(row)
    merged = []
    for clip in by_clip.values():
        references = [text for row in clip for text in row.references or (row.text,)]
        merged.append(replace(clip[0], references=tuple(dict.fromkeys(references))))
    return merged
