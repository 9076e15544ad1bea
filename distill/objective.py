"""What one micro-batch costs: the student, its losses, and the teacher's features it is held against.

Letters: B clips, T frames or positions, N rows (supervised positions, or audio tokens of all clips), D/H widths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.features import Features
from distill.ctc import CtcHead, has_room
from distill.losses import fused_loss
from distill.recipe import KdSettings, LossWeights
from distill.signals import TeacherSignal
from teacher.connector import AudioStates, within
from teacher.encoder import encoder_frames
from teacher.model import Batch, SalmonnForConditionalGeneration, supervised

UNITS = {"ce": "tokens", "kd": "tokens", "ctc": "ctc_tokens", "encoder": "frames", "audio_tokens": "windows"}
"""What each loss is a mean over."""


@dataclass
class Example:
    """A micro-batch.

    Args:
        batch: The clips as the student gets them.
        signal: The teacher's word on their supervised positions, where a stage distils.
        states: The student's encoder states, where they are kept in memory.
        heard: The clips as the teacher hears them, where it hears them otherwise.
        encoder_BTD: The teacher's encoder states in the student's frames, where they are cached.
        audio_NH: The teacher's audio tokens in the student's windows, where they are cached.
        ids: Of the rows.
    """

    batch: Batch
    signal: TeacherSignal | None = None
    states: AudioStates | None = None
    heard: Features | None = None
    encoder_BTD: Tensor | None = None
    audio_NH: Tensor | None = None
    ids: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> "Example":
        """The same example on another device."""
        return Example(*[x.to(device) if hasattr(x, "to") else x for x in vars(self).values()])

    def counts(self, model: SalmonnForConditionalGeneration) -> dict[str, int]:
        """Units of this micro-batch, known before any computation: the losses' denominators are sums of these."""
        frames_B = encoder_frames(self.batch.features.mel_frames_B)
        windows_B = model.connector.windows(frames_B)
        texts = [row[row != -100][:-1] for row in self.batch.labels_BT]
        return {
            "tokens": int((self.batch.labels_BT != -100).sum()),
            "ctc_tokens": sum(len(t) for t, n in zip(texts, windows_B.tolist(), strict=True) if has_room(t, n)),
            "frames": int(frames_B.sum()),
            "windows": int(windows_B.sum()),
        }


class Objective(nn.Module):
    """The module that DeepSpeed wraps: forward gives the loss of a micro-batch, already divided by global counts.

    Args:
        student: The model that is trained.
        kd: Divergence settings.
        ctc: The CTC head, where a stage uses it.
        teacher: A frozen teacher, where a stage matches features that examples do not bring; only its encoder and
            connector are called. It is kept out of the module's parameters.
    """

    def __init__(
        self,
        student: SalmonnForConditionalGeneration,
        kd: KdSettings,
        ctc: CtcHead | None = None,
        teacher: SalmonnForConditionalGeneration | None = None,
    ) -> None:
        super().__init__()
        self.student, self.kd, self.ctc = student, kd, ctc
        self._teacher = [teacher]  # in a list, nn.Module does not see it

    def forward(
        self, example: Example, weights: LossWeights, counts: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch.

        Args:
            example: The micro-batch, on the model's device.
            weights: Weights of this stage; a loss of weight 0 is not computed.
            counts: Global units (over accumulation and ranks) by which sums are divided.

        Returns:
            The weighted loss, and each loss's undivided sum.
        """
        batch, student = example.batch, self.student
        states = example.states or student.encode(batch.features)
        terms: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        teacher_BTD, teacher_NH = self._matched(example, states, weights)
        if weights.encoder:
            length = teacher_BTD.shape[1]
            real_BT = within(states.frames_B, length)
            terms["encoder"] = relative_error(states.speech_BTD[:, :length][real_BT], teacher_BTD[real_BT])
        if weights.ce or weights.kd or weights.ctc or weights.audio_tokens:
            audio_NH = student.connector(states)
            if weights.audio_tokens:
                terms["audio_tokens"] = relative_error(audio_NH, teacher_NH)
            if weights.ctc:
                texts = [row[row != -100][:-1] for row in batch.labels_BT]
                terms["ctc"] = self.ctc(audio_NH, student.connector.windows(states.frames_B), texts)
            if weights.ce or weights.kd:
                terms["lm"] = self._language(example, audio_NH, weights, counts, sums)
        loss = terms.pop("lm", torch.zeros((), device=states.speech_BTD.device))
        for name, value in terms.items():
            sums[name] = value.detach().float()
            loss = loss + getattr(weights, name) * value / max(counts[UNITS[name]], 1)
        return loss, sums

    def _language(
        self,
        example: Example,
        audio_NH: Tensor,
        weights: LossWeights,
        counts: dict[str, float],
        sums: dict[str, Tensor],
    ) -> Tensor:
        hidden_BTH = self.student.hidden(example.batch, audio_NH)
        rows, labels_N = supervised(example.batch.labels_BT)
        out = fused_loss(
            hidden_BTH.flatten(0, 1)[rows],
            self.student.llm.get_output_embeddings().weight,
            labels_N,
            example.signal if weights.kd else None,
            ce_weight=weights.ce,
            kd_weight=weights.kd,
            **self.kd.model_dump(),
        )
        sums |= {"ce": out.ce, "correct": out.correct}
        if weights.kd:
            sums |= {"kd": out.kd, "agreement": out.agreement}
        return out.loss / max(counts["tokens"], 1)

    @torch.no_grad()
    def _matched(
        self, example: Example, states: AudioStates, weights: LossWeights
    ) -> tuple[Tensor | None, Tensor | None]:
        """The teacher's encoder states (B, T, D) and audio tokens (N, H), those that a loss matches."""
        encoder_BTD, audio_NH = example.encoder_BTD, example.audio_NH
        if (weights.encoder and encoder_BTD is None) or (weights.audio_tokens and audio_NH is None):
            heard = self._teacher[0].encode(example.heard or example.batch.features)
            # Cut to the frames that the student has.
            heard.speech_BTD, heard.frames_B = heard.speech_BTD[:, : states.speech_BTD.shape[1]], states.frames_B
            encoder_BTD = heard.speech_BTD
            if weights.audio_tokens:
                audio_NH = self._teacher[0].connector(heard)
        return encoder_BTD, audio_NH


def relative_error(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Sum over rows of the squared distance, relative to the teacher's mean squared deviation from its mean row."""
    teacher_ND = teacher_ND.float()
    spread = (teacher_ND - teacher_ND.mean(0)).square().sum(1).mean().clamp(min=1e-6)
    return (student_ND.float() - teacher_ND).square().sum() / spread
