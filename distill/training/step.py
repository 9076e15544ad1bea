"""One optimizer step: from the rows of its number to updated weights and a record of what was measured."""

import json
import math
import time
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from data.errors import InputError
from data.paths import written_whole
from distill.losses.settings import LossWeights
from distill.recipe.recipe import Recipe
from distill.recipe.stages import OnPolicySettings, StageSettings
from distill.training.deepspeed_insides import forget_gradients, nothing_counted
from distill.training.loader import StepLoader
from distill.training.objective import UNITS, Example
from distill.training.on_policy import OnPolicy
from distill.training.optimizer import frozen, learning_rate, parameters_by_part


class OptimizerStep:
    """Takes steps by their numbers; all ranks together.

    The flow: 1. find the stage of the step; 2. take the step's micro-batches, and let the student write their texts
    where the step is on-policy; 3. count their units over all ranks; 4. forward and backward each, losses divided by
    the global counts; 5. optimizer step at the stage's learning rates.

    Args:
        recipe: The run.
        engine: DeepSpeed's, over the objective.
        loader: Makes the micro-batches.
        on_policy: Writes texts for steps on the student's own.
    """

    def __init__(
        self,
        recipe: Recipe,
        engine: DeepSpeedEngine,
        loader: StepLoader,
        on_policy: OnPolicy,
    ) -> None:
        self.recipe, self.engine, self.loader = recipe, engine, loader
        self.on_policy, self.trained = on_policy, parameters_by_part(engine.module)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def __call__(self, step: int) -> dict:
        """Takes a step, counted from 0, and gives its record.

        Raises:
            InputError: A loss or the gradient is no finite number; what it was over is in `failed_batch_RANK.json`.
        """
        index, within = self.recipe.locate(step)
        stage = self.recipe.train.stages[index]
        weights, kd = self.recipe.weights_at(step), self.recipe.divergence_of(stage)
        began = time.monotonic()
        made = self.loader.load(step)
        seeds = [micro_batch_seed(self.recipe.seed, step, n * self.world + self.rank) for n in range(len(made))]
        if own_texts := self.recipe.on_policy_at(step):
            made = self.on_policy.rewrite([example.to(self.engine.device) for example in made], step, own_texts)
        # Counted where they were made: on a GPU each count would wait for the device.
        student = self.engine.module.student
        counts = sum_over_ranks([example.counts(student) for example in made], self.engine.device)
        micro = [example.to(self.engine.device) for example in made]
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate(stage.peak_lr(group["name"]), stage, within)
        losses, sums, norm = self._pass(stage, zip(seeds, micro, strict=True), len(micro), (weights, counts, kd))
        grad_norm = float(norm or 0.0)
        # Under fp16 DeepSpeed left the step out, and lowers its loss scale.
        if not self.engine.fp16_enabled():
            for value, example in zip(torch.stack(losses).tolist(), micro, strict=True):
                if not math.isfinite(value):
                    raise self._no_number(step, "loss", value, example.ids)
            if not math.isfinite(grad_norm):
                ids = [row for example in micro for row in example.ids]
                raise self._no_number(step, "gradient's norm", grad_norm, ids)
        totals = sum_over_ranks(sums, self.engine.device)
        record = {"step": step, "stage": stage.name}
        if any(of.on_policy for of in self.recipe.train.stages):
            record["on_policy"] = own_texts is not None
        if own_texts:
            totals = {name: total for name, total in totals.items() if name not in ("ce", "correct")}
            record["ended"] = counts["ended"] / counts["texts"]
        record |= self._losses(totals, counts, weights, kd.temperature)
        record["grad_norm"] = grad_norm
        if self.engine.fp16_enabled():
            record["loss_scale"] = float(self.engine.optimizer.loss_scale)
        record["lr"] = {group["name"]: group["lr"] for group in self.engine.optimizer.param_groups}
        record |= {"tokens": int(counts["tokens"]), "audio_s": counts["frames"] / 50}
        return record | {"seconds": time.monotonic() - began}

    def rehearse(self, index: int) -> None:
        """Takes a step over each of a stage's largest micro-batches and learns nothing, to see that memory is enough.

        Those of given texts, and those of texts that the student writes, as the stage has either: the latter go on to
        their cap, as they may when the student has changed. At rates of 0 neither weights nor moments move
        (`skip_frozen_groups`); what the engine counts is put back.

        Args:
            index: Of the stage, which has in memory what it asks of the teacher.
        """
        stage, accumulation = self.recipe.train.stages[index], self.engine.gradient_accumulation_steps()
        ways: list[OnPolicySettings | None] = [None] if stage.takes_given_texts else []
        if stage.on_policy:
            ways.append(stage.on_policy)
        with nothing_counted(self.engine):
            for written in ways:
                for example in self.loader.largest(index, written):
                    self._try(stage, [example.to(self.engine.device)] * accumulation, written)
        forget_gradients(self.engine)

    def _try(self, stage: StageSettings, made: list[Example], written: OnPolicySettings | None) -> None:
        """Passes the micro-batches of a step, at rates of 0; with texts of the student where it is said how."""
        weights = stage.used
        if written:
            weights = weights.model_copy(update={"ce": 0.0, "ctc": 0.0})
            made = self.on_policy.rewrite(made, 0, written, to_the_cap=True)
        counts = sum_over_ranks([of.counts(self.engine.module.student) for of in made], self.engine.device)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = 0.0
        micro = [(0, of.to(self.engine.device)) for of in made]
        self._pass(stage, micro, len(made), (weights, counts, self.recipe.divergence_of(stage)))

    def _pass(
        self, stage: StageSettings, micro: Iterable[tuple[int, Example]], number: int, how: tuple
    ) -> tuple[list[Tensor], list[dict[str, Tensor]], Tensor | float | None]:
        """Forward and backward of a step's micro-batches, and the optimizer's step.

        Args:
            stage: Whose parts are trained.
            micro: Each micro-batch and its seed, on the device.
            number: How many there are.
            how: Weights, counts and divergence.

        Returns:
            Losses, the sums of each, and the gradient's norm before it was clipped, all on the device.
        """
        losses: list[Tensor] = []
        sums: list[dict[str, Tensor]] = []
        norm = None
        self.engine.train()
        forget_gradients(self.engine)
        with frozen(parameter for part, of in self.trained.items() if not stage.peak_lr(part) for parameter in of):
            for seed, example in micro:
                # Dropout depends on the batch's place in the run alone: not on a restart, nor on how many ranks share.
                torch.manual_seed(seed)
                loss, parts = self.engine(example, *how)
                # Looked at when all is launched: on a GPU each look would wait for the device.
                losses.append(loss.detach())
                sums.append(parts)
                # DeepSpeed averages over accumulation and ranks; the counts are global, so the sum is wanted.
                self.engine.backward(loss * (number * self.world))
                if isinstance(self.engine.optimizer, torch.optim.Optimizer) and len(losses) == number:
                    # In fp32 without ZeRO DeepSpeed wraps no optimizer, and knows no norm.
                    gradients = (parameter.grad for parameter in self.engine.module.parameters())
                    norm = nn.utils.get_total_norm([of for of in gradients if of is not None])
                self.engine.step()
        return losses, sums, self.engine.get_global_grad_norm() if norm is None else norm

    @staticmethod
    def _losses(
        totals: dict[str, float], counts: dict[str, float], weights: LossWeights, temperature: float
    ) -> dict[str, float]:
        """Each loss as a mean over its units, their weighted sum, and what goes with them."""
        means = {name: totals[name] / max(counts[unit], 1) for name, unit in UNITS.items() if name in totals}
        if "kd" in means:
            # As it is trained on: the gradient of a tempered divergence is made up for by T squared.
            means["kd"] *= temperature**2
        means["loss"] = sum(getattr(weights, name) * means[name] for name in UNITS if name in means)
        for name in ("correct", "agreement", "overlap"):
            if name in totals:
                means[name] = totals[name] / max(counts["tokens"], 1)
        if counts["kept_mass"]:
            means["kept_mass"] = counts["kept_mass"] / counts["distilled"]
        return means

    def _no_number(self, step: int, what: str, value: float, ids: Sequence[str]) -> InputError:
        """Writes down which clips the step was over; the next save would keep weights that are lost."""
        stage = self.recipe.locate(step)[0]
        path = self.recipe.run_dir / f"failed_batch_{self.rank}.json"
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps({"step": step, "what": what, "value": str(value), "ids": list(ids)}) + "\n")
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        return InputError(
            f"the {what} is {value} at step {step}, over the clips {shown} (all: {path}); lower "
            f"train.stages.{stage}.lr (the last checkpoint is kept)"
        )


def micro_batch_seed(seed: int, step: int, number: int) -> int:
    """The seed of what is drawn for a micro-batch: its dropout.

    `hash` gives whole numbers the same value in every process; it is salted for texts alone.

    Args:
        seed: The recipe's.
        step: Counted from 0.
        number: Of the micro-batch, among those of all ranks at this step.
    """
    return hash((seed, step, number))


def sum_over_ranks(rows: list[dict[str, float | Tensor]], device: torch.device) -> dict[str, float]:
    """Sums of each key over rows (a rank's micro-batches) and ranks, in float64: counts stay exact."""
    keys = list(rows[0])
    values = [torch.stack([torch.as_tensor(row[key], dtype=torch.float64) for key in keys]) for row in rows]
    sums = torch.stack(values).sum(0)
    if dist.get_world_size() > 1:
        sums = sums.to(device)
        dist.all_reduce(sums)
    return dict(zip(keys, sums.tolist(), strict=True))
