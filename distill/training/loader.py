"""The micro-batches of each step, made ahead in threads."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from data.batches import LengthBatches
from data.mixing import row_weights
from data.rows.shards import shards_of
from distill.recipe.recipe import Recipe
from distill.training.examples import Examples
from distill.training.objective import Example


class StepLoader:
    """What this rank trains on at each step: a pure function of the step, so that nothing is lost on a restart.

    Args:
        recipe: The run.
        examples: Makes a micro-batch of some rows.
        rank: This process.
        world: Processes.
        accumulation: Micro-batches of one rank in one optimizer step.

    Raises:
        InputError: A stage has fewer batches than one step needs.
    """

    def __init__(self, recipe: Recipe, examples: Examples, *, rank: int, world: int, accumulation: int) -> None:
        self.recipe, self.examples = recipe, examples
        self._stages = []
        for stage in recipe.train.stages:
            chosen = examples.rows.among("task", stage.tasks) if stage.tasks else np.ones(len(examples.rows), bool)
            rows, processor = examples.rows.where(chosen), examples.processor
            mix_weights = row_weights(examples.rows, recipe.data.mix if stage.mix is None else stage.mix)
            batches = LengthBatches(
                processor.seconds(rows),
                max_seconds=stage.max_seconds,
                seed=recipe.seed,
                rank=rank,
                world=world,
                accumulation=accumulation,
                text_tokens=list(processor.text_lengths(rows.values("text"))) if stage.max_text_tokens else (),
                max_text_tokens=stage.max_text_tokens,
                weights=None if mix_weights is None else mix_weights[chosen],
                shards=shards_of(rows) if recipe.data.source == "shards" else None,
                buffer_rows=recipe.data.buffer_rows,
            )
            if rank == 0:
                sound, text = (f"{100 * share:.1f}%" for share in batches.padding())
                padding = f"{sound} of the sound" + (f" and {text} of the text" if stage.max_text_tokens else "")
                print(f"{stage.name}: {batches.steps_per_epoch} steps an epoch, {padding} is padding", flush=True)
            self._stages.append((batches, np.flatnonzero(chosen)))
        self._pool = ThreadPoolExecutor(max(recipe.train.prefetch, 1))
        self._coming: dict[int, list[Future[Example]]] = {}

    def load(self, step: int) -> list[Example]:
        """This rank's micro-batches of a step; those of the next steps are made meanwhile."""
        asked = self._coming.pop(step, None) or self._ask(step)
        made = [example.result() for example in asked]
        for ahead in range(step + 1, min(step + 1 + self.recipe.train.prefetch, self.recipe.total_steps)):
            if ahead not in self._coming:
                self._coming[ahead] = self._ask(ahead)
        return made

    def _ask(self, step: int) -> list[Future[Example]]:
        index, within = self.recipe.locate(step)
        batches, chosen = self._stages[index]
        weights = self.recipe.train.stages[index].weights_at(within)
        return [self._pool.submit(self.examples, chosen[rows].tolist(), weights) for rows in batches.step(within)]
