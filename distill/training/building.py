"""What a run is made of, from its recipe: the objective with what is trained of it, and what makes its examples."""

import torch

from data.cache.reader import CacheReader
from data.rows.manifest import Manifest
from distill.losses.alignment import Alignment
from distill.losses.ctc import CtcHead
from distill.losses.matching import FeatureMatching
from distill.recipe.recipe import Recipe
from distill.recipe.stages import PARTS
from distill.training.examples import Examples
from distill.training.objective import Objective
from student.shrink import set_trainable
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor


def build_objective(
    recipe: Recipe,
    student: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    rows: Manifest,
    teacher_processor: SalmonnProcessor | None = None,
) -> Objective:
    """The losses over the student, of which what a stage trains needs a gradient; no teacher is in memory yet.

    Args:
        recipe: The run.
        student: The model to train.
        processor: Its processor.
        rows: Training rows.
        teacher_processor: The teacher's, where a stage matches features.
    """
    train_parts(recipe, student)
    ctc = matching = None
    if any(stage.used.ctc for stage in recipe.train.stages):
        ctc = _ctc_head(recipe.seed, student, processor, rows)
    if recipe.matched:
        torch.manual_seed(recipe.seed)
        matching = FeatureMatching(student, teacher_processor.config, recipe.train.match, recipe.matched)
    return Objective(student, recipe.train.kd, ctc, matching=matching)


def train_parts(recipe: Recipe, student: SalmonnForConditionalGeneration) -> None:
    """Leaves a gradient to what some stage trains."""
    trained = {part for part in PARTS if any(getattr(stage.lr, part) for stage in recipe.train.stages)}
    set_trainable(student, trained, embeddings=bool(recipe.student and recipe.student.train_embeddings))


def _ctc_head(
    seed: int, student: SalmonnForConditionalGeneration, processor: SalmonnProcessor, rows: Manifest
) -> CtcHead:
    """Classes are the ids of the training texts, whatever the stage."""
    ids = {token for text in rows.values("text") for token in processor.text_ids(text)}
    torch.manual_seed(seed)
    return CtcHead(student.get_input_embeddings().weight.float(), sorted(ids - {student.config.eos_token_id}))


def build_examples(
    recipe: Recipe,
    processor: SalmonnProcessor,
    rows: Manifest,
    cache: CacheReader | None = None,
    teacher_processor: SalmonnProcessor | None = None,
    *,
    quiet: bool = True,
) -> Examples:
    """What makes the run's examples; its `teacher_processor` is None where the student's batch serves the teacher too.

    Args:
        recipe: The run.
        processor: The student's.
        rows: Training rows.
        cache: The teacher's cache, where a stage trains on what it holds.
        teacher_processor: The teacher's, where a stage trains on anything of the teacher's.
        quiet: Do not print how many of the teacher's texts are trained on.
    """
    alignment = Alignment(processor, teacher_processor) if recipe.train.kd.vocabulary == "universal" else None
    asked = recipe.teacher_in_memory or "beats" in recipe.matched
    if not asked or processor.hears_like(teacher_processor.config):
        teacher_processor = None
    return Examples(recipe, processor, rows, cache, teacher_processor, alignment, quiet=quiet)
