"""A short look at the model during training: losses on held-out rows, what it writes for them, and its scores."""

from typing import Literal

import deepspeed
import torch

from data.prompts import instruction
from data.rows.row import Row
from distill.losses.settings import LossWeights
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import grouped, of_kind
from distill.scoring.captions import cider_d
from distill.scoring.transcripts import score_asr
from distill.training.objective import Example, Objective
from teacher.hypotheses import write_hypotheses
from teacher.processor import Clip, SalmonnProcessor


@torch.no_grad()
def validate(
    recipe: Recipe, objective: Objective, processor: SalmonnProcessor, rows: list[Row], weights: LossWeights
) -> tuple[dict[str, float], dict[str, str]]:
    """Cross-entropy, and texts by row id: from the LLM where the stage trains it, else from CTC's best path."""
    if not rows:
        return {}, {}
    instructions = [instruction(recipe.data.prompts, row.task, question=row.question) for row in rows]
    if weights.ce or weights.kd:
        ce = _cross_entropy(objective, processor, rows, instructions, recipe.generation.max_seconds)
        pairs = list(zip(rows, instructions, strict=True))
        written = write_hypotheses(objective.student, processor, pairs, recipe.generation, quiet=True)
        return {"ce": ce}, {hypothesis.row.id: hypothesis.text for hypothesis in written}
    return {}, _ctc_texts(objective, processor, rows) if weights.ctc else {}


def score_texts(rows: list[Row], texts: dict[str, str]) -> dict[str, float]:
    """WER of the speech, CIDEr-D of the captions (of two clips or more), share of right answers among the rest."""
    speech, captions = of_kind(rows, "asr"), grouped(of_kind(rows, "aac"), "aac")
    kinds = {row.id for row in [*speech, *of_kind(rows, "aac")]}
    others = [row for row in rows if row.id not in kinds]
    metrics = {}
    if speech:
        metrics["wer"] = score_asr([row.text for row in speech], [texts[row.id] for row in speech]).wer
    if len(captions) > 1:
        references = [row.references or (row.text,) for row in captions]
        metrics["cider_d"] = cider_d(references, [texts[row.id] for row in captions])
    if others:
        right = sum(texts[row.id] in (row.references or (row.text,)) for row in others)
        metrics["exact"] = right / len(others)
    return metrics


def default_metric(rows: list[Row]) -> Literal["wer", "cider_d", "ce"]:
    """What tells best how good a model is on these rows: see `train.best_by`."""
    if of_kind(rows, "asr"):
        return "wer"
    return "cider_d" if len(grouped(of_kind(rows, "aac"), "aac")) > 1 else "ce"


def _cross_entropy(
    objective: Objective, processor: SalmonnProcessor, rows: list[Row], instructions: list[str], max_seconds: float
) -> float:
    weights, total, tokens = LossWeights(ce=1.0), 0.0, 0
    for indices, waves in processor.decoded(rows, max_seconds):
        clips = [Clip(wave, instructions[i], rows[i].text) for i, wave in zip(indices, waves, strict=True)]
        example = Example(processor(clips).to(objective.student.device))
        counts = example.counts(objective.student)
        _, sums = objective(example, weights, counts)
        total, tokens = total + float(sums["ce"]), tokens + counts["tokens"]
    return total / tokens


def _ctc_texts(objective: Objective, processor: SalmonnProcessor, rows: list[Row]) -> dict[str, str]:
    model = objective.student
    texts: dict[int, str] = {}
    for indices, waves in processor.decoded(rows, 120.0):
        features = processor.features(waves)
        states = model.encode(features.to(model.device))
        audio_NH = model.connector(states)
        # ZeRO 3 gathers a module's weights for its forward pass alone, and this is not it.
        with deepspeed.zero.GatheredParameters(list(objective.ctc.parameters())):
            paths = objective.ctc.decode(audio_NH, model.connector.windows(states.frames_B))
        texts |= {i: processor.tokenizer.decode(ids) for i, ids in zip(indices, paths, strict=True)}
    return {rows[i].id: text for i, text in texts.items()}
