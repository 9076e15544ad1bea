"""The stages of a training: which losses it is made of, at which weights, and at which rates parts learn."""

import math
from typing import Literal

from pydantic import Field, model_validator

from data.cache.targets import TARGETS, Target
from data.mixing import Mix
from data.settings import Settings
from distill.losses.settings import LossWeights

PARTS = ("encoder", "beats", "connector", "llm")
REACHED_BY = {"llm": {"ce", "kd", "hidden"}}
REACHED_BY |= {part: REACHED_BY["llm"] | {"ctc", "audio_tokens"} for part in ("connector", "beats")}
"""The losses whose gradient comes to a part; all come to the speech encoder."""


class LearningRates(Settings):
    """Peak learning rate of each part; 0 freezes it in this stage: it costs no gradient, and its optimizer rests.

    Of a part with LoRA, only that is trained.
    """

    encoder: float = Field(0.0, ge=0, description="speech encoder")
    beats: float = Field(0.0, ge=0, description="BEATs, where the student keeps it")
    connector: float = Field(0.0, ge=0, description="Q-Former, projection, CTC head")
    llm: float = Field(0.0, ge=0, description="language model")
    projections: float = Field(
        1e-3, ge=0, description="of the student's features to the teacher's width, in stages that match features"
    )


class StageSettings(Settings):
    """One stage of the training; stages run one after the other."""

    name: str = Field(description="shown in the progress line")
    steps: int = Field(ge=1, description="optimizer steps")
    losses: LossWeights
    final_losses: LossWeights | None = Field(
        None, description="weights at the stage's last step, towards which they move; null: they stay"
    )
    curve: Literal["linear", "cosine"] = Field("linear", description="how weights move over the stage")
    lr: LearningRates
    max_seconds: float = Field(60.0, gt=0, description="padded audio seconds of a micro-batch")
    max_text_tokens: int | None = Field(
        None, ge=1, description="padded text tokens of a micro-batch (clips times the longest text); null: not bounded"
    )
    warmup_steps: int = Field(20, ge=0, description="linear warm-up, steps")
    initial_lr: float = Field(0.0, ge=0, le=1, description="where the warm-up starts, as a share of the peak")
    final_lr: float = Field(0.05, ge=0, le=1, description="end of the cosine, as a share of the peak")
    tasks: tuple[str, ...] = Field((), description="tasks trained on; empty: all")
    targets: tuple[Target, ...] = Field(
        TARGETS,
        min_length=1,
        description="texts trained on: the annotation's, the teacher's (all that are good enough), or both, by "
        "train.hypotheses.share; rows without such a text are not in the stage",
    )
    mix: Mix | None = Field(None, description="in place of data.mix in this stage; null: data.mix")

    @model_validator(mode="after")
    def _losses_reach_what_is_trained(self) -> "StageSettings":
        used = {name for name, weight in self.used if weight}
        for part, losses in REACHED_BY.items():
            if getattr(self.lr, part) and used and not used & losses:
                raise ValueError(f"stage '{self.name}' has lr.{part}, but none of its losses reaches it; leave it out")
        return self

    def peak_lr(self, part: str) -> float:
        """The peak learning rate of a part: one of PARTS, or "projections", which rest where nothing is matched."""
        return getattr(self.lr, part) if part in PARTS or self.matched else 0.0

    @property
    def matched(self) -> set[str]:
        """The teacher's features that this stage matches."""
        return self.used.features

    @property
    def used(self) -> LossWeights:
        """The largest weight that each loss ever has: which losses there are."""
        return LossWeights(**{name: max(ends) for name, ends in self._ends().items()})

    def weights_at(self, step: int) -> LossWeights:
        """The weights at a step of the stage, counted from 0."""
        share = step / max(self.steps - 1, 1)
        if self.curve == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return LossWeights(**{name: start + (end - start) * share for name, (start, end) in self._ends().items()})

    def _ends(self) -> dict[str, tuple[float, float]]:
        final = self.final_losses or self.losses
        return {name: (weight, getattr(final, name)) for name, weight in self.losses}
