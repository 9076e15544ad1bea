"""The plan of a run: memory of each stage by part, its largest budget, steps, operations and hours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from distill.planning.activations import Kept, needs_gradient, of_connector, of_encoder, of_llm, passing
from distill.planning.clips import Clips, MicroBatch, clips_within, heard_seconds, micro_batch
from distill.planning.linears import Sizes, Work
from distill.planning.operations import asked_work, connector_work, encoder_work, llm_work
from distill.planning.states import engine_of
from distill.planning.transient import loss_bytes, matched_bytes, targets_bytes, writing_bytes
from distill.recipe.recipe import Recipe
from distill.recipe.stages import StageSettings
from distill.training.checking import built, of_sizes
from distill.training.objective import Objective
from distill.training.optimizer import frozen, parameter_groups, parameters_by_part
from teacher.hypotheses import LengthCap
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor

_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "bnb_int8": 1.0, "int4": 0.5, "bnb_nf4": 0.5}
_MOST_LENGTHS = 6
_MOST_S = 100_000
_FP32 = 4


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


@dataclass(frozen=True)
class Times:
    """What a stage takes.

    Attributes:
        steps_an_epoch: Optimizer steps in which all clips are heard once.
        flop_a_step: Operations of one GPU in an optimizer step.
        hours: Of all its steps.
    """

    steps_an_epoch: float
    flop_a_step: float
    hours: float


class Plan:
    """Computes what a recipe takes; nothing is loaded, its models are of sizes alone.

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
        self.accumulation = int(recipe.deepspeed.get("gradient_accumulation_steps", 1))
        self.prompts = [_prompt(recipe, processor) for processor in self.shaped.processors]

    def lasting(self, stage: StageSettings) -> dict[str, float]:
        """Bytes that are there throughout a stage, by part."""
        numel = sum(parameter.numel() for parameter in self.objective.parameters())
        decay = self.recipe.train.weight_decay
        groups = [sum(of.numel() for of in group["params"]) for group in parameter_groups(self.objective, decay)]
        found = {"student's weights": self.engine.weights(numel) + self.engine.gathered(numel)}
        if parts := self.recipe.in_memory(stage):
            share = self.card.number if self.engine.stage == 3 else 1
            found["teacher's weights"] = self.teacher_bytes(llm=parts == "whole") / share
        found |= {"gradients": self.engine.gradients(groups), "optimizer states": self.engine.states(groups)}
        return found | {"reduce bucket": self.engine.buckets()}

    def teacher_bytes(self, *, llm: bool = True) -> float:
        """Bytes of the teacher's weights in the precisions in which it is asked, adapters folded in."""
        settings, found = self.recipe.teacher, 0.0
        for name, parameter in self.teacher.named_parameters():
            part = name.partition(".")[0]
            if ".lora_" in name or (part == "llm" and not llm):
                continue
            precision = getattr(settings.precision, part) or settings.dtype
            # Embeddings, head and norms are not quantised.
            whole = part == "llm" and (".layers." not in name or parameter.ndim < 2) and precision not in ("fp32",)
            found += parameter.numel() * (max(_BYTES[precision], 2.0) if whole else _BYTES[precision])
        return found

    def passing(self, stage: StageSettings, budget_s: float, seconds: float) -> dict[str, float]:
        """Bytes that come and go in a micro-batch of clips of one length, by part."""
        used, e, model = stage.used, self.engine.element, self.student
        batch, asked = self._batches(stage, budget_s, seconds)
        with self._only(stage):
            encoder, connector, llm = self._kept(stage, batch)
            moved = bool((self.recipe.deepspeed.get("activation_checkpointing") or {}).get("cpu_checkpointing"))
            parts = [of.all(again=self.again, moved=moved) for of in (encoder, connector, llm)]
            mels = batch.clips * batch.frames * 2 * model.config.encoder_config.num_mel_bins * _FP32
            working = max(encoder.working, connector.working, llm.working)
            ahead = 0 if needs_gradient(model.encoder) and model.beats is None else passing(model, batch, e, llm=False)
            found: dict[str, float] = {"activations": sum(parts) + mels + max(working, ahead)}
            found["loss"] = 0.0
            if used.ce or used.kd:
                memory = int(_BYTES[self.recipe.teacher.dtype]) if self.recipe.asks_teacher(stage) else 0
                spans = self.recipe.train.kd.vocabulary == "universal"
                found["loss"] += loss_bytes(model, batch, e, asked=memory, spans=spans)
        if stage.matched:
            how = model, self.teacher, self.shaped.matching, batch, asked, e
            found["loss"] += matched_bytes(*how, stage.matched)
        if parts := self.recipe.in_memory(stage):
            dtype = int(_BYTES[self.recipe.teacher.dtype])
            found["teacher's pass"] = passing(self.teacher, asked, dtype, llm=parts == "whole")
        return found

    def writing(self, stage: StageSettings, budget_s: float, seconds: float) -> float:
        """Bytes while texts are written, of validation or on-policy, when nothing is kept for a backward pass."""
        e, generation = self.engine.element, self.recipe.generation
        clips = clips_within(self.student.config, seconds, generation.max_seconds)
        batch = self._written(clips, seconds, generation)
        found = writing_bytes(self.student, batch, e, beams=generation.num_beams)
        if stage.on_policy:
            clips = clips_within(self.student.config, seconds, budget_s) * self.accumulation
            batch = self._written(min(clips, stage.on_policy.rows_at_once or clips), seconds, stage.on_policy)
            found = max(found, writing_bytes(self.student, batch, e, drawn=True))
        return found

    def memory(self, stage: StageSettings, budget_s: float | None = None) -> dict[str, float]:
        """Bytes by part of a stage's largest micro-batch, whatever the lengths of its clips.

        Args:
            stage: The stage.
            budget_s: In place of its `max_seconds`.
        """
        budget_s = stage.max_seconds if budget_s is None else budget_s
        every = [self.passing(stage, budget_s, s) for s in self._lengths]
        most = max(every, key=lambda parts: sum(parts.values()))
        beside = max(self.writing(stage, budget_s, s) for s in self._lengths)
        if (more := beside - sum(most.values())) > 0:
            most = most | {"writing texts, more than that": more}
        return self.lasting(stage) | most

    def caching(self, budget_s: float | None = None) -> dict[str, float]:
        """Bytes by part of the teacher's pass over the rows to cache."""
        cache, e = self.recipe.cache, int(_BYTES[self.recipe.teacher.dtype])
        budget_s = cache.max_seconds if budget_s is None else budget_s
        every = []
        for seconds, longest in zip(self._lengths, self._longest, strict=True):
            clips = clips_within(self.teacher.config, seconds, budget_s)
            batch = micro_batch(self.teacher.config, clips, seconds, longest, self.prompts[0])
            parts = {"teacher's pass": passing(self.teacher, batch, e, llm=True)}
            parts["targets"] = targets_bytes(self.teacher, batch, e)
            if cache.writes_texts:
                generation = self.recipe.generation
                texts = micro_batch(self.teacher.config, clips, seconds, generation.cap(seconds), self.prompts[0])
                written = writing_bytes(self.teacher, texts, e, beams=generation.num_beams)
                parts["writing texts, more than that"] = max(written - sum(parts.values()), 0)
            every.append(parts)
        return {"teacher's weights": self.teacher_bytes()} | max(every, key=lambda parts: sum(parts.values()))

    def largest(self, takes: Callable[[float], dict[str, float]], whose: SalmonnForConditionalGeneration) -> int | None:
        """The most seconds of a budget under which all parts fit; None where not even the longest clip does.

        Args:
            takes: Bytes by part under a budget, `memory` of a stage or `caching`.
            whose: Whose seconds are counted: one clip is always heard, be it longer than the budget.
        """

        def fits(seconds: float) -> bool:
            return sum(takes(seconds).values()) <= self.card.room

        low = int(np.ceil(heard_seconds(whose.config, float(self.clips.seconds[-1]))))
        if not fits(low):
            return None
        high = 2 * low
        while high < _MOST_S and fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low // 10 * 10 if low >= 100 else low

    def times(self, stage: StageSettings) -> Times:
        """Steps, operations and hours of a stage; writing texts, which is bound by memory, is not in them."""
        batches = flop = 0.0
        with self._only(stage):
            for at in np.flatnonzero(self.clips.number):
                seconds, number = float(self.clips.seconds[at]), float(self.clips.number[at])
                batches += number / clips_within(self.student.config, seconds, stage.max_seconds)
                flop += number * self._work(stage, seconds, float(self.clips.tokens[at])).all
        steps = batches / (self.card.number * self.accumulation)
        each = flop / (steps * self.card.number)
        return Times(steps, each, stage.steps * each / (self.card.flops * self.card.utilisation) / 3600)

    def caching_hours(self) -> float:
        """Hours of the teacher's passes over all rows, on all GPUs; writing texts is not in them."""
        flop = 0.0
        for at in np.flatnonzero(self.clips.number):
            texts, seconds = float(self.clips.tokens[at]), float(self.clips.seconds[at])
            batch = micro_batch(self.teacher.config, 1, seconds, texts, self.prompts[0])
            flop += float(self.clips.number[at]) * asked_work(self.teacher, batch, llm=True).all
        return flop / (self.card.number * self.card.flops * self.card.utilisation) / 3600

    @property
    def _lengths(self) -> list[float]:
        """Some lengths that clips have, the shortest and the longest among them."""
        return self.clips.seconds[self._some].tolist()

    @property
    def _longest(self) -> list[float]:
        return self.clips.longest[self._some].tolist()

    @property
    def _some(self) -> np.ndarray:
        return np.unique(np.linspace(0, len(self.clips.seconds) - 1, _MOST_LENGTHS).round().astype(int))

    def _batches(self, stage: StageSettings, budget_s: float, seconds: float) -> tuple[MicroBatch, MicroBatch]:
        """The largest micro-batch of clips of one length, as the student and as the teacher get it."""
        clips = clips_within(self.student.config, seconds, budget_s)
        texts = float(self.clips.longest[np.flatnonzero(self.clips.seconds == seconds)[0]])
        if stage.on_policy:
            own = stage.on_policy.cap(seconds)
            texts = own if stage.on_policy.share == 1 else max(own, texts)
        if stage.max_text_tokens:
            clips = max(min(clips, int(stage.max_text_tokens / texts)), 1)
        both = zip((self.student, self.teacher), self.prompts[::-1], strict=True)
        return tuple(micro_batch(model.config, clips, seconds, texts, prompt) for model, prompt in both)

    def _written(self, clips: int, seconds: float, cap: LengthCap) -> MicroBatch:
        return micro_batch(self.student.config, clips, seconds, cap.cap(seconds), self.prompts[1])

    def _kept(self, stage: StageSettings, batch: MicroBatch) -> tuple[Kept, Kept, Kept]:
        """What encoder, connector and LLM keep, as far as a stage asks them."""
        used, model, sizes = stage.used, self.student, Sizes(self.engine.element)
        llm = bool(used.ce or used.kd or used.hidden)
        heard = needs_gradient(model.encoder) or needs_gradient(model.beats)
        tokens = heard or needs_gradient(model.connector)
        return (
            of_encoder(model.encoder, batch, sizes),
            of_connector(model.connector, batch, sizes, flows=heard) if llm or used.ctc or used.audio_tokens else Kept(),
            of_llm(model, batch, sizes, flows=tokens) if llm else Kept(),
        )

    def _work(self, stage: StageSettings, seconds: float, texts: float) -> Work:
        """Operations on one clip of a length."""
        used, model = stage.used, self.student
        batch = micro_batch(model.config, 1, seconds, texts, self.prompts[1])
        heard = needs_gradient(model.encoder) or needs_gradient(model.beats)
        llm = bool(used.ce or used.kd or used.hidden)
        done = encoder_work(model.encoder, batch, again=self.again)
        if llm or used.ctc or used.audio_tokens:
            done += connector_work(model.connector, batch, flows=heard, again=self.again)
        if llm:
            tokens = heard or needs_gradient(model.connector)
            done += llm_work(model, batch, flows=tokens, again=self.again, head=bool(used.ce or used.kd))
        if parts := self.recipe.in_memory(stage):
            asked = micro_batch(self.teacher.config, 1, seconds, texts, self.prompts[0])
            done += asked_work(self.teacher, asked, llm=parts == "whole")
        return done

    @contextmanager
    def _only(self, stage: StageSettings) -> Iterator[None]:
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
    return max(-(-length // 4) for length in lengths)
