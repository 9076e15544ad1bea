"""A short look at the model during training: losses on held-out rows, and what it writes for them."""

import torch

from data.audio import load_clip
from data.batches import batches_by_length
from data.manifest import Row
from data.prompts import instruction
from distill.objective import Example, Objective
from distill.recipe import LossWeights, Recipe
from distill.scoring import score_asr
from teacher.hypotheses import write_hypotheses
from teacher.processor import Clip, SalmonnProcessor


@torch.no_grad()
def validate(
    recipe: Recipe, objective: Objective, processor: SalmonnProcessor, rows: list[Row], losses: LossWeights
) -> dict[str, float]:
    """Cross-entropy, and WER of speech rows: from the LLM where the stage trains it, else from CTC's best path."""
    if not rows:
        return {}
    model = objective.student
    instructions = [instruction(recipe.data.prompts, row.task) for row in rows]
    out: dict[str, float] = {}
    if losses.ce or losses.kd:
        out["ce"] = _cross_entropy(objective, processor, rows, instructions, recipe.generation.max_seconds)
        pairs = list(zip(rows, instructions, strict=True))
        texts = {h.row.id: h.text for h in write_hypotheses(model, processor, pairs, recipe.generation, quiet=True)}
        hypotheses = [texts[row.id] for row in rows]
    elif losses.ctc:
        hypotheses = _ctc_texts(objective, processor, rows)
    else:
        return out
    if all(row.task == "asr" for row in rows):
        out["wer"] = score_asr([row.text for row in rows], hypotheses).wer
    else:
        out["exact"] = sum(h in (r.references or (r.text,)) for r, h in zip(rows, hypotheses, strict=True)) / len(rows)
    return out


def _cross_entropy(
    objective: Objective, processor: SalmonnProcessor, rows: list[Row], instructions: list[str], max_seconds: float
) -> float:
    weights, total, tokens = LossWeights(ce=1.0), 0.0, 0
    for batch in batches_by_length(processor.seconds(rows), max_seconds):
        clips = [Clip(load_clip(rows[i]), instructions[i], rows[i].text) for i in batch]
        example = Example(processor(clips).to(objective.student.device))
        counts = example.counts(objective.student)
        _, sums = objective(example, weights, counts)
        total, tokens = total + float(sums["ce"]), tokens + counts["tokens"]
    return total / tokens


def _ctc_texts(objective: Objective, processor: SalmonnProcessor, rows: list[Row]) -> list[str]:
    model = objective.student
    texts: dict[int, str] = {}
    for batch in batches_by_length(processor.seconds(rows), 120.0):
        features = processor.features([load_clip(rows[i]) for i in batch])
        states = model.encode(features.to(model.device))
        paths = objective.ctc.decode(model.connector(states), model.connector.windows(states.frames_B))
        texts |= {i: processor.tokenizer.decode(ids) for i, ids in zip(batch, paths, strict=True)}
    return [texts[i] for i in range(len(rows))]
