"""The stages of a training: which losses it is made of, at which weights, and at which rates parts learn."""

import math
from typing import Literal

from pydantic import Field, model_validator

from data.cache.targets import TARGETS, Target
from data.mixing import Mix
from data.settings import Settings
from distill.losses.settings import DivergenceSettings, LossWeights
from teacher.hypotheses import LengthCap

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
    connector: float = Field(0.0, ge=0, description="from encoder states to audio tokens; and the CTC head")
    llm: float = Field(0.0, ge=0, description="language model")
    projections: float = Field(
        1e-3, ge=0, description="of the student's features to the teacher's width, in stages that match features"
    )


class OnPolicySettings(LengthCap):
    """On-policy distillation (GKD, Agarwal et al. 2024): the student writes texts, the teacher in memory judges them.

    Nothing else holds the student to texts that it wrote itself: no cross-entropy, no CTC. A text that is cut at the
    cap is learnt from all the same: where it should have ended the teacher says so, at that position.
    """

    max_new_tokens: int = Field(64, ge=1, description="most tokens of a text")
    temperature: float = Field(1.0, gt=0, description="at which the student's texts are drawn")
    top: int | None = Field(
        32,
        ge=1,
        description="the divergence is over the union of so many likeliest ids of teacher and student, and all others "
        "as one; null: over the whole vocabulary",
    )
    end_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the positions where the student ended its text, beside 1 of all others: there is one in "
        "a text at most, and it alone keeps texts from running on",
    )
    share: float = Field(
        1.0, gt=0, le=1, description="share of the stage's steps that are on-policy; the others train on given texts"
    )
    rows_at_once: int | None = Field(
        None, ge=1, description="clips that a process writes about at a time; null: all of its optimizer step"
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
    kd: DivergenceSettings | None = Field(None, description="in place of train.kd's in this stage; null: train.kd")
    on_policy: OnPolicySettings | None = Field(
        None, description="texts that the student writes, in place of given ones; null: given ones"
    )

    @model_validator(mode="after")
    def _losses_reach_what_is_trained(self) -> "StageSettings":
        used = {name for name, weight in self.used if weight}
        for part, losses in REACHED_BY.items():
            if getattr(self.lr, part) and used and not used & losses:
                raise ValueError(f"stage '{self.name}' has lr.{part}, but none of its losses reaches it; leave it out")
        ends = {name: of for name, of in self._ends().items() if any(self._reaches(name, part) for part in PARTS)}
        for number, key in enumerate(("losses", "final_losses")):
            if ends and not any(weights[number] for weights in ends.values()):
                raise ValueError(
                    f"stage '{self.name}': its {key} have no weight that reaches what is trained, so its "
                    f"{('first', 'last')[number]} step would learn from nothing; give one of them a small weight"
                )
        return self

    def _reaches(self, loss: str, part: str) -> bool:
        """Whether a loss that the stage has at some step moves a part that it trains."""
        reached = part == "encoder" or loss in REACHED_BY[part]
        return bool(getattr(self.used, loss) and getattr(self.lr, part) and reached)

    @model_validator(mode="after")
    def _own_texts_are_judged(self) -> "StageSettings":
        if self.on_policy is None:
            return self
        if min(self._ends()["kd"]) <= 0:
            raise ValueError(f"stage '{self.name}' is on_policy: it takes a kd weight from its first step to its last")
        idle = [name for name in ("ce", "ctc") if getattr(self.used, name)]
        if idle and self.on_policy.share == 1:
            raise ValueError(
                f"stage '{self.name}' is on_policy: nothing holds the student to its own texts, so its {idle[0]} "
                "weight never counts; leave it out, or lower on_policy.share"
            )
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

    @property
    def takes_given_texts(self) -> bool:
        """Whether some of its steps train on texts that the student did not write."""
        return self.on_policy is None or self.on_policy.share < 1

    def _ends(self) -> dict[str, tuple[float, float]]:
        final = self.final_losses or self.losses
        return {name: (weight, getattr(final, name)) for name, weight in self.losses}
