"""Which rows are scored: by kind of score, those of its tasks, of the test sets or of the validation sets; each clip
once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

from data.errors import InputError
from data.rows.row import Row
from distill.recipe.rows import read_held_out

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
        tasks: dict[str, None] = {}
        for kind in self.kinds:
            files = recipe.data.valid if self.split == "valid" else filter(None, [recipe.data.test.get(kind)])
            every = [row for path in files for row in read_held_out(recipe, path, texts=self.answers)]
            tasks |= {row.task: None for row in every}
            rows = of_kind(every, kind)
            if self.answers:
                rows = grouped(rows, kind)
            ids = Counter(row.id for row in rows)
            if twice := next((name for name, count in ids.items() if count > 1), None):
                raise InputError(f'id "{twice}" is in two of the {self.split} files; give each clip its own')
            if rows:
                found[kind] = rows[: self.limit]
        if not found:
            found_tasks = f" (their tasks: {', '.join(tasks)})" if tasks else ""
            raise InputError(f"the recipe's {self.split} sets have no rows for {' or '.join(self.kinds)}{found_tasks}")
        return found


def of_kind(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """The rows that are scored so: speech by its words, captions (also `audiocaption_v2`) against references."""
    return [row for row in rows if (row.task == "asr" if kind == "asr" else row.task.startswith("audiocaption"))]


def grouped(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """Captions with all their references: rows of one clip and task, one reference each (AudioCaps), become one.

    Equal references are as many as there are: CIDEr-D is a mean over them. Only a list that several rows of a clip
    repeat is taken once. The clip keeps the id of its first row. Speech stays as it is.
    """
    if kind == "asr":
        return list(rows)
    by_clip: dict[tuple, list[Row]] = {}
    for row in rows:
        by_clip.setdefault((row.path, row.start_s, row.end_s, row.task), []).append(row)
    merged = []
    for clip in by_clip.values():
        lists = dict.fromkeys(row.references for row in clip if len(row.references) > 1)
        single = [text for row in clip if len(row.references) < 2 for text in row.references or (row.text,)]
        merged.append(replace(clip[0], references=tuple([*chain(*lists), *single])))
    return merged
