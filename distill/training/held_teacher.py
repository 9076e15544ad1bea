"""The teacher beside the student: loaded when a stage that asks it begins, gone when one begins that does not."""

import gc
from typing import Literal

import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from distill.models.frozen import frozen_teacher
from distill.recipe.recipe import Recipe
from distill.training.objective import Objective
from teacher.device import DTYPES, get_accelerator, give_back_memory, pick_device
from teacher.quantise import require_quantisation


class HeldTeacher:
    """Holds what of the teacher a stage asks; so a stage that reads the cache has its memory for larger batches.

    What can be known before is asked for when the run starts, not hours later, when the stage begins: that its files
    are there and fit (the student is cut from them then), and that this machine runs it in its precision.

    Args:
        recipe: The run.
        engine: DeepSpeed's, around the objective, which the teacher is given to.

    Raises:
        InputError: This machine cannot run the teacher in its precision.
    """

    def __init__(self, recipe: Recipe, engine: DeepSpeedEngine) -> None:
        self.recipe, self.engine = recipe, engine
        self.parts: Literal["whole", "without_llm"] | None = None
        precision = recipe.teacher.precision.llm
        if recipe.teacher_in_memory and precision not in (None, *DTYPES):
            require_quantisation(precision, pick_device(), DTYPES[recipe.teacher.dtype])

    def hold(self, parts: Literal["whole", "without_llm"] | None) -> None:
        """Has these parts of the teacher in memory and no others; None: nothing of it. All ranks take part.

        Raises:
            InputError: Its files are no longer there.
        """
        if parts == self.parts:
            return
        objective: Objective = self.engine.module
        if objective.teacher is not None:
            objective.teacher.leave()
            objective.teacher = None
            gc.collect()  # models have circles of references
            get_accelerator().empty_cache()
            give_back_memory()
        self.parts = parts
        if parts is not None:
            teacher = frozen_teacher(self.recipe, parts)
            teacher.place(self.recipe, self.engine.device)
            objective.teacher = teacher
        if dist.get_rank() == 0:
            print(f"the teacher {'is in' if parts else 'has left'} memory", flush=True)
