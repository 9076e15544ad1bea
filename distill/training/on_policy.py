"""On-policy distillation: texts that the student writes itself, to be judged by the teacher (GKD, Agarwal et al. 2024).

A student that learns from given texts alone never sees what comes after its own mistakes. Here it draws a text for each
clip, and both models say what should follow at each of its positions; nothing is learnt from how the text came about.

Letters: B clips, T tokens of a text, N audio tokens of all clips, H width, V vocabulary.
"""

from dataclasses import replace

import deepspeed
import torch
from torch import Tensor
from transformers import LogitsProcessor

from data.hashing import seed_of
from data.sound.features import Features
from distill.recipe.stages import OnPolicySettings
from distill.training.engine import gathered
from distill.training.objective import Example
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor


class OnPolicy:
    """Rewrites the micro-batches of on-policy steps.

    Args:
        seed: The recipe's.
        engine: DeepSpeed's, around the objective.
        processor: The student's.
        teacher_processor: The teacher's, where it hears the clips otherwise.
    """

    def __init__(
        self,
        seed: int,
        engine: deepspeed.DeepSpeedEngine,
        processor: SalmonnProcessor,
        teacher_processor: SalmonnProcessor | None = None,
    ) -> None:
        self.seed, self.engine = seed, engine
        self.processor, self.teacher_processor = processor, teacher_processor

    def rewrite(
        self, micro: list[Example], step: int, settings: OnPolicySettings, *, to_the_cap: bool = False
    ) -> list[Example]:
        """The micro-batches of a step, each with texts that the student draws for its clips.

        Clips are encoded a micro-batch at a time, and all are then written about together: a token takes the student
        about as long for many clips as for one. A clip's text depends on the step and its row alone, but for rounding,
        not on which clips are beside it, in a batch or on a rank (and a row that a step has twice has one text).

        Args:
            micro: On the engine's device.
            step: Counted from 0.
            settings: How texts are drawn.
            to_the_cap: No text ends before its cap, so that none takes more memory.
        """
        self.engine.eval()
        with gathered(self.engine):
            texts = self._write(self.engine.module.student, micro, step, settings, to_the_cap)
        self.engine.train()
        written = iter(texts)
        return [self._with_texts(example, [next(written) for _ in example.ids], settings) for example in micro]

    @torch.no_grad()
    def _write(
        self,
        student: SalmonnForConditionalGeneration,
        micro: list[Example],
        step: int,
        settings: OnPolicySettings,
        to_the_cap: bool,
    ) -> list[list[int]]:
        """Ids of a text for each clip of all micro-batches, with the end symbol where the student came to it."""
        audio: list[Tensor] = []
        for example in micro:
            states = student.encode(example.batch.features)
            audio += student.connector(states).split(student.connector.windows(states.frames_B).tolist())
        frames_B = torch.cat([example.batch.features.mel_frames_B for example in micro])
        instructions = [wording for example in micro for wording in example.instructions]
        seeds = [seed_of([self.seed, "text", step, row]) for example in micro for row in example.ids]
        texts: list[list[int]] = [[] for _ in audio]
        # Where they are not all written at once, clips of like length are: prompts are padded to the longest one.
        order = sorted(range(len(audio)), key=lambda i: len(audio[i]))
        most = settings.rows_at_once or len(order)
        for some in (order[start : start + most] for start in range(0, len(order), most)):
            asked = Features(torch.empty(0), frames_B[some]), [instructions[i] for i in some], [None] * len(some)
            prompt = self.processor.lay_out(*asked).to(student.device)
            caps = [settings.cap(frames / 100) for frames in frames_B[some].tolist()]
            ids_BT = student.generate(
                prompt,
                torch.cat([audio[i] for i in some]),
                min_new_tokens=max(caps) if to_the_cap else None,
                max_new_tokens=max(caps),
                logits_processor=[RowDraws([seeds[i] for i in some], settings.temperature, student.device)],
                suppress_tokens=self._never(student),
            )
            for i, ids_T, cap in zip(some, ids_BT, caps, strict=True):
                texts[i] = _whole(ids_T[:cap], student.config.eos_token_id)
        return texts

    def _never(self, student: SalmonnForConditionalGeneration) -> list[int]:
        """A place for an audio token, and rows of the head that stand for nothing (the teacher need not have them)."""
        known, rows = len(self.processor.tokenizer), student.config.llm_config.vocab_size
        return [student.config.pad_token_id, *range(known, rows)]

    def _with_texts(self, example: Example, texts: list[list[int]], settings: OnPolicySettings) -> Example:
        device = example.batch.input_ids_BT.device
        batch = self.processor.lay_out(example.batch.features, example.instructions, texts).to(device)
        teacher_batch = example.teacher_batch
        if teacher_batch is not None:
            features = teacher_batch.features
            teacher_batch = self.teacher_processor.lay_out(features, example.instructions, texts).to(device)
        return replace(example, batch=batch, teacher_batch=teacher_batch, on_policy=settings)


class RowDraws(LogitsProcessor):
    """Makes greedy search draw from the student's own distribution, each row by a chance of its own.

    The id whose log-probability and a Gumbel noise of its own together are largest is a draw (the Gumbel-max trick,
    Maddison et al. 2014). The rows beside a row change none of its noise, where one generator for all would give it
    other numbers in a batch of another size.

    Args:
        seeds: One for each row.
        temperature: At which is drawn.
        device: Of the scores.
    """

    def __init__(self, seeds: list[int], temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) at the temperature, each with its noise."""
        noisy_BV = scores.float() / self.temperature
        # In float64: of float32's exponentials the least are zero, or equal, often enough to be drawn.
        wait_V = torch.empty(scores.shape[1], dtype=torch.float64, device=scores.device)
        for noisy_V, generator in zip(noisy_BV, self.generators, strict=True):
            noisy_V -= wait_V.exponential_(generator=generator).log_().float()
        return noisy_BV


def _whole(ids_T: Tensor, end: int) -> list[int]:
    """Ids up to and with the first end symbol; what follows it is padding."""
    ids = ids_T.tolist()
    return ids[: ids.index(end) + 1] if end in ids else ids
