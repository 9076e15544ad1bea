"""What is planned: a recipe's models of sizes alone, its rows by length, its GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from distill.planning.clips import Clips, MicroBatch, clips_within, micro_batch
from distill.planning.states import engine_of
from distill.recipe.deepspeed_block import accumulation
from distill.recipe.recipe import Recipe
from distill.recipe.stages import StageSettings
from distill.training.checking import built, of_sizes
from distill.training.objective import Objective
from distill.training.optimizer import frozen, parameters_by_part
from teacher.hypotheses import LengthCap
from teacher.processor import SalmonnProcessor

_MOST_LENGTHS = 6
_CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Card:
    """The GPUs.

    Attributes:
        number: How many; a process each.
        memory: Bytes of one.
        reserve: Share of it that is left for what is not computed: the driver's context, libraries' workspaces, gaps.
        flops: Operations a second of one, at its best.
        utilisation: Share of them that a training gets.
    """

    number: int
    memory: float
    reserve: float = 0.1
    flops: float = 312e12
    utilisation: float = 0.4

    @property
    def room(self) -> float:
        """Bytes for what is computed here."""
        return self.memory * (1 - self.reserve)


class Setting:
    """A recipe on some GPUs; nothing is loaded.

    Args:
        recipe: The run.
        clips: Its training rows.
        card: Its GPUs.

    Raises:
        InputError: Nothing says the sizes of its models, or they cannot be planned.
    """

    def __init__(self, recipe: Recipe, clips: Clips, card: Card) -> None:
        if (sized := of_sizes(recipe)) is None:
            raise InputError(
                "the recipe states no teacher.shapes, as configs/kd_1b.json does, and its encoder and LLM are not on "
                "this machine"
            )
        self.recipe, self.clips, self.card, self.shaped = recipe, clips, card, built(sized)
        self.student, self.teacher = self.shaped.model, self.shaped.teacher
        self.objective = Objective(self.student, recipe.train.kd, matching=self.shaped.matching)
        self.engine = engine_of(recipe.deepspeed, card.number)
        self.again = "activation_checkpointing" in recipe.deepspeed
        self.accumulation = accumulation(recipe.deepspeed, card.number)
        self.prompts = [_prompt(recipe, processor) for processor in self.shaped.processors]

    @property
    def lengths(self) -> list[float]:
        """Some lengths that clips have, the shortest and the longest among them."""
        return self.clips.seconds[self._some].tolist()

    @property
    def longest(self) -> list[float]:
        """Most text tokens of a clip of each of these lengths."""
        return self.clips.longest[self._some].tolist()

    @property
    def _some(self) -> np.ndarray:
        return np.unique(np.linspace(0, len(self.clips.seconds) - 1, _MOST_LENGTHS).round().astype(int))

    def batches(self, stage: StageSettings, budget_s: float, seconds: float) -> tuple[MicroBatch, MicroBatch]:
        """The largest micro-batch of clips of one length, as the student and as the teacher get it."""
        texts = float(self.clips.longest[np.flatnonzero(self.clips.seconds == seconds)[0]])
        if stage.on_policy:
            own = stage.on_policy.cap(seconds)
            texts = own if stage.on_policy.share == 1 else max(own, texts)
        clips = self.clips_of(stage, budget_s, seconds, texts)
        both = zip((self.student, self.teacher), self.prompts[::-1], strict=True)
        return tuple(micro_batch(model.config, clips, seconds, texts, prompt) for model, prompt in both)

    def clips_of(self, stage: StageSettings, budget_s: float, seconds: float, texts: float) -> int:
        """Clips of a micro-batch, all of one length and of texts of one length."""
        clips = clips_within(self.student.config, seconds, budget_s)
        return max(min(clips, int(stage.max_text_tokens / texts)), 1) if stage.max_text_tokens else clips

    def written(self, clips: int, seconds: float, cap: LengthCap) -> MicroBatch:
        """Clips of one length with the longest texts that the student may write of them."""
        return micro_batch(self.student.config, clips, seconds, cap.cap(seconds), self.prompts[1])

    @contextmanager
    def only(self, stage: StageSettings) -> Iterator[None]:
        """Nothing but what the stage trains needs a gradient."""
        if stage.lr.beats and self.student.beats is not None:
            raise InputError(f"no plan for a BEATs that is trained (stage '{stage.name}'); leave lr.beats out")
        trained = parameters_by_part(self.objective)
        with frozen(of for part, every in trained.items() if not stage.peak_lr(part) for of in every):
            yield


def _prompt(recipe: Recipe, processor: SalmonnProcessor) -> int:
    """Tokens of the longest prompt around its audio tokens; where a tokenizer stands in, by characters."""
    wordings = [wording for of in recipe.data.prompts.values() for wording in of]
    lengths = [len(processor.prompt_ids(wording, 0)) for wording in wordings]
    return max(-(-length // _CHARACTERS_A_TOKEN) for length in lengths)
