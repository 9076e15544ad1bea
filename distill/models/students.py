"""A recipe's student as training starts from it; where its layers are ranked, on clips of the training set."""

import random
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.batches import batches_by_length
from data.errors import InputError
from data.prompts import instruction
from data.ranks import launched_rank
from data.sound.audio import SAMPLE_RATE, load_clip
from data.sound.features import HOP
from distill.recipe.recipe import Recipe
from distill.recipe.rows import read_rows
from student.earlier import base_of, model_folder, require_vocabulary
from student.llm import other_llm, own_tokenizer
from student.neurons import neuron_importance, neurons_of, stack_of
from student.ranking import block_distances, least_needed
from student.shrink import StudentSettings, layers_kept, shrink
from teacher.build import build_teacher, default_dtype
from teacher.device import DTYPES
from teacher.encoder import encoder_frames
from teacher.model import Batch, SalmonnForConditionalGeneration
from teacher.processor import Clip, SalmonnProcessor


def cut_from_llm(recipe: Recipe) -> bool:
    """Whether training starts from the teacher's LLM; else the student has another one, or an earlier run's."""
    return recipe.student is None or not (recipe.student.llm or recipe.student.base)


def student_of(
    recipe: Recipe, teacher: SalmonnForConditionalGeneration, processor: SalmonnProcessor
) -> SalmonnForConditionalGeneration:
    """The recipe's student as training starts from it, in the teacher's precision.

    Args:
        recipe: The recipe.
        teacher: Its teacher, which is left as it is; its LLM may be of sizes alone where nothing is cut from it.
        processor: The teacher's.
    """
    source, hears = teacher, processor
    if recipe.student.base:
        source = base_of(recipe.student.base, teacher, processor.tokenizer)
        hears = SalmonnProcessor(processor.tokenizer, source.config)
    settings = _with_layers_named(recipe, source, hears)
    tokenizer, rows = _tokenizer(recipe, processor), teacher.config.llm_config.vocab_size
    if own := tokenizer is not processor.tokenizer:
        if settings.weights:
            folder = model_folder("student.weights", settings.weights)
            require_vocabulary("student.weights", folder, tokenizer, "student.llm")
        rows = max(len(tokenizer), tokenizer.pad_token_id + 1)
    llm = other_llm(settings, tokenizer, rows, teacher.dtype, random_weights=recipe.teacher.random_weights)
    heard = None if source.device.type == "meta" else _calibration(recipe, hears)
    student = shrink(source, settings, recipe.seed, llm, _neurons(recipe, source, hears), heard)
    if own:
        student.config.pad_token_id, student.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return student


def processor_of(
    recipe: Recipe, student: SalmonnForConditionalGeneration, processor: SalmonnProcessor
) -> SalmonnProcessor:
    """The student's processor; its tokenizer is the teacher's, or its own (`train.kd.vocabulary`)."""
    return SalmonnProcessor(_tokenizer(recipe, processor), student.config)


def _tokenizer(recipe: Recipe, processor: SalmonnProcessor) -> PreTrainedTokenizerBase:
    universal = recipe.train.kd.vocabulary == "universal"
    untrained = recipe.teacher.random_weights
    return own_tokenizer(recipe.student, processor.tokenizer, universal=universal, random_weights=untrained)


def untrained_student(recipe: Recipe) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """A model of the student's shape at random weights, to try memory and speed; the teacher takes no memory.

    Of what is ranked only the number is true: what ranks it are weights.
    """
    recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"weights": None})})
    dtype = DTYPES[recipe.teacher.dtype]
    with torch.device("meta"):  # sizes alone
        teacher, processor = build_teacher(recipe.teacher, dtype)
        shaped = student_of(recipe, teacher, processor)
    with torch.random.fork_rng(devices=[]), default_dtype(dtype):
        torch.manual_seed(recipe.seed)
        student = SalmonnForConditionalGeneration(shaped.config)
    return student.eval(), processor_of(recipe, student, processor)


def _with_layers_named(
    recipe: Recipe, teacher: SalmonnForConditionalGeneration, processor: SalmonnProcessor
) -> StudentSettings:
    """The student's settings, where layers are ranked with their numbers."""
    settings = recipe.student
    there = {"encoder": len(teacher.encoder.layers), "llm": teacher.config.llm_config.num_hidden_layers}
    wanted = {"encoder": settings.encoder_layers, "llm": settings.llm_layers}
    counts = {part: number for part, number in wanted.items() if isinstance(number, int)}
    if settings.layer_choice != "ranked" or not counts:
        return settings
    if settings.llm and "llm" in counts:
        raise InputError(
            "student.layer_choice 'ranked': layers of another LLM cannot be ranked; list student.llm_layers"
        )
    for part, number in counts.items():
        layers_kept(number, there[part], f"{part}_layers")  # refuses what cannot be
    if teacher.device.type == "meta":
        return settings.model_copy(update={"layer_choice": "even"})
    lengths = {part: there[part] - number for part, number in counts.items() if number < there[part]}
    distances = block_distances(teacher.eval(), _calibration(recipe, processor), lengths)
    named = {f"{part}_layers": least_needed(of, there[part]) for part, of in distances.items()}
    if launched_rank() == 0:
        for name, layers in named.items():
            print(f"ranked: student.{name}={list(layers)}", flush=True)
    return settings.model_copy(update=named)


def _neurons(
    recipe: Recipe, teacher: SalmonnForConditionalGeneration, processor: SalmonnProcessor
) -> dict[str, list[Tensor]]:
    """By part, the feed-forward neurons of each of the teacher's layers that the student keeps; a part keeps all."""
    widths = {}
    for part, width in (("encoder", recipe.student.encoder_ffn), ("llm", recipe.student.llm_ffn)):
        if width is None or width == (there := neurons_of(teacher, part)):
            continue
        if width > there:
            raise InputError(f"student.{part}_ffn: {width} neurons of {there} cannot be kept; name fewer")
        widths[part] = width
    if teacher.device.type == "meta":
        return {part: [torch.arange(width) for _ in stack_of(teacher, part)] for part, width in widths.items()}
    found = neuron_importance(teacher.eval(), _calibration(recipe, processor), widths.keys()) if widths else {}
    return {part: [kept.sort().values for kept in of.topk(widths[part]).indices] for part, of in found.items()}


def _calibration(recipe: Recipe, processor: SalmonnProcessor) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of some training clips that can be read and have a text, with the encoder frames of each clip.

    Raises:
        InputError: There is none, by which all layers and neurons would be alike.
    """
    rows = read_rows(recipe, recipe.data.train)
    rows = rows.where(rows.with_text)
    order = list(range(len(rows)))
    random.Random(recipe.seed).shuffle(order)
    clips = []
    for row in map(rows.__getitem__, order):
        if len(clips) == recipe.student.calibration_clips:
            break
        with suppress(InputError):  # named where it is cached or trained on
            wording = instruction(recipe.data.prompts, row.task, row.id, row.question)
            clips.append(Clip(load_clip(row), wording, row.text))
    if not clips:
        raise InputError(
            "student: no training clip with a text can be read, on which it would show what is needed; check data.train"
        )
    for indices in batches_by_length([len(clip.wave) / SAMPLE_RATE for clip in clips], 60):
        batch = [clips[i] for i in indices]
        frames = [encoder_frames(-(-len(clip.wave) // HOP)) for clip in batch]
        yield processor(batch), torch.tensor(frames)
