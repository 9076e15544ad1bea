"""A short look at the model during training: losses on held-out rows, what it writes for them, and its scores."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from data.batches import batches_by_length
from data.prompts import instruction
from data.rows.row import Row
from data.sound.audio import load_clips
from distill.losses.settings import LossWeights
from distill.recipe.recipe import Recipe
from distill.recipe.test_sets import grouped, of_kind
from distill.scoring.captions import cider_d
from distill.scoring.transcripts import score_asr
from distill.training.objective import Example, Objective
from teacher.hypotheses import write_batch
from teacher.processor import Clip, SalmonnProcessor


class Validation(NamedTuple):
    """What was found of a set: cross-entropy, texts by row id, and why clips could not be heard, by row id."""

    figures: dict[str, float]
    texts: dict[str, str]
    faults: dict[str, str]


@torch.no_grad()
def validate(
    recipe: Recipe,
    objective: Objective,
    processor: SalmonnProcessor,
    rows: list[Row],
    weights: LossWeights,
    stopping: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Looks at a set: by the LLM where the stage trains it, else by CTC's best path.

    All ranks take part, and get the same. Each looks at some of the batches, which are those of one rank alone. A clip
    that cannot be heard counts as an empty text, as in scoring: a run of days does not end by it.

    Args:
        recipe: The run's.
        objective: Its student in evaluation mode, with all of its weights (see `engine.gathered`).
        processor: The student's.
        rows: Of one set.
        weights: Largest ones of the stage.
        stopping: Whether this rank was asked to stop, which is looked at before each batch.

    Returns:
        What was found; None where a rank was asked to stop before the end.
    """
    by_llm = bool(weights.ce or weights.kd)
    if not rows or not (by_llm or weights.ctc):
        return Validation({}, {}, {})
    looked: list[Looked] = []
    batches = batches_by_length(processor.seconds(rows), recipe.generation.max_seconds)
    stopped = False
    for indices in batches[dist.get_rank() :: dist.get_world_size()]:
        if stopped := stopping():
            break
        batch = [rows[i] for i in indices]
        looked.append(_by_llm(recipe, objective, processor, batch) if by_llm else _by_ctc(objective, processor, batch))
    of_ranks: list[list[Looked] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(of_ranks, None if stopped else looked)
    if None in of_ranks:
        return None
    # One batch of each rank after the other: sums are those of one rank, to the last digit.
    in_order = [one for of_round in zip_longest(*of_ranks) for one in of_round if one is not None]
    texts = {row_id: text for one in in_order for row_id, text in one.texts.items()}
    faults = {row_id: fault for one in in_order for row_id, fault in one.faults.items()}
    tokens = sum(one.tokens for one in in_order)
    ce = {"ce": sum(one.ce for one in in_order) / tokens} if tokens else {}
    return Validation(ce, {row.id: texts.get(row.id, "") for row in rows}, faults)


class Looked(NamedTuple):
    """What was found of a batch: as of a set, but the sum of its cross-entropy and over how many tokens that is."""

    texts: dict[str, str]
    faults: dict[str, str]
    ce: float = 0.0
    tokens: int = 0


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


def _by_llm(recipe: Recipe, objective: Objective, processor: SalmonnProcessor, rows: list[Row]) -> Looked:
    asked = [(row, instruction(recipe.data.prompts, row.task, question=row.question)) for row in rows]
    waves, faults = load_clips(rows)
    of_rows = {rows[i].id: fault for i, fault in faults.items()}
    if not waves:
        return Looked({}, of_rows)
    clips = [Clip(wave, asked[i][1], rows[i].text) for i, wave in waves.items()]
    example = Example(processor(clips).to(objective.student.device))
    counts = example.counts(objective.student)
    # Not as a call: at ZeRO 3 a hook of DeepSpeed's would wait there for ranks that have no batch left.
    _, sums = objective.forward(example, LossWeights(ce=1.0), counts)
    written = write_batch(objective.student, processor, asked, recipe.generation, (waves, faults))
    texts = {hypothesis.row.id: hypothesis.text for hypothesis in written}
    return Looked(texts, of_rows, float(sums["ce"]), int(counts["tokens"]))


def _by_ctc(objective: Objective, processor: SalmonnProcessor, rows: list[Row]) -> Looked:
    model = objective.student
    waves, faults = load_clips(rows)
    of_rows = {rows[i].id: fault for i, fault in faults.items()}
    if not waves:
        return Looked({}, of_rows)
    states = model.encode(processor.features([*waves.values()]).to(model.device))
    paths = objective.ctc.decode(model.connector(states), model.connector.windows(states.frames_B))
    texts = {rows[i].id: processor.tokenizer.decode(ids) for i, ids in zip(waves, paths, strict=True)}
    return Looked(texts, of_rows)
