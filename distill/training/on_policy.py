"""On-policy distillation: texts that the student writes itself, to be judged by the teacher (GKD, Agarwal et al. 2024).

A student that learns from given texts alone never sees what comes after its own mistakes. Here it draws a text for each
clip, and both models say what should follow at each of its positions; nothing is learnt from how the text came about.
"""

from dataclasses import replace

import deepspeed
import torch
from torch import Tensor

from data.hashing import drawn
from distill.losses.settings import LossWeights
from distill.recipe.recipe import Recipe
from distill.training.engine import gathered
from distill.training.objective import Example
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor


class OnPolicy:
    """Says which steps are on-policy, and rewrites their micro-batches.

    Args:
        recipe: The run's recipe.
        engine: DeepSpeed's, around the objective.
        processor: The student's.
        teacher_processor: The teacher's, where it hears the clips otherwise.
    """

    def __init__(
        self,
        recipe: Recipe,
        engine: deepspeed.DeepSpeedEngine,
        processor: SalmonnProcessor,
        teacher_processor: SalmonnProcessor | None = None,
    ) -> None:
        self.settings, self.seed, self.engine = recipe.train.on_policy, recipe.seed, engine
        self.processor, self.teacher_processor = processor, teacher_processor

    def chosen(self, step: int, weights: LossWeights) -> bool:
        """Whether a step (counted from 0) is on-policy: the same on every rank, and after a restart."""
        return weights.kd > 0 and drawn([self.seed, "on_policy", step]) < self.settings.fraction

    @staticmethod
    def without_texts(weights: LossWeights) -> LossWeights:
        """The weights of such a step: nothing holds the student to a text that it wrote itself."""
        return weights.model_copy(update={"ce": 0.0, "ctc": 0.0})

    def rewrite(self, micro: list[Example], seeds: list[int]) -> list[Example]:
        """The micro-batches of a step, each with texts that the student draws for its clips.

        Args:
            micro: On the engine's device.
            seeds: One for each.
        """
        self.engine.eval()
        student = self.engine.module.student
        with gathered(self.engine):
            written = [self._write(student, *of) for of in zip(micro, seeds, strict=True)]
        self.engine.train()
        return [self._with_texts(*of) for of in zip(micro, written, strict=True)]

    @torch.no_grad()
    def _write(self, student: SalmonnForConditionalGeneration, example: Example, seed: int) -> list[list[int]]:
        """Ids of a text for each clip, with the end symbol where the student came to it."""
        features, instructions = example.batch.features, example.instructions
        prompt = self.processor.lay_out(features, instructions, [None] * len(instructions)).to(student.device)
        audio_NH = student.connector(student.encode(features))
        caps = [self.settings.cap(frames / 100) for frames in features.mel_frames_B.tolist()]
        vocab_size = student.config.llm_config.vocab_size
        torch.manual_seed(seed)
        ids_BT = student.generate(
            prompt,
            audio_NH,
            max_new_tokens=max(caps),
            do_sample=True,
            temperature=self.settings.temperature,
            # The student's own distribution, whatever its LLM's files advise.
            top_k=0,
            top_p=1.0,
            # A place for an audio token, and rows of the head that stand for nothing (the teacher need not have them).
            suppress_tokens=[student.config.pad_token_id, *range(len(self.processor.tokenizer), vocab_size)],
        )
        return [_whole(ids_T[:cap], student.config.eos_token_id) for ids_T, cap in zip(ids_BT, caps, strict=True)]

    def _with_texts(self, example: Example, texts: list[list[int]]) -> Example:
        device = example.batch.input_ids_BT.device
        batch = self.processor.lay_out(example.batch.features, example.instructions, texts).to(device)
        teacher_batch = example.teacher_batch
        if teacher_batch is not None:
            features = teacher_batch.features
            teacher_batch = self.teacher_processor.lay_out(features, example.instructions, texts).to(device)
        return replace(example, batch=batch, teacher_batch=teacher_batch, signal=None)


def _whole(ids_T: Tensor, end: int) -> list[int]:
    """Ids up to and with the first end symbol; what follows it is padding."""
    ids = ids_T.tolist()
    return ids[: ids.index(end) + 1] if end in ids else ids
