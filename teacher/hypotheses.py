"""Texts that a model writes for clips, each with its mean log-probability.

Letters: B clips, T tokens of a text, R rows that are continued together (B x beams), K candidates of a row, V
vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from data.rows.row import Row
from data.settings import Settings
from data.sound.audio import SAMPLE_RATE, load_clips
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
    max_seconds: float = Field(120.0, gt=0, description="padded audio seconds of a batch in validation")


@dataclass(frozen=True)
class Hypothesis:
    """What a model wrote for a row.

    Attributes:
        row: The row.
        text: Cut at the end symbol, lower-case.
        logp: Mean log-probability of its tokens, end symbol included; None where what wrote it does not tell.
        seconds: Its share of the batch's time.
        fault: Why its clip cannot be heard; its text is empty then.
    """

    row: Row
    text: str
    logp: float | None
    seconds: float
    fault: str = ""


class _Caps(StoppingCriteria):
    """Ends each clip's text at its own cap, its search with it: cut afterwards, beams would have searched on."""

    def __init__(self, caps_B: Tensor) -> None:
        self.caps_B = caps_B

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        written = input_ids.shape[1]  # the prompt came as embeddings, and is not among them
        return (self.caps_B <= written).repeat_interleave(len(input_ids) // len(self.caps_B))


class _Candidates(LogitsProcessor):
    """Keeps the log-probabilities of what a step may choose, which are few, where `output_scores` keeps all V."""

    def __init__(self, beams: int) -> None:
        # A search takes the best 2 x beams continuations of all its beams, so no more than these of any one.
        self.normalised, self.count = beams > 1, 2 * beams
        self.ids_TRK: list[Tensor] = []
        self.logp_TRK: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logp_RV = scores if self.normalised else scores.float().log_softmax(-1)
        logp_RK, ids_RK = logp_RV.topk(min(self.count, logp_RV.shape[1]), dim=-1)
        self.logp_TRK.append(logp_RK)
        self.ids_TRK.append(ids_RK)
        return scores

    def of(self, ids_BT: Tensor, rows_BT: Tensor) -> Tensor:
        """The log-probability (B, T) of each token of a text, from the row that it continued."""
        logp_BT = torch.empty(ids_BT.shape, device=ids_BT.device)
        for step, (ids_RK, logp_RK) in enumerate(zip(self.ids_TRK, self.logp_TRK, strict=True)):
            if step == ids_BT.shape[1]:  # beams search on when the best text is there
                break
            chosen_BK = ids_RK[rows_BT[:, step]] == ids_BT[:, step, None]
            candidates_BK = logp_RK[rows_BT[:, step]]
            # Of equals the search may take one that is not kept; the last one that is has its value.
            logp_BT[:, step] = torch.where(
                chosen_BK.any(1), candidates_BK.masked_fill(~chosen_BK, 0.0).sum(1), candidates_BK[:, -1]
            )
        return logp_BT


@dataclass(frozen=True)
class Written:
    """What a model wrote for the clips of a batch.

    Attributes:
        ids_BT: Its ids; only end symbols from each text's end, or its cap, on.
        logp: Mean log-probability of each text's tokens, the end symbol included.
        ended: Whether each text has ended of itself.
    """

    ids_BT: Tensor
    logp: list[float]
    ended: list[bool]


def write_ids(
    model: SalmonnForConditionalGeneration,
    batch: Batch,
    audio_NH: Tensor,
    caps: Sequence[int],
    num_beams: int = 1,
    *,
    stopping_criteria: Sequence[StoppingCriteria] = (),
    streamer: BaseStreamer | None = None,
) -> Written:
    """Texts for a left-padded batch whose audio tokens are there: all that a model writes is written here.

    Args:
        model: In evaluation mode.
        batch: The prompts.
        audio_NH: Their audio tokens.
        caps: Most tokens of each text, and of its search: but for rounding, it is the same in any batch.
        num_beams: Beams; 1 is greedy.
        stopping_criteria: Further ones.
        streamer: Gets the ids as they are written; of greedy search alone.
    """
    caps_B = torch.tensor(caps, device=batch.input_ids_BT.device)
    candidates = _Candidates(num_beams)
    out = model.generate(
        batch,
        audio_NH,
        num_beams=num_beams,
        max_new_tokens=int(caps_B.max()),
        return_dict_in_generate=True,
        stopping_criteria=[_Caps(caps_B), *stopping_criteria],
        logits_processor=[candidates],
        streamer=streamer,
    )
    ids_BT = out.sequences
    rows_BT = torch.arange(len(ids_BT), device=ids_BT.device)[:, None].expand_as(ids_BT)
    if num_beams > 1:
        rows_BT = out.beam_indices.clamp(min=0)  # -1 past a text's end
    logp_BT = candidates.of(ids_BT, rows_BT)
    ended_BT = ids_BT == model.config.eos_token_id
    # Up to and with the first end symbol, and within the cap.
    written_BT = ended_BT.cumsum(1) - ended_BT.long() == 0
    written_BT &= torch.arange(ids_BT.shape[1], device=ids_BT.device) < caps_B[:, None]
    # A text that another criterion has stopped is filled up with pads.
    pads_BT = (ids_BT == model.config.pad_token_id) & ~ended_BT
    written_BT &= ~pads_BT.long().flip(1).cumprod(1).flip(1).bool()
    mean_B = logp_BT.masked_fill(~written_BT, 0.0).sum(1) / written_BT.sum(1).clamp(min=1)
    ids_BT = ids_BT.masked_fill(~written_BT, model.config.eos_token_id)
    return Written(ids_BT, mean_B.tolist(), (ended_BT & written_BT).any(1).tolist())


def generate_texts(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    batch: Batch,
    audio_NH: Tensor,
    seconds: list[float],
    settings: GenerationSettings,
) -> list[tuple[str, float, bool]]:
    """Texts, mean log-probabilities, and whether they ended, each within the cap of its own clip's `seconds`."""
    caps = [settings.cap(of) for of in seconds]
    written = write_ids(model, batch, audio_NH, caps, settings.num_beams)
    return list(zip(processor.decode(written.ids_BT), written.logp, written.ended, strict=True))


@torch.no_grad()
def write_batch(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    rows: Sequence[tuple[Row, str]],
    settings: GenerationSettings,
    heard: tuple[dict[int, np.ndarray], dict[int, str]] | None = None,
) -> list[Hypothesis]:
    """A text for each (row, instruction), in one batch of all whose clips can be heard.

    Args:
        model: In evaluation mode, on its device.
        processor: The model's.
        rows: Rows with the wording of their instruction.
        settings: Beams and caps.
        heard: The clips, where they are decoded already (`load_clips`).
    """
    began = monotonic()
    waves, faults = heard or load_clips([row for row, _ in rows])
    written = {}
    if waves:
        batch = processor([Clip(wave, rows[i][1]) for i, wave in waves.items()]).to(model.device)
        lengths = [len(wave) / SAMPLE_RATE for wave in waves.values()]
        texts = generate_texts(model, processor, batch, model.audio_tokens(batch), lengths, settings)
        written = dict(zip(waves, texts, strict=True))
    seconds = (monotonic() - began) / len(rows)
    return [
        Hypothesis(row, *written.get(i, ("", 0.0))[:2], seconds, faults.get(i, "")) for i, (row, _) in enumerate(rows)
    ]
