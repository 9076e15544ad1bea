"""Memory of a GPU by part, in each stage and in caching, and the largest budgets that fit."""

from collections.abc import Callable

import numpy as np

from distill.planning.activations import Kept, needs_gradient, of_connector, of_encoder, of_llm, passing
from distill.planning.clips import MicroBatch, clips_within, heard_seconds, micro_batch
from distill.planning.linears import Sizes
from distill.planning.setting import Setting
from distill.planning.transient import loss_bytes, matched_bytes, targets_bytes, writing_bytes
from distill.recipe.stages import StageSettings
from distill.training.optimizer import parameter_groups
from teacher.model import SalmonnForConditionalGeneration

_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "bnb_int8": 1.0, "int4": 0.5, "bnb_nf4": 0.5}
_MOST_S = 100_000
_FP32 = 4


class Memory:
    """Bytes by part.

    Args:
        on: The recipe and its GPUs.
    """

    def __init__(self, on: Setting) -> None:
        self.on = on

    def lasting(self, stage: StageSettings) -> dict[str, float]:
        """Bytes that are there throughout a stage, by part."""
        numel = sum(parameter.numel() for parameter in self.on.objective.parameters())
        decay = self.on.recipe.train.weight_decay
        groups = [sum(of.numel() for of in group["params"]) for group in parameter_groups(self.on.objective, decay)]
        found = {"student's weights": self.on.engine.weights(numel) + self.on.engine.gathered(numel)}
        if parts := self.on.recipe.in_memory(stage):
            share = self.on.card.number if self.on.engine.stage == 3 else 1
            found["teacher's weights"] = self.teacher_bytes(llm=parts == "whole") / share
        found |= {"gradients": self.on.engine.gradients(groups), "optimizer states": self.on.engine.states(groups)}
        return found | {"reduce bucket": self.on.engine.buckets()}

    def teacher_bytes(self, *, llm: bool = True) -> float:
        """Bytes of the teacher's weights in the precisions in which it is asked, adapters folded in."""
        settings, found = self.on.recipe.teacher, 0.0
        for name, parameter in self.on.teacher.named_parameters():
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
        used, e, model = stage.used, self.on.engine.element, self.on.student
        batch, asked = self.on.batches(stage, budget_s, seconds)
        with self.on.only(stage):
            encoder, connector, llm = self._kept(stage, batch)
            moved = bool((self.on.recipe.deepspeed.get("activation_checkpointing") or {}).get("cpu_checkpointing"))
            parts = [of.all(again=self.on.again, moved=moved) for of in (encoder, connector, llm)]
            mels = batch.clips * batch.frames * 2 * model.config.encoder_config.num_mel_bins * _FP32
            working = max(encoder.working, connector.working, llm.working)
            ahead = 0 if needs_gradient(model.encoder) and model.beats is None else passing(model, batch, e, llm=False)
            found: dict[str, float] = {"activations": sum(parts) + mels + max(working, ahead)}
            found["loss"] = 0.0
            if used.ce or used.kd:
                memory = int(_BYTES[self.on.recipe.teacher.dtype]) if self.on.recipe.asks_teacher(stage) else 0
                spans = self.on.recipe.train.kd.vocabulary == "universal"
                found["loss"] += loss_bytes(model, batch, e, asked=memory, spans=spans)
        if stage.matched:
            how = model, self.on.teacher, self.on.shaped.matching, batch, asked, e
            found["loss"] += matched_bytes(*how, stage.matched)
        if parts := self.on.recipe.in_memory(stage):
            dtype = int(_BYTES[self.on.recipe.teacher.dtype])
            found["teacher's pass"] = passing(self.on.teacher, asked, dtype, llm=parts == "whole")
        return found

    def writing(self, stage: StageSettings, budget_s: float, seconds: float) -> float:
        """Bytes while texts are written, of validation or on-policy, when nothing is kept for a backward pass."""
        e, generation = self.on.engine.element, self.on.recipe.generation
        clips = clips_within(self.on.student.config, seconds, generation.max_seconds)
        batch = self.on.written(clips, seconds, generation)
        found = writing_bytes(self.on.student, batch, e, beams=generation.num_beams)
        if stage.on_policy:
            clips = clips_within(self.on.student.config, seconds, budget_s) * self.on.accumulation
            batch = self.on.written(min(clips, stage.on_policy.rows_at_once or clips), seconds, stage.on_policy)
            found = max(found, writing_bytes(self.on.student, batch, e, drawn=True))
        return found

    def of_stage(self, stage: StageSettings, budget_s: float | None = None) -> dict[str, float]:
        """Bytes by part of a stage's largest micro-batch, whatever the lengths of its clips.

        Args:
            stage: The stage.
            budget_s: In place of its `max_seconds`.
        """
        budget_s = stage.max_seconds if budget_s is None else budget_s
        every = [self.passing(stage, budget_s, s) for s in self.on.lengths]
        most = max(every, key=lambda parts: sum(parts.values()))
        beside = max(self.writing(stage, budget_s, s) for s in self.on.lengths)
        if (more := beside - sum(most.values())) > 0:
            most = most | {"writing texts, more than that": more}
        return self.lasting(stage) | most

    def of_caching(self, budget_s: float | None = None) -> dict[str, float]:
        """Bytes by part of the teacher's pass over the rows to cache."""
        cache, e = self.on.recipe.cache, int(_BYTES[self.on.recipe.teacher.dtype])
        budget_s = cache.max_seconds if budget_s is None else budget_s
        every = []
        for seconds, longest in zip(self.on.lengths, self.on.longest, strict=True):
            clips = clips_within(self.on.teacher.config, seconds, budget_s)
            batch = micro_batch(self.on.teacher.config, clips, seconds, longest, self.on.prompts[0])
            parts = {"teacher's pass": passing(self.on.teacher, batch, e, llm=True)}
            parts["targets"] = targets_bytes(self.on.teacher, batch, e)
            if cache.writes_texts:
                generation = self.on.recipe.generation
                texts = micro_batch(self.on.teacher.config, clips, seconds, generation.cap(seconds), self.on.prompts[0])
                written = writing_bytes(self.on.teacher, texts, e, beams=generation.num_beams)
                if (more := written - sum(parts.values())) > 0:
                    parts["writing texts, more than that"] = more
            every.append(parts)
        return {"teacher's weights": self.teacher_bytes()} | max(every, key=lambda parts: sum(parts.values()))

    def largest(self, takes: Callable[[float], dict[str, float]], whose: SalmonnForConditionalGeneration) -> int | None:
        """The most seconds of a budget under which all parts fit; None where not even the longest clip does.

        Args:
            takes: Bytes by part under a budget, `of_stage` or `of_caching`.
            whose: Whose seconds are counted: one clip is always heard, be it longer than the budget.
        """

        def fits(seconds: float) -> bool:
            return sum(takes(seconds).values()) <= self.on.card.room

        low = int(np.ceil(heard_seconds(whose.config, float(self.on.clips.seconds[-1]))))
        if not fits(low):
            return None
        high = 2 * low
        while high < _MOST_S and fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low // 10 * 10 if low >= 100 else low

    def _kept(self, stage: StageSettings, batch: MicroBatch) -> tuple[Kept, Kept, Kept]:
        """What encoder, connector and LLM keep, as far as a stage asks them."""
        used, model, sizes = stage.used, self.on.student, Sizes(self.on.engine.element)
        llm = bool(used.ce or used.kd or used.hidden)
        heard = needs_gradient(model.encoder) or needs_gradient(model.beats)
        tokens = heard or needs_gradient(model.connector)
        return (
            of_encoder(model.encoder, batch, sizes),
            of_connector(model.connector, batch, sizes, flows=heard)
            if llm or used.ctc or used.audio_tokens
            else Kept(),
            of_llm(model, batch, sizes, flows=tokens) if llm else Kept(),
        )
