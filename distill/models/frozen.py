"""A frozen teacher in memory: what it makes of the clips that are trained on, and its distributions on their texts.

Letters: B clips, T positions, N supervised positions of all clips, V vocabulary, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import deepspeed
import torch
from torch import Tensor, nn

from data.errors import InputError
from distill.losses.signals import HeadSignal
from distill.recipe.recipe import Recipe
from teacher.build import build_teacher
from teacher.model import Batch, SalmonnForConditionalGeneration, merge_lora, supervised

T = TypeVar("T")


class FrozenTeacher(nn.Module):
    """The teacher, answering questions without a gradient.

    A question is a function of the model. It is asked within the forward pass of a module because that is where
    DeepSpeed, which may have partitioned the weights, begins to follow which of them are fetched.

    Args:
        model: The teacher, adapters folded in where its LLM is asked.
    """

    def __init__(self, model: SalmonnForConditionalGeneration) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self._engine: list[nn.Module] = [self]  # in a list, nn.Module does not see it

    @torch.no_grad()
    def forward(self, question: Callable[[SalmonnForConditionalGeneration], T]) -> T:
        """What the model answers."""
        return question(self.model)

    def ask(self, question: Callable[[SalmonnForConditionalGeneration], T]) -> T:
        """What the model answers, whether its weights are whole here or partitioned."""
        return self._engine[0](question)

    @contextmanager
    def signal(self, batch: Batch, ids: int, hidden_BTD: Tensor | None = None) -> Iterator[HeadSignal]:
        """Its distributions at the supervised positions; logits come into being for the rows that are asked for.

        Args:
            batch: The clips as the teacher gets them, with their texts.
            ids: Rows of the student's head, which may be more than the teacher's.
            hidden_BTD: Its LLM's last hidden states, where they are there already.
        """
        if hidden_BTD is None:
            hidden_BTD = self.ask(lambda model: model.hidden(batch))
        rows_N, _ = supervised(batch.labels_BT)
        head_VD = self.model.llm.get_output_embeddings().weight
        with deepspeed.zero.GatheredParameters([head_VD], enabled=self._engine[0] is not self):
            yield HeadSignal(hidden_BTD.flatten(0, 1)[rows_N], head_VD, ids)

    def place(self, recipe: Recipe, device: torch.device) -> "FrozenTeacher":
        """Puts the weights on a device; at ZeRO 3, each rank's share of them, by an engine of DeepSpeed's own.

        Raises:
            InputError: Weights of several precisions cannot be partitioned.
        """
        if recipe.deepspeed.get("zero_optimization", {}).get("stage") != 3:
            self.model.to(device)
            return self
        dtypes = {parameter.dtype for parameter in self.model.parameters()}
        if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
            raise InputError(
                "teacher.precision: at ZeRO 3 a teacher in memory is partitioned, and its parts have one precision; "
                "set teacher.dtype alone, or deepspeed.zero_optimization.stage=2"
            )
        self._engine[0], *_ = deepspeed.initialize(
            model=self, config=_partitioned(recipe.deepspeed, dtypes.pop()), dist_init_required=False
        )
        return self


def frozen_teacher(recipe: Recipe) -> FrozenTeacher | None:
    """The recipe's teacher in the precision in which it caches, where a stage asks it; None where none does."""
    if not recipe.teacher_in_memory:
        return None
    model, _ = build_teacher(recipe.teacher)
    if recipe.asks_teacher or "hidden" in recipe.matched:
        merge_lora(model)
    else:
        model.llm = nn.Identity()  # features come from encoder and connector alone
    return FrozenTeacher(model)


def _partitioned(block: dict, dtype: torch.dtype) -> dict:
    """The recipe's ZeRO 3 for a model that is not trained."""
    zero = {key: value for key, value in block["zero_optimization"].items() if key != "offload_optimizer"}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, "steps_per_print": 1_000_000_000}
    names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    if dtype in names:
        config[names[dtype]] = {"enabled": True}
    return config
