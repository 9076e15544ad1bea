"""What one micro-batch costs: the student, its losses, and the teacher's features it is held against.

Letters: B clips, T frames or positions, N rows (supervised positions, or audio tokens of all clips), D/H widths.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distill.losses.ctc import CtcHead, has_room
from distill.losses.fused import fused_loss
from distill.losses.matching import LAST, FeatureMatching, TeacherFeatures, outputs_of
from distill.losses.settings import DivergenceSettings, LossWeights
from distill.losses.signals import CachedSignal, TeacherSignal
from distill.losses.universal import SpanSignal
from distill.models.frozen import FrozenTeacher
from distill.recipe.stages import OnPolicySettings
from teacher.connector import AudioStates
from teacher.encoder import encoder_frames
from teacher.model import Batch, SalmonnForConditionalGeneration

UNITS = {"ce": "tokens", "kd": "distilled", "ctc": "ctc_tokens"}
UNITS |= {"encoder": "frames", "audio_tokens": "windows", "hidden": "tokens", "beats": "columns"}
"""What each loss is a mean over."""
OVERLAPPING = 32
"""Likeliest ids whose overlap is told of an on-policy step, where the divergence is over the whole vocabulary."""


@dataclass
class Example:
    """A micro-batch.

    Args:
        batch: The clips as the student gets them.
        signal: The teacher's word on their supervised positions, where a stage distils from the cache.
        states: The student's encoder states, where they are kept in memory.
        teacher_batch: The clips and texts as a teacher in memory gets them, where it hears the clips otherwise.
        features: The teacher's features of the clips, where they are cached.
        columns_B: Columns of BEATs' states that are matched.
        ids: Of the rows.
        instructions: Of the rows.
        on_policy: How the texts are judged, where the student has written them itself.
    """

    batch: Batch
    signal: CachedSignal | None = None
    states: AudioStates | None = None
    teacher_batch: Batch | None = None
    features: TeacherFeatures | None = None
    columns_B: Tensor | None = None
    ids: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    on_policy: OnPolicySettings | None = None

    def to(self, device: torch.device | str) -> "Example":
        """The same example on another device; its counts where they are, on the host."""
        moved = {name: x.to(device) for name, x in vars(self).items() if hasattr(x, "to") and name != "columns_B"}
        return replace(self, **moved)

    def counts(self, model: SalmonnForConditionalGeneration) -> dict[str, float]:
        """Units of this micro-batch, known before any computation: the losses' denominators are sums of these."""
        frames_B = encoder_frames(self.batch.features.mel_frames_B)
        windows_B = model.connector.windows(frames_B)
        end, written = model.config.eos_token_id, self.batch.texts
        texts, tokens = texts_of(written, end), sum(map(len, written))
        return {
            "tokens": tokens,
            "distilled": len(self.signal.spans) if isinstance(self.signal, SpanSignal) else tokens,
            "ctc_tokens": sum(len(t) for t, n in zip(texts, windows_B.tolist(), strict=True) if has_room(t, n)),
            "frames": int(frames_B.sum()),
            "windows": int(windows_B.sum()),
            "kept_mass": self.signal.kept_mass() if self.signal is not None else 0.0,
            "columns": 0 if self.columns_B is None else int(self.columns_B.sum()),
            "texts": len(written),
            "ended": sum(end in text for text in written),
        }


class Objective(nn.Module):
    """The module that DeepSpeed wraps: forward gives the loss of a micro-batch, already divided by global counts.

    Args:
        student: The model that is trained.
        kd: Divergence settings, where a stage has none of its own.
        ctc: The CTC head, where a stage uses it.
        teacher: A frozen teacher, where examples do not bring all of its features and distributions; the loop puts it
            here for the stages that ask it. It is no module, so none of its parameters is one of these.
        matching: The feature losses, where a stage has one.
    """

    def __init__(
        self,
        student: SalmonnForConditionalGeneration,
        kd: DivergenceSettings,
        ctc: CtcHead | None = None,
        teacher: FrozenTeacher | None = None,
        matching: FeatureMatching | None = None,
    ) -> None:
        super().__init__()
        self.student, self.kd, self.ctc, self.matching, self.teacher = student, kd, ctc, matching, teacher

    def forward(
        self,
        example: Example,
        weights: LossWeights,
        counts: dict[str, float],
        kd: DivergenceSettings | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch.

        Args:
            example: The micro-batch, on the model's device.
            weights: Weights of this stage; a loss of weight 0 is not computed.
            counts: Global units (over accumulation and ranks) by which sums are divided.
            kd: This stage's divergence settings; None: the run's.

        Returns:
            The weighted loss, and each loss's undivided sum.
        """
        batch, student, names = example.batch, self.student, weights.features
        terms: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        layers = self.matching.layers["encoder"][0] if weights.encoder else ()
        with outputs_of(student.encoder.layers, student.encoder.layer_norm, layers) as seen:
            states = example.states or student.encode(batch.features)
        seen[LAST] = states.speech_BTD
        teacher = self._asked(example, states.frames_B, weights) if names else TeacherFeatures()
        if weights.encoder:
            terms["encoder"] = self.matching.encoder([seen[i] for i in layers], teacher.encoder, states.frames_B)
        if weights.beats:
            terms["beats"] = self.matching.beats(states.speech_BTD, teacher.beats_BCD, example.columns_B)
        if names - {"encoder", "beats"} or weights.ce or weights.kd or weights.ctc:
            audio_NH = student.connector(states)
        if weights.audio_tokens:
            terms["audio_tokens"] = self.matching.audio_tokens(audio_NH, teacher.audio_NH, states.frames_B)
        if weights.ctc:
            texts = texts_of(batch.texts, student.config.eos_token_id)
            terms["ctc"] = self.ctc(audio_NH, student.connector.windows(states.frames_B), texts)
        if weights.hidden:
            hidden_BTH, own = self.matching.hidden_states(student, 0, batch, audio_NH)
            terms["hidden"] = self.matching.hidden(own, teacher.hidden)
        elif weights.ce or weights.kd:
            hidden_BTH = student.hidden(batch, audio_NH)
        if weights.ce or weights.kd:
            terms["lm"] = self._language(example, hidden_BTH, teacher.hidden_BTH, weights, counts, kd or self.kd, sums)
        loss = terms.pop("lm", torch.zeros((), device=states.speech_BTD.device))
        for name, value in terms.items():
            sums[name] = value.detach().float()
            loss = loss + getattr(weights, name) * value / max(counts[UNITS[name]], 1)
        return loss, sums

    @torch.no_grad()
    def targets(self, example: Example, weights: LossWeights) -> dict[str, list[Tensor]]:
        """The teacher's rows that are matched, by feature (see `FeatureMatching.targets`)."""
        frames_B = encoder_frames(example.batch.features.mel_frames_B)
        return self.matching.targets(self._asked(example, frames_B, weights), frames_B, example.columns_B)

    def _language(
        self,
        example: Example,
        hidden_BTH: Tensor,
        teacher_BTH: Tensor | None,
        weights: LossWeights,
        counts: dict[str, float],
        kd: DivergenceSettings,
        sums: dict[str, Tensor],
    ) -> Tensor:
        rows_N, labels_N = example.batch.rows_N, example.batch.labels_N
        judged = {}
        if own := example.on_policy:
            judged = {"top": own.top or OVERLAPPING, "union": own.top is not None}
            ended_N = labels_N == self.student.config.eos_token_id
            judged["kd_weight_N"] = torch.where(ended_N, own.end_weight, 1.0)
        with self._signal(example, weights, teacher_BTH) as signal:
            out = fused_loss(
                hidden_BTH.flatten(0, 1)[rows_N],
                self.student.llm.get_output_embeddings().weight,
                labels_N,
                signal,
                ce_weight=weights.ce,
                kd_weight=weights.kd * (counts["tokens"] / max(counts["distilled"], 1)),  # by 1 of one vocabulary
                **kd.model_dump(include=set(DivergenceSettings.model_fields)),
                **judged,
            )
        sums |= {"ce": out.ce, "correct": out.correct}
        if weights.kd:
            sums["kd"] = out.kd
            if not isinstance(example.signal, SpanSignal):
                sums["agreement"] = out.agreement
            if example.on_policy:
                sums["overlap"] = out.overlap
        return out.loss / max(counts["tokens"], 1)

    def _signal(
        self, example: Example, weights: LossWeights, teacher_BTH: Tensor | None
    ) -> AbstractContextManager[TeacherSignal | None]:
        """The teacher's word on the supervised positions: that of the example, or asked for now."""
        if weights.kd and example.signal is None:
            vocab_size = self.student.config.llm_config.vocab_size
            return self.teacher.signal(example.teacher_batch or example.batch, vocab_size, teacher_BTH)
        return nullcontext(example.signal if weights.kd else None)

    def _asked(self, example: Example, frames_B: Tensor, weights: LossWeights) -> TeacherFeatures:
        """The teacher's features: those of the example, or asked for now, all at once."""
        if example.features is not None:
            return example.features
        llm = weights.hidden > 0 or (weights.kd > 0 and example.signal is None)
        batch = example.teacher_batch or example.batch
        return self.teacher.features(self.matching, batch, frames_B, weights.features, llm)


def texts_of(texts: Sequence[list[int]], end: int) -> list[list[int]]:
    """Each clip's text without its end symbol, which one that was cut does not have."""
    return [[token for token in text if token != end] for text in texts]
