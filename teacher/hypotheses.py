"""Texts that a model writes for clips: batches of like length, each text with its mean log-probability."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import torch
from data.rows.row import Row
from pydantic import Field
from torch import Tensor

from data.batches import batches_by_length
from data.progress import Progress
from data.settings import Settings
from data.sound.audio import SAMPLE_RATE, load_clip
from teacher.model import Batch, SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor


class LengthCap(Settings):
    """How long a text may be."""

    max_new_tokens: int = Field(200, ge=1, description="most tokens of a text")
    tokens_per_second: float | None = Field(
        None,
        gt=0,
        description="caps a text's tokens at 10 + this x its clip's seconds: a model that loops never ends; null: none",
    )

    def cap(self, seconds: float) -> int:
        """Most tokens of a text about a clip of so many seconds."""
        if self.tokens_per_second is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, 10 + int(self.tokens_per_second * seconds))


class GenerationSettings(LengthCap):
    """How hypotheses are written, for the cache and for scoring."""

    num_beams: int = Field(1, ge=1, description="beams; 1 is greedy")
    max_seconds: float = Field(120.0, gt=0, description="padded audio seconds of a batch")


@dataclass(frozen=True)
class Hypothesis:
    """What a model wrote for a row.

    Attributes:
        row: The row.
        text: Cut at the end symbol, lower-case.
        logp: Mean log-probability of its tokens, end symbol included.
        seconds: Its share of the batch's time.
    """

    row: Row
    text: str
    logp: float
    seconds: float


def generate_texts(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    batch: Batch,
    audio_NH: Tensor,
    seconds: list[float],
    settings: GenerationSettings,
) -> list[tuple[str, float, bool]]:
    """Texts, mean log-probabilities, and whether they ended, for a left-padded batch whose audio tokens are there.

    Each text is cut at the cap of its own clip's `seconds`, so that it does not depend on the batch.
    """
    caps = [settings.cap(of) for of in seconds]
    out = model.generate(
        batch,
        audio_NH,
        num_beams=settings.num_beams,
        max_new_tokens=max(caps),
        return_dict_in_generate=True,
        output_scores=True,
    )
    logp_BT = model.llm.compute_transition_scores(
        out.sequences, out.scores, getattr(out, "beam_indices", None), normalize_logits=settings.num_beams == 1
    )
    ids_BT = out.sequences[:, : logp_BT.shape[1]]
    ended_BT = ids_BT == model.config.eos_token_id
    # Up to and with the first end symbol, and within the cap.
    written_BT = ended_BT.cumsum(1) - ended_BT.long() == 0
    written_BT &= (
        torch.arange(ids_BT.shape[1], device=ids_BT.device) < torch.tensor(caps, device=ids_BT.device)[:, None]
    )
    mean_B = logp_BT.float().masked_fill(~written_BT, 0.0).sum(1) / written_BT.sum(1).clamp(min=1)
    texts = processor.decode(ids_BT.masked_fill(~written_BT, model.config.eos_token_id))
    ended_B = (ended_BT & written_BT).any(1)
    return list(zip(texts, mean_B.tolist(), ended_B.tolist(), strict=True))


@torch.no_grad()
def write_hypotheses(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    rows: list[tuple[Row, str]],
    settings: GenerationSettings,
    *,
    label: str = "hypotheses",
    quiet: bool = False,
) -> Iterator[Hypothesis]:
    """Generates a text for each (row, instruction), the longest clips first.

    Args:
        model: In evaluation mode, on its device.
        processor: The model's.
        rows: Rows with the wording of their instruction.
        settings: Beams, caps, batch size.
        label: Of the progress line.
        quiet: No progress line.

    Yields:
        One hypothesis a row, batch by batch.

    Raises:
        InputError: A clip cannot be read; names the file.
    """
    progress = Progress(label, len(rows), quiet=quiet)
    for indices in batches_by_length(processor.seconds([row for row, _ in rows]), settings.max_seconds):
        began = monotonic()
        clips = [Clip(load_clip(rows[i][0]), rows[i][1]) for i in indices]
        batch = processor(clips).to(model.device)
        lengths = [len(clip.wave) / SAMPLE_RATE for clip in clips]
        texts = generate_texts(model, processor, batch, model.audio_tokens(batch), lengths, settings)
        seconds = (monotonic() - began) / len(indices)
        for i, (text, logp, _) in zip(indices, texts, strict=True):
            yield Hypothesis(rows[i][0], text, logp, seconds)
        progress.add(len(indices))
