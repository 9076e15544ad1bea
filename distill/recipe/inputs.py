"""What a recipe needs on this machine, asked for before anything is loaded."""

from collections.abc import Iterable
from pathlib import Path

from data.paths import resolve
from distill.recipe.recipe import Recipe
from student.earlier import base_config
from student.llm import missing_llm
from teacher.build import hashed_files, missing_error, missing_parts
from teacher.weights import locate, model_files


def require_inputs(recipe: Recipe, annotations: Iterable[str], *, teacher: bool = True, student: bool = False) -> None:
    """Refuses to start where files are missing.

    Args:
        recipe: The recipe.
        annotations: Its annotation files that are about to be read.
        teacher: Whether its teacher is about to be built.
        student: Whether its student is about to be made.

    Raises:
        InputError: Names everything that is missing at once, where it goes and how to get it.
    """
    missing = missing_parts(recipe.teacher) if teacher else []
    # Who fetches the teacher fetches this with it, also where it is not needed yet.
    if (student or missing) and recipe.student and not recipe.teacher.random_weights:
        missing += missing_llm(recipe.student)
    # Shards may lie anywhere: reading them says what is missing.
    sharded = recipe.data.train if recipe.data.source == "shards" else None
    files = [resolve(path) for path in annotations if path != sharded and not resolve(path).is_file()]
    if files:
        shown = "\n        ".join(map(str, files))
        how = "write it as data/README.md says, or for a mini recipe: bash scripts/setup.sh [--large]"
        missing.append(f"data: {shown}\n    {how}")
    if missing:
        raise missing_error(missing)
    if student and recipe.student and recipe.student.base:
        base_config(recipe.student.base)


def weights_of(recipe: Recipe) -> list[Path]:
    """The files of the models that a run starts from, whose hashes say which run it is."""
    of = recipe.student
    folders = [resolve(start) for start in (of.weights, of.base) if start] if of else []
    if of and of.llm and not recipe.teacher.random_weights:
        folders.append(locate(of.llm))
    return hashed_files(recipe.teacher) + [path for folder in folders for path in model_files(folder)]


def written_together(recipe: Recipe) -> list[Path]:
    """The folders that all processes of a run write into, on whatever host, or read what another one wrote."""
    return [resolve(recipe.runs), resolve(recipe.results), *([resolve(recipe.cache.folder)] if recipe.cache else [])]
