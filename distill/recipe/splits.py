"""What of a recipe's rows the teacher caches, and its cached texts of the validation rows."""

from dataclasses import dataclass
from typing import Literal

from data.cache.reader import CacheReader
from data.errors import InputError
from data.paths import resolve
from data.prompts import Prompts
from data.rows.manifest import Manifest, joined
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from teacher.cache import CacheSettings, cache_identity
from teacher.processor import SalmonnProcessor

SplitName = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Split:
    """Rows with the prompts and the cache that they have.

    Attributes:
        rows: Of all files of the split.
        prompts: All wordings in training, the first alone elsewhere.
        cache: In the recipe's folder, or for other splits in one beside it.
    """

    rows: Manifest
    prompts: Prompts
    cache: CacheSettings


def files_of(recipe: Recipe, split: SplitName) -> tuple[str, ...]:
    """The annotation files of a split, each once: test sets of two kinds may be of one file."""
    data = recipe.data
    return {"train": (data.train,), "valid": data.valid, "test": tuple(dict.fromkeys(data.test.values()))}[split]


def read_split(recipe: Recipe, split: SplitName) -> Split:
    """Reads the rows of a split; the recipe has a cache section.

    Raises:
        InputError: A file is not as it should be, or two rows have one id.
    """
    files, cache, prompts = files_of(recipe, split), recipe.cache, recipe.data.prompts
    if split != "train":
        # Held-out rows are cached for the teacher's texts.
        texts = cache.hypotheses is not False
        cache = cache.model_copy(update={"folder": f"{cache.folder}_{split}", "hypotheses": texts})
        prompts = {task: wordings[:1] for task, wordings in prompts.items()}
    return Split(joined([read_rows(recipe, path) for path in files]), prompts, cache)


def validation_texts(recipe: Recipe, processor: SalmonnProcessor) -> dict[str, str]:
    """What the teacher wrote for validation rows, by their ids, where `--split valid` was cached for this recipe.

    The texts are only looked at: a cache of something else is said to be so, and left.

    Args:
        recipe: The recipe.
        processor: The teacher's.
    """
    if (
        recipe.cache is None
        or not recipe.data.valid
        or not (resolve(f"{recipe.cache.folder}_valid") / "identity.json").is_file()
    ):
        return {}
    try:
        split = read_split(recipe, "valid")
        identity = cache_identity(recipe.teacher, split.cache, recipe.generation, split.prompts, split.rows, processor)
        return {row.id: row.hypothesis or "" for row in CacheReader(resolve(split.cache.folder), identity).rows()}
    except InputError as error:
        print(f"validation is shown without the teacher's texts: {error}", flush=True)
        return {}
