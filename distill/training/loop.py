"""The training loop: stages over one DeepSpeed engine, exact resume, progress, checkpoints, validation."""

import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from data.cache.reader import CacheReader
from data.errors import InputError
from data.rows.manifest import Manifest
from distill.losses.alignment import Alignment
from distill.losses.ctc import CtcHead
from distill.losses.matching import FeatureMatching
from distill.models.frozen import FrozenTeacher
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from distill.recipe.splits import validation_texts
from distill.recipe.stages import PARTS
from distill.training.checkpoints import (
    begin,
    best_step,
    load_best,
    require_same_run,
    resume,
    run_identity,
    save,
    was_validated,
)
from distill.training.engine import join_ranks, start_engine
from distill.training.examples import Examples
from distill.training.export import save_model
from distill.training.failures import as_input_error
from distill.training.loader import StepLoader
from distill.training.objective import Objective
from distill.training.on_policy import OnPolicy
from distill.training.optimizer import parameters_by_part
from distill.training.run_log import RunLog
from distill.training.step import OptimizerStep, sum_over_ranks
from distill.training.stopping import StopRequest
from distill.training.validation import default_metric, score_texts, validate
from student.shrink import set_trainable
from teacher.device import give_back_memory
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor

_GIVE_BACK_EVERY = 20
"""Steps after which freed memory goes back to the system, on the CPU."""


class Trainer:
    """Trains `student` by `recipe` under DeepSpeed.

    The flow: 1. go on from the newest checkpoint; 2. step (`step.py`) and log; 3. now and then validate and save; 4.
    write the model. Nothing but the engine carries state from one step to the next.

    Args:
        recipe: The run.
        student: The model to train (the teacher itself in a recipe without a student).
        processor: Its processor.
        teacher: The frozen teacher, where a stage asks it for what the cache does not have.
        cache: The teacher's cache, where a stage trains on what it holds.
        teacher_processor: The teacher's, where a stage trains on anything of the teacher's.
    """

    def __init__(
        self,
        recipe: Recipe,
        student: SalmonnForConditionalGeneration,
        processor: SalmonnProcessor,
        teacher: FrozenTeacher | None = None,
        cache: CacheReader | None = None,
        teacher_processor: SalmonnProcessor | None = None,
    ) -> None:
        self.recipe, self.student, self.processor = recipe, student, processor
        join_ranks(recipe.train.timeout_s)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        stages = recipe.train.stages
        rows = read_rows(recipe, recipe.data.train)
        if not (with_text := rows.with_text).all():
            if self.rank == 0:
                first = rows.where(~with_text)[0].id
                print(f"{(~with_text).sum()} rows without a text are left out, the first of them {first}", flush=True)
            rows = rows.where(with_text)
        if cache is not None:
            rows = _cached_rows(rows, cache, recipe.cache.folder)
        batch_processor = None
        if (teacher is not None or "beats" in recipe.matched) and not processor.hears_like(teacher_processor.config):
            batch_processor = teacher_processor
        alignment = Alignment(processor, teacher_processor) if recipe.train.kd.vocabulary == "universal" else None
        examples = Examples(recipe, processor, rows, cache, batch_processor, alignment)
        clips = recipe.train.validate_clips
        self.valid = {Path(path).stem: read_rows(recipe, path)[:clips] for path in recipe.data.valid}

        trained = {part for part in PARTS if any(getattr(stage.lr, part) for stage in stages)}
        embeddings = bool(recipe.student and recipe.student.train_embeddings)
        set_trainable(student, trained, embeddings=embeddings)
        ctc = self._ctc_head(rows) if any(stage.used.ctc for stage in stages) else None
        matching = None
        if recipe.matched:
            torch.manual_seed(recipe.seed)
            matching = FeatureMatching(student, teacher_processor.config, recipe.train.match, recipe.matched)
        objective = Objective(student, recipe.train.kd, ctc, teacher, matching)
        trained_parts = parameters_by_part(objective)
        self.engine = start_engine(recipe, objective)
        self.identity = run_identity(recipe, rows, self.world, None if cache is None else cache.identity)
        if teacher is not None:
            teacher.place(recipe, self.engine.device)
        if recipe.train.keep_encoded:
            examples.keep_encoded(student, max_seconds=120, quiet=self.rank > 0)
        loader = StepLoader(
            recipe,
            examples,
            rank=self.rank,
            world=self.world,
            accumulation=self.engine.gradient_accumulation_steps(),
        )
        on_policy = OnPolicy(recipe, self.engine, processor, batch_processor)
        self.one_step = OptimizerStep(recipe, self.engine, loader, on_policy, trained_parts)
        teacher_texts = validation_texts(recipe, teacher_processor) if teacher_processor and self.rank == 0 else {}
        self.log = RunLog(recipe, self.engine.monitor, self.engine.device, teacher_texts)
        self.metric = recipe.train.best_by or default_metric([row for rows in self.valid.values() for row in rows])
        self.step = 0
        self.stopped, self._stop = False, StopRequest()

    def _ctc_head(self, rows: Manifest) -> CtcHead:
        """Classes are the ids of the training texts, whatever the stage."""
        ids = sorted({token for text in rows.values("text") for token in self.processor.text_ids(text)[:-1]})
        torch.manual_seed(self.recipe.seed)
        return CtcHead(self.student.get_input_embeddings().weight.float(), ids)

    def train(self) -> None:
        """Runs from the newest checkpoint, or from the start, to the last stage's end; `stopped` tells a signal did.

        Raises:
            InputError: The loss is no number, or something outside ends the run (see `as_input_error`).
        """
        with as_input_error(self.recipe.run_dir, self.recipe.train.timeout_s):
            self._train()

    def _train(self) -> None:
        self._resume()
        settings, total = self.recipe.train, self.recipe.total_steps
        # A run that was told to stop did not wait for it.
        if self._is_due() and self._any(self.rank == 0 and not was_validated(self.recipe.run_dir, self.step)):
            self._validate()
        first, start = self.step, time.monotonic()
        while self.step < total and not self.stopped:
            record = self.one_step(self.step)
            self.step += 1
            if self.step % _GIVE_BACK_EVERY == 0:
                give_back_memory()
            if self.rank == 0:
                self.log.step(record, (time.monotonic() - start) / (self.step - first) * (total - self.step))
            # A signal may have reached one rank only: they stop together, and before a validation that takes long.
            self.stopped = self._any(bool(self._stop))
            better = False
            if self._is_due() and not self.stopped:
                better = self._validate()
            if self.step % settings.save_every == 0 or self.step == total or self.stopped or better:
                best = best_step(self.recipe.run_dir, self.metric)
                save(self.engine, self.recipe.run_dir, self.step, settings.keep_checkpoints, best)
        if self.stopped and self.rank == 0:
            print(f"stopped at step {self.step}; the same command goes on from there", flush=True)

    def _is_due(self) -> bool:
        """Whether this step is one at which there is a look at the validation sets."""
        due = self.step % self.recipe.train.validate_every == 0 or self.step == self.recipe.total_steps
        return bool(self.valid) and self.step > 0 and due

    def _any(self, here: bool) -> bool:
        """Whether something holds on any rank."""
        return sum_over_ranks([{"here": float(here)}], self.engine.device)["here"] > 0

    def _validate(self) -> bool:
        """Looks at every validation set; whether this step is the best so far."""
        stage = self.recipe.train.stages[self.recipe.locate(self.step - 1)[0]]
        self.engine.eval()
        for name, rows in self.valid.items():
            metrics, texts = validate(self.recipe, self.engine.module, self.processor, rows, stage.used)
            if self.rank == 0:
                metrics |= score_texts(rows, texts) if texts else {}
                self.log.validation({"step": self.step, "set": name} | metrics, rows, texts)
        # The first rank alone has written it.
        return self._any(self.rank == 0 and best_step(self.recipe.run_dir, self.metric) == self.step)

    def save_model(self) -> tuple[Path, int]:
        """Writes the trained model of the recipe's choice; gives its folder and its step."""
        run_dir, step = self.recipe.run_dir, self.step
        with as_input_error(run_dir, self.recipe.train.timeout_s):
            if self.recipe.train.export == "best":
                step = load_best(self.engine, run_dir, self.metric)
            return save_model(self.recipe, self.engine, self.processor), step

    def _resume(self) -> None:
        run_dir = self.recipe.run_dir
        require_same_run(run_dir, self.identity)
        dist.barrier()
        if self.rank == 0:
            begin(run_dir, self.recipe, self.identity)
        dist.barrier()
        self.step = resume(self.engine, run_dir)


def _cached_rows(rows: Manifest, cache: CacheReader, folder: str) -> Manifest:
    """The rows that the teacher could read; a cache that is not filled yet is no cache to train from."""
    failed = cache.failed()
    there = np.fromiter((row_id in cache for row_id in rows.values("id")), bool, len(rows))
    if missing := sum(row_id not in failed for row_id in rows.where(~there).values("id")):
        raise InputError(
            f"cache {folder}: {missing} of {len(rows)} rows are not cached yet; "
            "run 'bash scripts/cache_teacher.sh' with this recipe first"
        )
    return rows.where(there)
