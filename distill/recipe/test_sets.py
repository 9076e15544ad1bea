"""Which rows are scored: by test set, those of its kind, of the test files or of the validation's; each clip once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

from data.errors import InputError
from data.kinds import KINDS, Kind, kind_of
from data.rows.row import Row
from distill.recipe.rows import read_held_out

if TYPE_CHECKING:  # not loaded: scripts/score.py scores texts without a model's libraries
    from distill.recipe.recipe import Recipe


@dataclass(frozen=True)
class Selection:
    """What of a recipe's held-out sets is scored.

    Attributes:
        names: Test sets by their names; a kind stands for all of its sets.
        split: "test" or "valid", whose sets have no names: there is one a kind.
        limit: The first clips of each set; None for all.
        answers: Whether the rows must have texts to score against; in a submission they need none.
    """

    names: tuple[str, ...] = KINDS
    split: Literal["test", "valid"] = "test"
    limit: int | None = None
    answers: bool = True

    def sets(self, recipe: "Recipe") -> dict[str, tuple[str, ...]]:
        """The annotation files of each selected set, in the recipe's order.

        Raises:
            InputError: A name is of no set of the split.
        """
        every = dict.fromkeys(KINDS, recipe.data.valid)
        if self.split == "test":
            every = {name: (path,) for name, path in recipe.data.test.items()}
        if unknown := [name for name in self.names if name not in every and name not in KINDS]:
            raise InputError(f"the recipe has no {self.split} set {unknown[0]}; it has {', '.join(every) or 'none'}")
        return {name: files for name, files in every.items() if {name, kind_of(name)} & set(self.names)}

    def files(self, recipe: "Recipe") -> list[str]:
        """The annotation files to read."""
        return list(dict.fromkeys(chain(*self.sets(recipe).values())))

    def rows(self, recipe: "Recipe") -> dict[str, list[Row]]:
        """The clips by set, a row each; sets without a row of their kind are left out.

        Raises:
            InputError: As `lines` and `clips`.
        """
        return self.clips(self.lines(recipe))

    def clips(self, lines: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """The clips of all rows of each set: captions with all their references (see `grouped`).

        Raises:
            InputError: Two of a set share an id.
        """
        found = {name: grouped(rows, kind_of(name)) for name, rows in lines.items()}
        for rows in found.values():
            ids = Counter(row.id for row in rows)
            if twice := next((row_id for row_id, count in ids.items() if count > 1), None):
                raise InputError(f'id "{twice}" is in two of the {self.split} files; give each clip its own')
        return {name: rows[: self.limit] for name, rows in found.items()}

    def lines(self, recipe: "Recipe") -> dict[str, list[Row]]:
        """All rows by set as their files have them, also where several are of one clip; limited by nothing.

        Raises:
            InputError: A file is not as it should be, or no row is left.
        """
        found: dict[str, list[Row]] = {}
        tasks: dict[str, None] = {}
        for name, files in self.sets(recipe).items():
            every = [row for path in files for row in read_held_out(recipe, path, texts=self.answers)]
            tasks |= {row.task: None for row in every}
            if rows := of_kind(every, kind_of(name)):
                found[name] = rows
        if not found:
            found_tasks = f" (their tasks: {', '.join(tasks)})" if tasks else ""
            raise InputError(f"the recipe's {self.split} sets have no rows for {' or '.join(self.names)}{found_tasks}")
        return found


def speech_set(recipe: "Recipe") -> str | None:
    """The name of the recipe's first test set of speech; None where it has none."""
    return next((name for name in recipe.data.test if kind_of(name) == "asr"), None)


def speech_file(recipe: "Recipe") -> str | None:
    """The file of that set; None where the recipe has none."""
    return recipe.data.test.get(speech_set(recipe))


def speech_rows(recipe: "Recipe") -> list[Row]:
    """The rows of that file, to be heard: they need no texts.

    Raises:
        InputError: The recipe has none, or the file is not as it should be.
    """
    if (path := speech_file(recipe)) is None:
        raise InputError("the recipe has no test set of speech; name one in data.test")
    return of_kind(read_held_out(recipe, path, texts=False), "asr")


def of_kind(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """The rows that are scored so: speech by its words, captions (also `audiocaption_v2`) against references."""
    return [row for row in rows if (row.task == "asr" if kind == "asr" else row.task.startswith("audiocaption"))]


def clip_of(row: Row, kind: Kind) -> tuple:
    """What rows of one clip have in common; of speech each row is a clip."""
    return (row.id,) if kind == "asr" else (row.path, row.start_s, row.end_s, row.task)


def grouped(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """Captions with all their references: rows of one clip and task, one reference each (AudioCaps), become one.

    Equal references are as many as there are: CIDEr-D is a mean over them. Only a list that several rows of a clip
    repeat is taken once. The clip keeps the id of its first row. Speech stays as it is.
    """
    if kind == "asr":
        return list(rows)
    by_clip: dict[tuple, list[Row]] = {}
    for row in rows:
        by_clip.setdefault(clip_of(row, kind), []).append(row)
    merged = []
    for clip in by_clip.values():
        lists = dict.fromkeys(row.references for row in clip if len(row.references) > 1)
        single = [text for row in clip if len(row.references) < 2 for text in row.references or (row.text,)]
        merged.append(replace(clip[0], references=tuple([*chain(*lists), *single])))
    return merged
