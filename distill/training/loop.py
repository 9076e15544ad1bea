"""The training loop: stages over one DeepSpeed engine, exact resume, progress, checkpoints, validation."""

import time
from contextlib import AbstractContextManager, closing
from pathlib import Path

import torch.distributed as dist

from data.cache.reader import CacheReader
from distill.recipe.recipe import Recipe
from distill.recipe.splits import validation_texts
from distill.recipe.stages import StageSettings
from distill.training.building import build_examples, build_objective
from distill.training.checkpoints import best_step, drop_old, load_best, resume, save, was_validated
from distill.training.elastic import accumulation_of, processes_of_run
from distill.training.engine import gathered, join_ranks, start_engine
from distill.training.export import save_model
from distill.training.failures import as_input_error
from distill.training.held_teacher import HeldTeacher
from distill.training.loader import StepLoader
from distill.training.on_policy import OnPolicy
from distill.training.peers import PeerWatch
from distill.training.rows import training_rows, validation_rows
from distill.training.run_log import Pace, RunLog
from distill.training.same_run import begin, is_finished, require_same_run, run_identity
from distill.training.spreads import measured_spreads, relative
from distill.training.step import OptimizerStep, sum_over_ranks
from distill.training.stopping import StopRequest
from distill.training.validation import default_metric, score_texts, validate
from teacher.device import give_back_memory, lowering
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor

_GOES_ON = "; this run then goes on from its last checkpoint"
_GIVE_BACK_EVERY = 20
"""Steps after which freed memory goes back to the system, on the CPU."""


class Trainer:
    """Trains `student` by `recipe` under DeepSpeed.

    The flow: 1. end where an earlier start has left the model and no checkpoint, else go on from the newest one;
    2. where a stage begins, load the teacher that it asks, or let it go; 3. step (`step.py`) and log; 4. now and then
    validate and save; 5. write the model. Nothing but the engine carries state from one step to the next.

    Args:
        recipe: The run.
        student: The model to train (the teacher itself in a recipe without a student).
        processor: Its processor.
        cache: The teacher's cache, where a stage trains on what it holds.
        teacher_processor: The teacher's, where a stage trains on anything of the teacher's.
    """

    def __init__(
        self,
        recipe: Recipe,
        student: SalmonnForConditionalGeneration,
        processor: SalmonnProcessor,
        cache: CacheReader | None = None,
        teacher_processor: SalmonnProcessor | None = None,
    ) -> None:
        self.recipe, self.processor = recipe, processor
        join_ranks(recipe.train.timeout_s)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        rows, self.valid = training_rows(recipe, cache), validation_rows(recipe)
        begun = processes_of_run(recipe, self.world)
        objective = build_objective(recipe, student, processor, rows, teacher_processor)
        self.engine = start_engine(recipe, objective, accumulation_of(recipe, begun, self.world))
        self._peers = PeerWatch() if self.world > 1 and dist.get_backend() != "gloo" else None
        self.teacher = HeldTeacher(recipe, self.engine)
        self.identity = run_identity(recipe, rows, begun, None if cache is None else cache.identity)
        self.examples = build_examples(recipe, processor, rows, cache, teacher_processor, quiet=self.rank > 0)
        accumulation = self.engine.gradient_accumulation_steps()
        split = {"rank": self.rank, "world": self.world, "accumulation": accumulation}
        self.loader = StepLoader(recipe, self.examples, **split, device=self.engine.device)
        on_policy = OnPolicy(recipe.seed, self.engine, processor, self.examples.teacher_processor)
        self.one_step = OptimizerStep(recipe, self.engine, self.loader, on_policy)
        teacher_texts = validation_texts(recipe, teacher_processor) if teacher_processor and self.rank == 0 else {}
        self.log = RunLog(recipe, self.engine.monitor, self.engine.device, teacher_texts)
        self.metric = recipe.train.best_by or default_metric([row for rows in self.valid.values() for row in rows])
        self.step = 0
        self.stopped, self._stop = False, StopRequest()
        self.finished = False
        """An earlier start has written the model, and nothing is left to write it from."""

    def train(self) -> None:
        """Runs from the newest checkpoint, or from the start, to the last stage's end; `stopped` tells a signal did.

        Raises:
            InputError: The loss is no number, or something outside ends the run (see `as_input_error`).
        """
        with as_input_error(self.recipe.run_dir, self.recipe.train.timeout_s), closing(self.loader):
            self._train()

    def _train(self) -> None:
        require_same_run(self.recipe.run_dir, self.identity)
        self.finished = self._any(self.rank == 0 and is_finished(self.recipe.run_dir))
        if self.finished:
            return
        self._resume()
        settings, total = self.recipe.train, self.recipe.total_steps
        if settings.keep_encoded and self.step < total:
            self.examples.keep_encoded(self.engine.module.student, max_seconds=120, quiet=self.rank > 0)
        if self._tries_largest() and self.step < total:
            self._try_largest()
        pace = Pace(total, settings.validate_every if self.valid else 0)
        self.stopped = self._any(bool(self._stop))  # while it was made ready
        # A run that was told to stop did not wait for it.
        if (
            not self.stopped
            and self._is_due()
            and self._any(self.rank == 0 and not was_validated(self.recipe, self.step))
        ):
            self._validate(pace)
        while self.step < total and not self.stopped:
            with self._within(self.recipe.locate(self.step)[0]):
                self._begin(self._stage_of(self.step))
                record = self.one_step(self.step)
            self.step += 1
            if self.step % _GIVE_BACK_EVERY == 0:
                give_back_memory()
            if self.rank == 0:
                with self._stop.where_nobody_reads():
                    self.log.step(record, pace(record["stage"], record["seconds"], self.step))
            # A signal may have reached one rank only: they stop together, and before a validation that takes long.
            self.stopped, unread = self._each(bool(self._stop), self.examples.left_out.new > 0)
            if unread:
                self.examples.left_out.share()
            better = False
            if self._is_due() and not self.stopped:
                better = self._validate(pace)
            due = self.step % settings.save_every == 0 or self.step == total or self._loads_next()
            if due or self.stopped or better:
                best = best_step(self.recipe, self.metric)
                state = {"step": self.step, "spreads": self.spreads, "left_out": self.examples.left_out.of_all}
                save(self.engine, self.recipe.run_dir, state, settings.keep_checkpoints, best)
        self.teacher.hold(None)
        if self.stopped and self.rank == 0:
            print(f"stopped at step {self.step}; the same command goes on from there", flush=True)

    def _tries_largest(self) -> bool:
        asked = self.recipe.train.largest_first
        return asked == "always" or (asked == "gpu" and self.engine.device.type != "cpu")

    def _try_largest(self) -> None:
        """Passes the largest micro-batches of all stages to come: what does not fit shows now, not hours later.

        They are those of a stage's first epoch: later ones, made up anew, may have one that is a little larger.
        """
        began = time.monotonic()
        for index in range(self.recipe.locate(self.step)[0], len(self.recipe.train.stages)):
            with self._within(index):
                self._begin(self.recipe.train.stages[index])
                self.one_step.rehearse(index)
        if self.rank == 0:
            print(f"the largest batches fit ({time.monotonic() - began:.0f} s)", flush=True)

    def _within(self, index: int) -> AbstractContextManager[None]:
        """Where memory is used up in a stage, its budget is named, and what helps a run that has begun."""
        stage, mend = self.recipe.train.stages[index], "; the last checkpoint is kept, another budget is another run"
        if "activation_checkpointing" not in self.recipe.deepspeed:
            mend = ", or go on from the last checkpoint with deepspeed.activation_checkpointing={}"
        return lowering(f"train.stages.{index}.max_seconds", stage.max_seconds, mend)

    def _loads_next(self) -> bool:
        """Whether the next step loads the teacher, which may not fit into memory: what was done before it is saved."""
        asked = self.recipe.in_memory(self._stage_of(self.step))
        return asked is not None and asked != self.teacher.parts

    def _begin(self, stage: StageSettings) -> None:
        """Has in memory what the stage asks of the teacher, and knows what its relative distances are measured in."""
        self.teacher.hold(self.recipe.in_memory(stage))
        if names := relative(self.recipe, stage.matched) - self.spreads.keys():
            self.spreads |= measured_spreads(self.recipe, self.engine, self.examples, names)

    def _stage_of(self, step: int) -> StageSettings:
        return self.recipe.train.stages[self.recipe.locate(step)[0]]

    def _is_due(self) -> bool:
        """Whether this step is one at which there is a look at the validation sets."""
        due = self.step % self.recipe.train.validate_every == 0 or self.step == self.recipe.total_steps
        return bool(self.valid) and self.step > 0 and due

    def _any(self, here: bool) -> bool:
        """Whether something holds on any rank."""
        return self._each(here)[0]

    def _each(self, *here: bool) -> list[bool]:
        """Whether each of these holds on any rank."""
        found = sum_over_ranks([{str(number): float(of) for number, of in enumerate(here)}], self.engine.device)
        return [number > 0 for number in found.values()]

    def _validate(self, pace: Pace) -> bool:
        """Looks at every validation set; whether this step is the best so far.

        A signal ends it (`stopped`), and nothing is written down of it: a scheduler does not wait as long as it takes.
        """
        began = time.monotonic()
        stage = self._stage_of(self.step - 1)
        self.engine.eval()
        looked = {}
        with gathered(self.engine):
            for name, rows in self.valid.items():
                with lowering("generation.max_seconds", self.recipe.generation.max_seconds, _GOES_ON):
                    asked = (self.recipe, self.engine.module, self.processor, rows, stage.used)
                    looked[name] = validate(*asked, lambda: bool(self._stop))
                if looked[name] is None:
                    self.stopped = True
                    return False
        if self.rank == 0:
            sets = {}
            for name, (figures, texts, faults) in looked.items():
                scores = score_texts(self.valid[name], texts) if texts else {}
                sets[name] = (figures | scores, self.valid[name], texts)
                if faults:
                    print(
                        f"validation {name}: {len(faults)} of {len(texts)} clips cannot be heard and count as empty "
                        f"texts ({next(iter(faults.values()))})",
                        flush=True,
                    )
            with self._stop.where_nobody_reads():
                self.log.validation(self.step, sets)
        pace.validated(time.monotonic() - began)
        # The first rank alone has written it.
        return self._any(self.rank == 0 and best_step(self.recipe, self.metric) == self.step)

    def save_model(self) -> tuple[Path, int]:
        """Writes the trained model of the recipe's choice; gives its folder and its step."""
        run_dir, step = self.recipe.run_dir, self.step
        with as_input_error(run_dir, self.recipe.train.timeout_s):
            if self.recipe.train.export == "best":
                step = load_best(self.engine, self.recipe, self.metric)
            return save_model(self.recipe, self.engine, self.processor), step

    def close(self) -> None:
        """This process is through: the others need not wait for it, and NCCL's group is left (gloo's is at exit)."""
        if self._peers:
            self._peers.end()
            dist.destroy_process_group()

    def _resume(self) -> None:
        run_dir = self.recipe.run_dir
        if self.rank == 0:
            begin(run_dir, self.recipe, self.identity)
        dist.barrier()
        state = resume(self.engine, self.recipe)
        if self.rank == 0:  # what a kill just after a save left
            drop_old(run_dir, self.recipe.train.keep_checkpoints, best_step(self.recipe, self.metric))
        self.step, self.spreads = state["step"], state.get("spreads", {})
        self.examples.hear_again(state.get("left_out", ()))
        if (matching := self.engine.module.matching) is not None:
            matching.spreads = self.spreads
