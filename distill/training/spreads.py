"""What relative distances are measured in: how far the teacher's features lie from their mean."""

import numpy as np
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from data.batches import batches_by_length
from data.cache.targets import TARGETS
from data.errors import InputError
from data.progress import Progress
from distill.losses.distances import Spread
from distill.losses.settings import LAST, LossWeights
from distill.recipe.recipe import Recipe
from distill.training.examples import Examples
from distill.training.objective import Objective
from distill.training.texts import NONE


def relative(recipe: Recipe, names: set[str]) -> set[str]:
    """Those of these features whose distance is relative, and so takes a spread."""
    return {name for name in names if getattr(recipe.train.match, name) == "relative"}


def measured_spreads(
    recipe: Recipe, engine: DeepSpeedEngine, examples: Examples, names: set[str]
) -> dict[str, list[float]]:
    """The spread of features whose distance is relative, for each of their pairs of layers.

    It is the mean squared deviation of the teacher's rows from their mean row, over `train.match.spread_clips` training
    clips. It is measured once, when the first stage that matches them begins, and kept in checkpoints. All ranks take
    part, and have the same: each looks at all of these clips, and the first one's figures count.

    Args:
        recipe: The run.
        engine: DeepSpeed's, over the objective.
        examples: Makes examples of the training rows.
        names: The features.

    Raises:
        InputError: Hidden states are matched, and no row has a text on which the teacher has some.
    """
    names = sorted(names)
    objective: Objective = engine.module
    weights = LossWeights(**dict.fromkeys(names, 1.0))
    rows = np.arange(len(examples.rows))
    if weights.texts:
        rows = np.flatnonzero(examples.texts.chosen(TARGETS) != NONE)
        if not len(rows):
            raise InputError(
                "train.match.hidden 'relative': no training row has a text on which the teacher's hidden states could "
                "be measured; set it to mse, cosine or smooth_l1"
            )
    chosen = rows[np.random.default_rng(recipe.seed).permutation(len(rows))[: recipe.train.match.spread_clips]]
    spreads = {name: [Spread() for _ in objective.matching.layers.get(name, [(LAST,)])[0]] for name in names}
    progress = Progress("spread of the teacher's features", len(chosen), quiet=dist.get_rank() > 0)
    # As much at a time as the stages that match features take.
    most = min(stage.max_seconds for stage in recipe.train.stages if stage.matched)
    for batch in batches_by_length(examples.processor.seconds([examples.rows[int(i)] for i in chosen]), most):
        targets = objective.targets(examples(chosen[batch].tolist(), weights).to(engine.device), weights)
        for name in names:
            for spread, rows_ND in zip(spreads[name], targets[name], strict=True):
                spread.add(rows_ND)
        progress.add(len(batch))
    values = torch.tensor([spread.value() for of in spreads.values() for spread in of], dtype=torch.float64)
    values = values.to(engine.device)
    dist.broadcast(values, 0)
    found = iter(values.tolist())
    return {name: [next(found) for _ in of] for name, of in spreads.items()}
