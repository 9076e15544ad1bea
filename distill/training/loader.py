"""The micro-batches of each step, made ahead."""

import numpy as np
import torch

from data.batches import LengthBatches
from data.errors import InputError
from data.hashing import seed_of
from data.mixing import Mix, row_weights
from data.rows.shards import shards_of
from distill.recipe.recipe import Recipe
from distill.recipe.stages import OnPolicySettings, StageSettings
from distill.training.examples import Examples
from distill.training.makers import Asked, InProcesses, InThreads, Maker, workers_of
from distill.training.objective import Example
from distill.training.texts import NONE, REFERENCE


class StepLoader:
    """What this rank trains on at each step: a pure function of the step, so that nothing is lost on a restart.

    A stage goes on through the rows where the last one of the same budgets, tasks, rows and mix has ended; one that is
    the first of its kind sees them in an order of its own.

    Args:
        recipe: The run.
        examples: Makes a micro-batch of some rows.
        rank: This process.
        world: Processes.
        accumulation: Micro-batches of one rank in one optimizer step.
        device: The one that trains; the CPU if not given.

    Raises:
        InputError: A stage has fewer batches than one step needs, or no row with a text that it trains on.
    """

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples,
        *,
        rank: int,
        world: int,
        accumulation: int,
        device: torch.device | None = None,
    ) -> None:
        self.recipe, self.examples = recipe, examples
        self._split = {"rank": rank, "world": world, "accumulation": accumulation}
        self._stages: list[tuple[LengthBatches, np.ndarray, int]] = []
        """Each stage's batches, the rows that they are of, and the steps that earlier stages took of them."""
        orders: dict[tuple, tuple[LengthBatches, np.ndarray]] = {}
        taken: dict[tuple, int] = {}
        for number, stage in enumerate(recipe.train.stages):
            mix = recipe.data.mix if stage.mix is None else stage.mix
            texts = self._texts_of(stage)
            # As far as they tell which rows there are, and how long their texts are.
            seen = texts if stage.max_text_tokens else texts != NONE
            kind = stage.max_seconds, stage.max_text_tokens, frozenset(stage.tasks), mix, seen.tobytes()
            if kind not in orders:
                seed = seed_of([recipe.seed, number]) if number else recipe.seed
                orders[kind] = self._order(stage, mix, texts, seed)
            batches, chosen = orders[kind]
            self._stages.append((batches, chosen, taken.get(kind, 0)))
            taken[kind] = taken.get(kind, 0) + stage.steps
            if rank == 0:
                sound, text = (f"{100 * share:.1f}%" for share in batches.padding())
                padding = f"{sound} of the sound" + (f" and {text} of the text" if stage.max_text_tokens else "")
                print(f"{stage.name}: {batches.steps_per_epoch} steps an epoch, {padding} is padding", flush=True)
        kind = "cpu" if device is None else device.type
        of_run = examples, self._asked, recipe.total_steps, recipe.train.prefetch
        self._maker: Maker
        if workers := workers_of(recipe.train.workers, kind):
            self._maker = InProcesses(*of_run, workers=workers, accumulation=accumulation, pinned=kind == "cuda")
        else:
            self._maker = InThreads(*of_run)

    def load(self, step: int) -> list[Example]:
        """This rank's micro-batches of a step; those of the next steps are made meanwhile."""
        return self._maker.load(step)

    def close(self) -> None:
        """Ends what makes batches."""
        self._maker.close()

    def largest(self, index: int, written: OnPolicySettings | None = None) -> list[Example]:
        """The micro-batches of a stage that take the most memory, whichever rank meets them.

        Args:
            index: Of the stage.
            written: How the student writes their texts, each as long as its cap; None where texts are given.
        """
        batches, chosen, _ = self._stages[index]
        stage, lengths = self.recipe.train.stages[index], None
        if written:
            lengths = [written.cap(seconds) for seconds in batches.durations_s.tolist()]
        elif stage.used.texts:
            lengths = self.examples.texts.lengths(self.examples.processor, self._texts_of(stage))[chosen]
        own_texts = written is not None
        return [
            self.examples(chosen[of].tolist(), stage.used, stage.targets, own_texts) for of in batches.largest(lengths)
        ]

    def _texts_of(self, stage: StageSettings) -> np.ndarray:
        """What a stage trains each of all rows on (`TrainingTexts.chosen`); REFERENCE where it asks for no text."""
        if stage.used.texts and stage.takes_given_texts:
            return self.examples.texts.chosen(stage.targets)
        return np.full(len(self.examples.rows), REFERENCE, np.uint8)

    def _order(self, stage: StageSettings, mix: Mix, texts: np.ndarray, seed: int) -> tuple[LengthBatches, np.ndarray]:
        """The batches of a stage's rows, and the numbers of these rows among all."""
        data, processor, every = self.recipe.data, self.examples.processor, self.examples.rows
        chosen = every.among("task", stage.tasks) if stage.tasks else np.ones(len(every), bool)
        if chosen.any() and not (chosen := chosen & (texts != NONE)).any():
            raise InputError(
                f"stage '{stage.name}': no row has a text that it trains on (targets: {', '.join(stage.targets)}); "
                "change its targets, or the thresholds of train.hypotheses"
            )
        rows, weights = every.where(chosen), row_weights(every, mix)
        batches = LengthBatches(
            processor.seconds(rows),
            max_seconds=stage.max_seconds,
            seed=seed,
            **self._split,
            text_tokens=self.examples.texts.lengths(processor, texts)[chosen] if stage.max_text_tokens else (),
            max_text_tokens=stage.max_text_tokens,
            weights=None if weights is None else weights[chosen],
            shards=shards_of(rows) if data.source == "shards" else None,
            buffer_rows=data.buffer_rows,
        )
        return batches, np.flatnonzero(chosen)

    def _asked(self, step: int) -> list[Asked]:
        index, within = self.recipe.locate(step)
        batches, chosen, taken = self._stages[index]
        weights, own_texts = self.recipe.weights_at(step), self.recipe.on_policy_at(step) is not None
        rows, targets = batches.step(taken + within), self.recipe.train.stages[index].targets
        return [Asked(chosen[of].tolist(), weights, targets, own_texts) for of in rows]
