"""A frozen teacher in memory: what it makes of the clips that are trained on, and its distributions on their texts.

Letters: B clips, T positions, N supervised positions of all clips, V vocabulary, D width.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Literal

import torch
from torch import Tensor, nn

from distill.losses.matching import FeatureMatching, TeacherFeatures
from distill.losses.signals import HeadSignal
from distill.recipe.recipe import Recipe
from teacher.build import build_teacher
from teacher.model import Batch, SalmonnForConditionalGeneration, merge_lora

with redirect_stdout(sys.stderr):  # see teacher/device.py
    import deepspeed


class FrozenTeacher:
    """The teacher, asked without a gradient.

    Args:
        model: The teacher, adapters folded in where its LLM is asked.
    """

    def __init__(self, model: SalmonnForConditionalGeneration) -> None:
        self.model = model.eval().requires_grad_(False)
        self._module: nn.Module = _Asked(self.model)

    def features(
        self, matching: FeatureMatching, batch: Batch, frames_B: Tensor, names: set[str], llm: bool
    ) -> TeacherFeatures:
        """What it makes of a batch (see `FeatureMatching.answer`)."""
        return self._module(batch, matching, frames_B, names, llm)

    @contextmanager
    def signal(self, batch: Batch, vocab_size: int, hidden_BTD: Tensor | None = None) -> Iterator[HeadSignal]:
        """Its distributions at the supervised positions; logits come into being for the rows that are asked for.

        Args:
            batch: The clips as the teacher gets them, with their texts.
            vocab_size: Rows of the student's head, which may be more than the teacher's.
            hidden_BTD: Its LLM's last hidden states, where they are there already.
        """
        if hidden_BTD is None:
            hidden_BTD = self._module(batch).hidden_BTH
        head_VD = self.model.llm.get_output_embeddings().weight
        with deepspeed.zero.GatheredParameters([head_VD]):
            yield HeadSignal(hidden_BTD.flatten(0, 1)[batch.rows_N], head_VD, vocab_size)

    def place(self, recipe: Recipe, device: torch.device) -> None:
        """Puts the weights on a device; at ZeRO 3, each rank's share of them, by an engine of DeepSpeed's own.

        (Its parts are of one precision there: the recipe says so.)
        """
        if recipe.deepspeed.get("zero_optimization", {}).get("stage") != 3:
            self.model.to(device)
            return
        dtype = next(self.model.parameters()).dtype
        self._module, *_ = deepspeed.initialize(
            model=self._module, config=_partitioned(recipe.deepspeed, dtype), dist_init_required=False
        )

    def leave(self) -> None:
        """Asked no more after this, so that its weights go with the last reference to it.

        At ZeRO 3 they would not: DeepSpeed's hooks keep the modules for good, and so the weights are emptied.
        """
        if not isinstance(self._module, deepspeed.DeepSpeedEngine):
            return
        self._module.destroy()
        for parameter in self.model.parameters():
            for tensor in (parameter, parameter.ds_tensor):
                tensor.data = tensor.data.new_empty(0)


class _Asked(nn.Module):
    """All that is asked of a model, in one forward pass: DeepSpeed fetches partitioned weights within one alone."""

    def __init__(self, model: SalmonnForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(
        self,
        batch: Batch,
        matching: FeatureMatching | None = None,
        frames_B: Tensor | None = None,
        names: set[str] = frozenset(),
        llm: bool = True,
    ) -> TeacherFeatures:
        """The features that are matched; without `matching` the LLM's last hidden states alone."""
        if matching is None:
            return TeacherFeatures(hidden_BTH=self.model.hidden(batch))
        return matching.answer(self.model, batch, frames_B, names, llm)


def frozen_teacher(recipe: Recipe, parts: Literal["whole", "without_llm"]) -> FrozenTeacher:
    """The recipe's teacher in the precision in which it caches.

    What is untrained of it (without `teacher.weights`) is the same on every rank and whenever in a run it is loaded; in
    fp32, that of which the student was cut.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model, _ = build_teacher(recipe.teacher, with_llm=parts == "whole")
    if parts == "whole":
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
