"""Settings of the losses: their weights, the divergence from the teacher, and how features are matched."""

from typing import Any, Literal

from pydantic import Field, model_validator

from data.settings import Settings
from distill.losses.distances import Distance
from distill.losses.divergences import DivergenceName

MATCHED = ("encoder", "audio_tokens", "hidden", "beats")
"""What losses may hold against the teacher's."""
LAST = -1
"""What comes out of a stack of layers: behind its last norm."""

Pairs = tuple[tuple[int, int], ...]
_PAIRS = (
    "pairs of a layer of the student's {} and one of the teacher's, counted from 0, whose outputs are matched; -1: "
    "what comes out of the whole, normed; the loss is the mean over the pairs"
)


class MatchSettings(Settings):
    """How features are held against the teacher's (`distill.losses.distances.distance` says what the distances are)."""

    encoder: Distance = Field("relative", description="distance of encoder states")
    encoder_layers: Pairs = Field(((LAST, LAST),), min_length=1, description=_PAIRS.format("encoder"))
    audio_tokens: Distance = Field("relative", description="distance of audio tokens")
    hidden: Distance = Field("relative", description="distance of the LLM's hidden states")
    hidden_layers: Pairs = Field(((LAST, LAST),), min_length=1, description=_PAIRS.format("LLM"))
    beats: Distance = Field("relative", description="distance of projected encoder states from BEATs' states")
    spread_clips: int = Field(
        64, ge=1, description="relative: training clips on which the teacher's features are measured, once"
    )


class DivergenceSettings(Settings):
    """How far two distributions are apart."""

    divergence: DivergenceName = Field("forward_kl", description="which divergence")
    beta: float = Field(0.5, gt=0, lt=1, description="js: the teacher's share in the mixture")
    alpha: float = Field(0.1, gt=0, lt=1, description="skew ones: the share of what the expectation is over")
    tail: Literal["even", "bucket"] | None = Field(
        None,
        description="cached ids that were not kept: each known by an even part of their sum, or by that sum alone "
        "(bucket); null: even with forward_kl at temperature 1, whose gradient is then nearer to that from the whole "
        "distribution (results/published/cache_fidelity.md), else bucket (results/README.md)",
    )
    temperature: float = Field(
        1.0, gt=0, description="softens both distributions; the loss is multiplied by its square"
    )

    @model_validator(mode="before")
    @classmethod
    def _tail_that_is_nearer(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("tail") is None:
            usual = tree.get("divergence", "forward_kl") == "forward_kl" and tree.get("temperature", 1) == 1
            return tree | {"tail": "even" if usual else "bucket"}
        return tree


class KdSettings(DivergenceSettings):
    """The divergence between teacher and student."""

    vocabulary: Literal["same", "universal"] = Field(
        "same",
        description="how distributions are compared: id by id; or, where student.llm has a vocabulary of another kind, "
        "sorted, by the sum of their differences, mean over spans of the text (universal logit distillation)",
    )


class LossWeights(Settings):
    """Weight of each loss; a loss of weight 0 is not computed."""

    ce: float = Field(0.0, ge=0, description="cross-entropy on the text, mean over supervised tokens")
    kd: float = Field(
        0.0, ge=0, description="divergence from the teacher's distribution, mean over supervised tokens (or spans)"
    )
    ctc: float = Field(0.0, ge=0, description="CTC of audio tokens against the LLM's embeddings, mean over text tokens")
    encoder: float = Field(0.0, ge=0, description="distance of encoder states from the teacher's, mean over frames")
    audio_tokens: float = Field(0.0, ge=0, description="distance of audio tokens from the teacher's, mean over them")
    hidden: float = Field(
        0.0, ge=0, description="distance of the LLM's hidden states from the teacher's, mean over supervised tokens"
    )
    beats: float = Field(
        0.0,
        ge=0,
        description="distance of projected encoder states from the teacher's BEATs, mean over columns of 160 ms: what "
        "a student without BEATs is to hear of sounds",
    )

    @property
    def texts(self) -> bool:
        """Whether one of them asks for a text."""
        return any((self.ce, self.kd, self.ctc, self.hidden))

    @property
    def features(self) -> set[str]:
        """The teacher's features that are matched."""
        return {name for name in MATCHED if getattr(self, name)}
