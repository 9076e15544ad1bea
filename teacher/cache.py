"""Runs the frozen teacher over training rows and writes what it says of them into the cache.

Letters: B clips, N rows (audio tokens, or supervised positions, of all clips), V vocabulary.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from data.batches import batches_by_length
from data.cache.row import UNTEXTED, CachedRow, CacheIdentity
from data.cache.targets import MAX_DRAWS, Feature, SparseTargets, Target, draw, sparsify
from data.cache.writer import CacheWriter
from data.errors import InputError
from data.hashing import hash_of, seed_of
from data.paths import resolve
from data.progress import Progress
from data.prompts import Prompts, instruction
from data.rows.manifest import Manifest, fingerprint_of, sounds_of
from data.rows.row import Row
from data.settings import Settings
from data.sound.audio import SAMPLE_RATE, load_clip, sound_of
from data.sound.features import Features
from data.words import word_error_rate
from teacher.build import weights_hash
from teacher.connector import AudioStates
from teacher.device import lowering
from teacher.hypotheses import GenerationSettings, generate_texts
from teacher.model import Batch, SalmonnForConditionalGeneration
from teacher.processor import SalmonnProcessor
from teacher.settings import ModelSettings

_OTHER_FOLDER = " (what is cached stays; under another budget it goes into another cache.folder)"


class CacheSettings(Settings):
    """What the teacher writes down for each training row."""

    folder: str = Field(description="where the cache lies; {cache} is the cache folder")
    targets: tuple[Target, ...] = Field(
        ("reference",), min_length=1, description="texts on which the teacher's distribution is kept"
    )
    method: Literal["topk", "sampled"] = Field(
        "topk", description="what is kept of a distribution: its most probable ids, or ids drawn at random"
    )
    top_p: float = Field(0.999, gt=0, le=1, description="topk: probability mass kept at each position")
    top_k: int = Field(128, ge=1, description="topk: most ids kept at each position")
    min_p: float = Field(
        0.0015, ge=0, lt=1, description="topk: less probable ids are not kept (results/published/cache_fidelity.md)"
    )
    draws: int = Field(50, ge=1, le=MAX_DRAWS, description="sampled: ids drawn at each position, with replacement")
    features: tuple[Feature, ...] = Field(
        (),
        description="also keeps the clips' encoder states (100 bytes a second and unit of width), audio tokens, BEATs' "
        "states (as many bytes)",
    )
    hypotheses: bool | Literal["untexted"] | None = Field(
        None,
        description="also keeps the teacher's own text of each row (beam search takes most of the time); untexted: of "
        "rows without a text alone; null: as train.hypotheses.share, stages' targets or data.faults.no_text ask",
    )
    max_seconds: float = Field(60.0, gt=0, description="padded audio seconds of a batch")
    max_failed: float = Field(
        0.01, ge=0, le=1, description="share of rows, unreadable or without any text, at which the run stops"
    )

    @model_validator(mode="after")
    def _texts_for_targets(self) -> "CacheSettings":
        if self.hypotheses is False and "hypothesis" in self.targets:
            raise ValueError("cache.targets has 'hypothesis', which cache.hypotheses false leaves out; change one")
        return self

    @property
    def writes_texts(self) -> bool:
        """Whether the teacher writes texts."""
        return bool(self.hypotheses) or "hypothesis" in self.targets

    def writes_text_of(self, row: Row) -> bool:
        """Whether the teacher writes a text for this row."""
        return self.writes_texts and not (self.hypotheses == "untexted" and row.text.strip())


def cache_identity(
    teacher: ModelSettings,
    cache: CacheSettings,
    generation: GenerationSettings,
    prompts: Prompts,
    rows: Sequence[Row],
    processor: SalmonnProcessor,
) -> CacheIdentity:
    """The identity of the cache that these settings make of these rows."""
    # Batches too: a row's last bits depend on what it is computed with.
    unused = {"topk": {"draws"}, "sampled": {"top_p", "top_k", "min_p"}}[cache.method]
    kept = cache.model_dump(exclude={"folder", "max_failed", "hypotheses", *unused})
    written = hash_of(generation.model_dump(exclude={"max_seconds"})) if cache.writes_texts else ""
    return CacheIdentity(
        teacher=weights_hash(teacher),
        tokenizer=hash_of(sorted(processor.tokenizer.get_vocab().items())),
        prompts=hash_of({task: list(wordings) for task, wordings in prompts.items()}),
        audio=fingerprint_of(rows),
        targets=hash_of(kept),
        hypotheses=UNTEXTED + written if cache.hypotheses == "untexted" else written,
        sounds=sounds_of(rows),
    )


def fill_cache(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    rows: Manifest,
    prompts: Prompts,
    cache: CacheSettings,
    generation: GenerationSettings,
    identity: CacheIdentity,
    *,
    rank: int = 0,
    world: int = 1,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Caches this rank's share of the rows that are not cached yet.

    Each clip is decoded and encoded once: its audio tokens serve the hypothesis and every teacher-forced text. Of a row
    without a text there are the hypothesis and what the teacher says on that, where texts are written. Batches
    are made of all rows, whatever is done already and however many ranks share them: so a row's numbers, down to the
    rounding of the batch that it is computed in, do not depend on interruptions or ranks (on one kind of device, with
    as many threads).

    Once `stopping` says so no more batch is begun, and what was made is written.

    Raises:
        InputError: More than `cache.max_failed` of the rows cannot be read, or the folder holds another cache.
    """
    writer = CacheWriter(resolve(cache.folder), identity, rank, world)
    done = writer.before
    order = rows.longest_first()
    seconds = processor.seconds(rows)[order]
    # The longest batches come first, so that dealing them out balances the ranks.
    share = batches_by_length(seconds, cache.max_seconds)[rank::world]
    held = np.zeros(len(rows), bool)
    if done:
        held = done.has(rows.values("id"))[order]
    # A batch is computed whole where a row of it is missing.
    todo = [batch for batch in share if not held[batch].all()]
    missing, sound_s = sum(int((~held[batch]).sum()) for batch in todo), sum(seconds[batch].sum() for batch in todo)
    progress = Progress("teacher cache", missing, seconds=sound_s, quiet=rank > 0)
    failed, read_s = 0, 0.0
    with writer:
        for indices in todo:
            if stopping():
                break
            batch = [rows[int(order[i])] for i in indices]
            wanted = [row for row in batch if row.id not in done]
            waves = {}
            # Those that are there already are heard again only beside one that is not.
            for row in sorted(batch, key=lambda row: row.id in done):
                if row.id in done and not waves:
                    break
                try:
                    if not (cache.writes_texts or row.text.strip()):
                        raise InputError(f"row {row.id} has no text to be distilled on; write one, or drop it")
                    waves[row.id] = load_clip(row)
                except InputError as error:
                    if row.id not in done:  # what is there was heard when it was cached
                        writer.fail(row.id, str(error))
                        failed += 1
                        _check_failed(writer, len(rows), cache, error, rank)
            readable = [row for row in batch if row.id in waves]
            if readable:
                clips = [waves[row.id] for row in readable]
                read_s += sum(map(len, clips)) / SAMPLE_RATE
                with writer.kept_in_error(), lowering("cache.max_seconds", cache.max_seconds, _OTHER_FOLDER):
                    made, lost = _cache_what_can_be(model, processor, readable, clips, prompts, cache, generation)
                for row_id, error in lost.items():
                    if row_id not in done:
                        writer.fail(row_id, str(error))
                        failed += 1
                        _check_failed(writer, len(rows), cache, error, rank)
                for cached in made:
                    if cached.id not in done:
                        writer.add(cached)
            progress.add(len(wanted), seconds[indices].sum(), read_s)
    if failed:
        print(f"{failed} rows could not be cached: {resolve(cache.folder)}/failed.jsonl says why", flush=True)


def _check_failed(writer: CacheWriter, rows: int, cache: CacheSettings, last: InputError, rank: int) -> None:
    """Stops a run in which too much cannot be read, whichever ranks met it; what an earlier one met does not count."""
    failed = writer.failures()
    if failed > cache.max_failed * rows:
        message = (
            f"{failed} of {rows} rows cannot be read, more than cache.max_failed ({cache.max_failed}), "
            f"the last of them {last}; those met so far are in {resolve(cache.folder)}/failed.jsonl"
        )
        if rank > 0:  # the other ranks need not have met it
            print(f"error: {message}", file=sys.stderr, flush=True)
        raise InputError(message) from last


def _cache_what_can_be(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    rows: list[Row],
    waves: list,
    *settings: object,
) -> tuple[list[CachedRow], dict[str, InputError]]:
    """The rows of a batch; where the teacher fails on one, each alone, and by id those on which it does."""
    try:
        return _cache_batch(model, processor, rows, waves, *settings), {}
    except FloatingPointError as error:
        if len(rows) == 1:
            reason = InputError(f"{rows[0].path}: the teacher's {error}; try another teacher.precision")
            return [], {rows[0].id: reason}
    made, lost = [], {}
    for row, wave in zip(rows, waves, strict=True):
        one, failing = _cache_what_can_be(model, processor, [row], [wave], *settings)
        made += one
        lost |= failing
    return made, lost


@torch.no_grad()
def _cache_batch(
    model: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    rows: list[Row],
    waves: list,
    prompts: Prompts,
    cache: CacheSettings,
    generation: GenerationSettings,
) -> list[CachedRow]:
    wordings = [instruction(prompts, row.task, row.id, row.question) for row in rows]
    features = processor.features(waves).to(model.device)

    states = model.encode(features)
    audio_NH = model.connector(states)
    audio = audio_NH.split(model.connector.windows(states.frames_B).tolist())
    written = [(None, None, None)] * len(rows)
    if asked := [i for i, row in enumerate(rows) if cache.writes_text_of(row)]:
        lengths = [len(waves[i]) / SAMPLE_RATE for i in asked]
        batch = processor.lay_out(features.of(asked), [wordings[i] for i in asked], [None] * len(asked))
        heard_NH = torch.cat([audio[i] for i in asked])
        found = generate_texts(model, processor, batch.to(model.device), heard_NH, lengths, generation)
        for i, text in zip(asked, found, strict=True):
            written[i] = text
    references = [row.text if row.text.strip() else None for row in rows]
    texts = {"reference": references, "hypothesis": [text for text, *_ in written]}
    seeds = [seed_of(row.id) for row in rows]  # a row's draws are its own, whatever its batch

    def forced(texts: list[str | None]) -> dict[int, SparseTargets]:
        """Targets on the texts that there are, by the row's place in the batch."""
        there = [i for i, text in enumerate(texts) if text is not None]
        if not there:
            return {}
        of = [[values[i] for i in there] for values in (wordings, texts, audio, seeds)]
        batch = processor.lay_out(features.of(there), *of[:2]).to(model.device)
        return dict(zip(there, _targets(model, batch, torch.cat(of[2]), cache, of[3]), strict=True))

    targets = {kind: forced(texts[kind]) for kind in cache.targets}
    kept = _features(model, features, states, audio_NH, cache.features)
    return [
        CachedRow(
            id=row.id,
            task=row.task,
            prompt=wording,
            sound=sound_of(row),
            reference=references[i],
            hypothesis=text,
            hypothesis_logp=logp,
            hypothesis_ended=ended,
            hypothesis_wer=word_error_rate(row.text, text) if row.task == "asr" and text is not None else None,
            targets={kind: of[i] for kind, of in targets.items() if i in of},
            features={name: parts[i] for name, parts in kept.items()},
        )
        for i, (row, wording, (text, logp, ended)) in enumerate(zip(rows, wordings, written, strict=True))
    ]


def _targets(
    model: SalmonnForConditionalGeneration, batch: Batch, audio_NH: Tensor, cache: CacheSettings, seeds: list[int]
) -> list[SparseTargets]:
    """Sparse targets of each clip's text, teacher-forced; the head sees supervised positions only."""
    hidden_BTH = model.hidden(batch, audio_NH)
    logits_NV = model.llm.get_output_embeddings()(hidden_BTH.flatten(0, 1)[batch.rows_N])
    ids = [np.array(text, np.int64) for text in batch.texts]
    if cache.method == "sampled":
        return draw(logits_NV, ids, draws=cache.draws, seeds=seeds)
    return sparsify(logits_NV, ids, top_p=cache.top_p, top_k=cache.top_k, min_p=cache.min_p)


def _features(
    model: SalmonnForConditionalGeneration,
    features: Features,
    states: AudioStates,
    audio_NH: Tensor,
    wanted: tuple[Feature, ...],
) -> dict[Feature, list[np.ndarray]]:
    """What is kept of the way to the LLM, clip by clip, without padding."""
    whole = {
        "encoder": lambda: [clip.speech_BTD[0] for clip in states.split()],
        "audio_tokens": lambda: audio_NH.split(model.connector.windows(states.frames_B).tolist()),
        "beats": lambda: [
            clip[:columns]
            for clip, columns in zip(
                model.beats.columns(states.sound_BTD, features.fbank_BTF.shape[2]),
                (features.fbank_frames_B // model.config.beats_config["input_patch_size"]).tolist(),
                strict=True,
            )
        ],
    }
    return {name: [part.to("cpu", torch.float16).numpy() for part in whole[name]()] for name in wanted}
