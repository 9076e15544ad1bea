"""A look at a recipe before it is trained: what would be refused, and what will be trained; no weight is loaded.

The models are built of sizes alone, on the meta device: of the parts' own configurations where they are on this
machine, else of the recipe's `shapes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from data.errors import InputError
from data.paths import resolve
from data.ranks import launched_world
from data.rows.manifest import Manifest
from distill.losses.matching import FeatureMatching
from distill.models.students import processor_of, student_of
from distill.recipe.deepspeed_block import accumulation
from distill.recipe.inputs import require_inputs
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from distill.recipe.stages import PARTS, StageSettings
from distill.training.building import train_parts
from student.earlier import model_folder
from student.llm import own_tokenizer, shapes_of_llm
from teacher.build import build_teacher, load_tokenizer, shapes_of_files
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor
from teacher.settings import ShapeSettings
from teacher.weights import locate

T = TypeVar("T")


@dataclass(frozen=True)
class Shaped:
    """The models of a recipe, of sizes alone.

    Attributes:
        teacher: The teacher, with its adapters.
        model: The model that is trained; what some stage trains of it needs a gradient.
        processors: The teacher's and the model's, with a tokenizer that stands in.
        matching: The feature losses, where a stage has one.
    """

    teacher: SalmonnForConditionalGeneration
    model: SalmonnForConditionalGeneration
    processors: tuple[SalmonnProcessor, SalmonnProcessor]
    matching: FeatureMatching | None = None


def check(recipe: Recipe) -> tuple[str, list[str]]:
    """Looks at a recipe's files, rows and shapes.

    Returns:
        What will be trained, for people; and what would be refused, a line each.
    """
    refused: list[str] = []

    def tried(what: Callable[[], T]) -> T | None:
        try:
            return what()
        except InputError as error:
            refused.extend(str(error).split("\n"))
            return None

    files = [recipe.data.train, *recipe.data.valid]
    tried(lambda: require_inputs(recipe, files, student=True))
    told = [f"{recipe.name}: {recipe.total_steps:,} steps in {len(recipe.train.stages)} stages"]
    sharded = recipe.data.train if recipe.data.source == "shards" else None
    there = [path for path in files if path == sharded or resolve(path).is_file()]
    rows = {path: tried(lambda path=path: read_rows(recipe, path)) for path in there}
    told += [f"{path}: {_counted(of)}" for path, of in rows.items() if of is not None]
    tried(lambda: _require_tokenizers(recipe))
    if (sized := tried(lambda: of_sizes(recipe))) is not None and (shaped := tried(lambda: built(sized))) is not None:
        told += _parts(shaped.model)
        if recipe.student and isinstance(recipe.student.encoder_rank, float):
            told.append("(student.encoder_rank: a share; how many parameters that leaves is known when it is built)")
    told += [_stage(recipe, stage, rows.get(recipe.data.train)) for stage in recipe.train.stages]
    if recipe.trains_from_cache:
        begun = (resolve(recipe.cache.folder) / "identity.json").is_file()
        told.append(f"cache: {recipe.cache.folder}" + ("" if begun else " (still to be filled: cache_teacher.sh)"))
    return "\n".join(told), refused


def _require_tokenizers(recipe: Recipe) -> None:
    """Refuses a student's LLM of a vocabulary that the recipe does not ask for, where both tokenizers are here."""
    names = [recipe.teacher.llm, recipe.student.llm] if recipe.student and recipe.student.llm else []
    if names and not recipe.teacher.random_weights and all((locate(of) / "config.json").is_file() for of in names):
        universal = recipe.train.kd.vocabulary == "universal"
        own_tokenizer(recipe.student, load_tokenizer(recipe.teacher.llm), universal=universal)


def of_sizes(recipe: Recipe) -> Recipe | None:
    """The recipe at random weights, its parts' sizes those of their files; None where neither says them.

    Raises:
        InputError: There is no model that the student is to start from.
    """
    shapes = recipe.teacher.shapes
    if found := shapes_of_files(recipe.teacher.model_copy(update={"beats": None})):
        shapes = ShapeSettings(**found, **({"beats": shapes.beats} if shapes else {}))
    if shapes is None:
        return None  # its files are missing, which is told
    teacher = recipe.teacher.model_copy(update={"random_weights": True, "shapes": shapes})
    student = recipe.student
    if student:
        if student.weights:
            model_folder("student.weights", student.weights)
        changes = {"weights": None, "llm_shapes": shapes_of_llm(student) or student.llm_shapes}
        if isinstance(student.encoder_rank, float):
            changes["encoder_rank"] = None
        student = student.model_copy(update=changes)
    return recipe.model_copy(update={"teacher": teacher, "student": student})


def built(recipe: Recipe) -> Shaped:
    """A recipe's models on the meta device; the recipe is one of sizes (`of_sizes`).

    Raises:
        InputError: They cannot be made so, or have no such layers.
    """
    with torch.device("meta"):
        teacher, hears = build_teacher(recipe.teacher, torch.float32)
        model, own, matching = teacher, hears, None
        if recipe.student:
            model = student_of(recipe, teacher, hears)
            own = processor_of(recipe, model, hears)
        train_parts(recipe, model)
        if recipe.matched:
            matching = FeatureMatching(model, hears.config, recipe.train.match, recipe.matched)
    return Shaped(teacher, model, (hears, own), matching)


def _counted(rows: Manifest) -> str:
    return f"{len(rows):,} rows, {rows.durations_s.sum() / 3600:,.2f} hours"


def _parts(model: SalmonnForConditionalGeneration) -> list[str]:
    """Parameters of each part, in all and trained."""
    lines = [f"{'part':<12}{'parameters, M':>16}{'trained, M':>16}"]
    for part in PARTS:
        if (module := getattr(model, part)) is not None:
            numbers = [
                sum(of.numel() for of in module.parameters() if of.requires_grad or every) for every in (True, False)
            ]
            lines.append(f"{part:<12}" + "".join(f"{number / 1e6:>16,.3f}" for number in numbers))
    return lines


def _stage(recipe: Recipe, stage: StageSettings, rows: Manifest | None) -> str:
    """One stage in a line: steps, losses, rates, texts, and how often it goes through its rows."""
    losses = ", ".join(f"{name} {weight:g}" for name, weight in stage.used if weight)
    rates = ", ".join(f"{part} {stage.peak_lr(part):g}" for part in PARTS if stage.peak_lr(part))
    texts = " and ".join(sorted(recipe.trained_on(stage))) or "none"
    texts = "its own" if stage.on_policy and stage.on_policy.share == 1 else texts
    heard_s = stage.steps * stage.max_seconds * accumulation(recipe.deepspeed, launched_world())
    if rows is not None and stage.tasks:
        rows = rows.where(rows.among("task", stage.tasks))
    seconds = 0 if rows is None else rows.durations_s.sum()
    often = f"; at most {heard_s / seconds:,.1f} epochs a process" if seconds else ""
    memory = "; the teacher in memory" if recipe.in_memory(stage) else ""
    return f"stage {stage.name}: {stage.steps:,} steps; losses: {losses}; rates: {rates}; texts: {texts}{often}{memory}"
