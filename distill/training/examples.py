"""From rows to examples: waves, prompts and texts, the cached teacher's word, encoder states kept in memory."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from data.batches import batches_by_length
from data.cache.reader import CacheReader
from data.cache.row import CachedRow
from data.cache.targets import TARGETS, Target
from data.errors import InputError
from data.progress import Progress
from data.prompts import instruction
from data.rows.manifest import Manifest
from data.rows.row import Row
from data.sound.audio import load_clip, sound_of
from data.sound.features import Features
from distill.losses.alignment import Alignment
from distill.losses.distances import column_frames
from distill.losses.matching import TeacherFeatures
from distill.losses.settings import LossWeights
from distill.losses.signals import SparseSignal
from distill.losses.universal import SpanSignal
from distill.recipe.recipe import Recipe
from distill.training.left_out import LeftOut
from distill.training.objective import Example
from distill.training.texts import HYPOTHESIS, NONE, TrainingTexts
from teacher.connector import AudioStates, windows_of
from teacher.encoder import encoder_frames
from teacher.model import SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor


class Examples:
    """Makes examples of training rows.

    Args:
        recipe: The run's recipe.
        processor: The student's.
        rows: Training rows.
        cache: The teacher's cache, where distillation uses it.
        teacher_processor: The teacher's, where it is in memory and hears the clips otherwise.
        alignment: Of the student's tokens and the teacher's, where their vocabularies are of different kinds.
        quiet: Do not print how many of the teacher's texts are trained on.
    """

    def __init__(
        self,
        recipe: Recipe,
        processor: SalmonnProcessor,
        rows: Manifest,
        cache: CacheReader | None = None,
        teacher_processor: SalmonnProcessor | None = None,
        alignment: Alignment | None = None,
        *,
        quiet: bool = True,
    ) -> None:
        self.teacher_processor, self.alignment = teacher_processor, alignment
        self.recipe, self.processor, self.rows, self.cache = recipe, processor, rows, cache
        self.texts = TrainingTexts(recipe, rows, cache, quiet=quiet)
        self._lock = Lock()
        self._kept: list[AudioStates | None] | None = None
        self.left_out = LeftOut(recipe.data.faults.max_dropped * len(rows))

    @torch.no_grad()
    def keep_encoded(self, model: SalmonnForConditionalGeneration, *, max_seconds: float, quiet: bool = False) -> None:
        """Computes the frozen encoder's states of all rows once, in bf16 (1.0 kB a frame at width 512).

        A clip that cannot be read has none.

        Raises:
            InputError: See `_load`.
        """
        kept: dict[int, AudioStates] = {}
        model.eval()
        seconds = self.processor.seconds(self.rows)
        progress = Progress("encoder states", len(self.rows), seconds=seconds.sum(), quiet=quiet)
        for indices in batches_by_length(seconds, max_seconds):
            clips = {i: wave for i in indices if (wave := self._load(self.rows[i])) is not None}
            if clips:
                features = self.processor.features(list(clips.values()))
                states = model.encode(features.to(model.device)).to("cpu", torch.bfloat16)
                kept |= zip(clips, states.split(), strict=True)
            progress.add(len(indices), seconds[indices].sum())
        self._kept = [kept.get(i) for i in range(len(self.rows))]

    def __call__(
        self, indices: list[int], weights: LossWeights, targets: Sequence[Target] = TARGETS, own_texts: bool = False
    ) -> Example:
        """The example of these rows, with what the stage's weights need of the teacher, on its choice of texts.

        Args:
            indices: Of the rows.
            weights: Of this step.
            targets: The stage's choice of texts.
            own_texts: The student will write its own texts in place of the rows' (`OnPolicy`), so nothing of these is
                asked of the cache.
        """
        teacher_batch = None
        chosen_N, with_text = self.texts.chosen(targets), weights.texts and not own_texts
        # A stage that matches features alone asks for no text.
        indices, heard = self._heard(indices, chosen_N != NONE if with_text else None)
        rows = [self.rows[i] for i in indices]
        with_signal = weights.kd > 0 and not own_texts and self.recipe.train.teacher == "cache"
        from_teacher = chosen_N[indices] == HYPOTHESIS
        from_cache = with_signal or (with_text and from_teacher.any())
        matched = weights.features and self.recipe.matches_from_cache
        entries = self._cached(rows) if from_cache or matched else []
        cached = entries if from_cache else []
        which = ["hypothesis" if cached and wrote else "reference" for wrote in from_teacher]
        texts = [row.text for row in rows]
        for i, entry in enumerate(cached):
            if which[i] == "hypothesis":
                texts[i] = entry.hypothesis
        # What a cached row was asked is what the student is asked of it.
        prompts = self.recipe.data.prompts
        instructions = [entry.prompt for entry in cached] or [
            instruction(prompts, row.task, row.id, row.question) for row in rows
        ]
        states = None
        if self._kept is not None:
            states = AudioStates.collate(heard)
            features = Features(torch.empty(0), 2 * states.frames_B)
        else:
            features = self.processor.features(heard)
            asked = (weights.features and not self.recipe.matches_from_cache) or (weights.kd and not with_signal)
            if asked and self.teacher_processor is not None:
                teacher_features = self.teacher_processor.features(heard)
                teacher_batch = self.teacher_processor.lay_out(teacher_features, instructions, texts)
        batch = self.processor.lay_out(features, instructions, texts)
        signal = self._signal(cached, which, texts) if with_signal else None
        known = columns_B = None
        if matched:
            known = self._features(rows, weights, features.mel_frames_B)
        if weights.beats:
            side = self.teacher_processor.config.beats_config["input_patch_size"]
            teacher_B = known.columns_B if known else teacher_batch.features.fbank_frames_B // side
            columns_B = teacher_B.minimum(encoder_frames(features.mel_frames_B) // column_frames(side))
        ids = tuple(row.id for row in rows)
        return Example(batch, signal, states, teacher_batch, known, columns_B, ids, tuple(instructions))

    def _heard(
        self, indices: list[int], with_text: np.ndarray | None
    ) -> tuple[list[int], list[np.ndarray] | list[AudioStates]]:
        """Of these rows those whose clips can be read, and the clips, or the encoder's states where these are kept.

        Where none of them can, the next row of the task stands in: a micro-batch of nothing has no loss. It has a text
        where one is asked for (a mask of the rows that do).
        """
        heard = [(i, found) for i in indices if (found := self._found(i)) is not None]
        last, task = indices[-1], self.rows[indices[-1]].task
        others = ((last + ahead) % len(self.rows) for ahead in range(1, len(self.rows)))
        while not heard:
            if (at := next(others, None)) is None:
                raise InputError(f"no clip of task '{task}' with a text of the stage can be read; mend some")
            fits = self.rows[at].task == task and (with_text is None or with_text[at])
            if fits and (found := self._found(at)) is not None:
                heard.append((at, found))
        numbers, found = zip(*heard, strict=True)
        return list(numbers), list(found)

    def _found(self, index: int) -> np.ndarray | AudioStates | None:
        return self._load(self.rows[index]) if self._kept is None else self._kept[index]

    def _load(self, row: Row) -> np.ndarray | None:
        """A row's clip; None for one that cannot be read and is left out, which is told.

        Raises:
            InputError: The policy is not to leave it out, or too many are.
        """
        try:
            return load_clip(row)
        except InputError as error:
            if self.recipe.data.faults.unreadable != "drop":
                raise InputError(f"{error} (left out with data.faults.unreadable=drop)") from error
            self.left_out.add(row.id, str(error))
            return None

    def hear_again(self, left_out: Sequence[str]) -> None:
        """Leaves out, of rows that an earlier start has left out, those that still cannot be read: they count on.

        Raises:
            InputError: Too many cannot.
        """
        if left_out and self.recipe.data.faults.unreadable == "drop":
            for row in self.rows.where(self.rows.among("id", left_out)):
                self._load(row)

    def _features(self, rows: list[Row], weights: LossWeights, mel_frames_B: Tensor) -> TeacherFeatures:
        """The cached features that are matched, as far as the student hears, in the cache's float16."""
        with self._lock:
            cached = [self.cache.features(row.id) for row in rows]
        out = TeacherFeatures()
        if weights.encoder:
            frames = encoder_frames(mel_frames_B).tolist()
            parts = [torch.from_numpy(entry["encoder"])[:t] for entry, t in zip(cached, frames, strict=True)]
            states_BTD = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
            out.encoder = [states_BTD] * len(self.recipe.train.match.encoder_layers)
        if weights.audio_tokens:
            window = self.recipe.teacher.window_frames, self.recipe.teacher.window_stride
            slots = windows_of(encoder_frames(mel_frames_B), *window).tolist()
            parts = [torch.from_numpy(entry["audio_tokens"])[:w] for entry, w in zip(cached, slots, strict=True)]
            out.audio_NH = torch.cat(parts)
        if weights.beats:
            parts = [torch.from_numpy(entry["beats"]) for entry in cached]
            out.beats_BCD = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
            out.columns_B = torch.tensor([len(part) for part in parts])
        return out

    def _cached(self, rows: list[Row]) -> list[CachedRow]:
        """What the teacher said of these rows.

        Raises:
            InputError: The sound of one is another than was cached.
        """
        # Batches are made in threads, and the cache's reader is for one at a time.
        with self._lock:
            entries = [self.cache[row.id] for row in rows]
        for row, entry in zip(rows, entries, strict=True):
            now = sound_of(row)
            if entry.sound and now and entry.sound != now:
                raise InputError(
                    f"{row.path}: another sound than row {row.id} was cached of; put that one back, or cache into "
                    "another cache.folder"
                )
        return entries

    def _signal(self, cached: list[CachedRow], which: list[Target], texts: list[str]) -> SparseSignal | SpanSignal:
        targets = []
        asked = self.alignment.teacher_processor if self.alignment else self.processor
        for entry, name, text in zip(cached, which, texts, strict=True):
            target = entry.targets[name]
            if not np.array_equal(target.token_ids, asked.text_ids(text)):
                raise InputError(
                    f"cache {self.recipe.cache.folder}, row {entry.id}: its tokens are not the recipe's text "
                    f"'{text[:60]}'; the annotation, or how texts are cut, has changed since: run "
                    "scripts/cache_teacher.sh into a new folder"
                )
            targets.append(target)
        if self.alignment is None:
            return SparseSignal.collate(targets)
        lengths = [len(self.processor.text_ids(text)) for text in texts]
        return SpanSignal.collate(targets, [self.alignment(text) for text in texts], lengths)
