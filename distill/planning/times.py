"""Steps, operations and hours of a stage, and of caching."""

from dataclasses import dataclass

import numpy as np

from distill.planning.activations import needs_gradient
from distill.planning.clips import micro_batch
from distill.planning.linears import Work
from distill.planning.operations import asked_work, beats_work, connector_work, encoder_work, llm_work
from distill.planning.setting import Setting
from distill.recipe.stages import StageSettings


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


def stage_times(on: Setting, stage: StageSettings) -> Times:
    """Steps, operations and hours of a stage; writing texts, which is bound by memory, is not in them."""
    batches = flop = 0.0
    with on.only(stage):
        for at in np.flatnonzero(on.clips.number):
            seconds, number = float(on.clips.seconds[at]), float(on.clips.number[at])
            texts = float(on.clips.tokens[at])
            batches += number / on.clips_of(stage, stage.max_seconds, seconds, texts)
            flop += number * _work(on, stage, seconds, texts).all
    steps = batches / (on.card.number * on.accumulation)
    each = flop / (steps * on.card.number)
    return Times(steps, each, stage.steps * each / (on.card.flops * on.card.utilisation) / 3600)


def caching_hours(on: Setting) -> float:
    """Hours of the teacher's passes over all rows, on all GPUs; writing texts is not in them."""
    flop = 0.0
    for at in np.flatnonzero(on.clips.number):
        texts, seconds = float(on.clips.tokens[at]), float(on.clips.seconds[at])
        batch = micro_batch(on.teacher.config, 1, seconds, texts, on.prompts[0])
        flop += float(on.clips.number[at]) * asked_work(on.teacher, batch, llm=True).all
    return flop / (on.card.number * on.card.flops * on.card.utilisation) / 3600


def _work(on: Setting, stage: StageSettings, seconds: float, texts: float) -> Work:
    """Operations on one clip of a length."""
    used, model = stage.used, on.student
    batch = micro_batch(model.config, 1, seconds, texts, on.prompts[1])
    heard = needs_gradient(model.encoder) or needs_gradient(model.beats)
    llm = bool(used.ce or used.kd or used.hidden)
    done = encoder_work(model.encoder, batch, again=on.again)
    if model.beats is not None:
        done += beats_work(model.beats, batch)
    if llm or used.ctc or used.audio_tokens:
        done += connector_work(model.connector, batch, flows=heard, again=on.again)
    if llm:
        tokens = heard or needs_gradient(model.connector)
        done += llm_work(model, batch, flows=tokens, again=on.again, head=bool(used.ce or used.kd))
    if parts := on.recipe.in_memory(stage):
        asked = micro_batch(on.teacher.config, 1, seconds, texts, on.prompts[0])
        done += asked_work(on.teacher, asked, llm=parts == "whole")
    return done
