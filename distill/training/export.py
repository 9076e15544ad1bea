"""The trained model as a Hugging Face folder."""

import copy
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import deepspeed
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from data.paths import resolve
from distill.models.card import describe
from distill.recipe.recipe import Recipe
from teacher.build import default_dtype
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import SalmonnProcessor
from teacher.weights import load_exactly, read_tensors, save_trained_part

_ASIDE = ".model."


def save_model(recipe: Recipe, engine: DeepSpeedEngine, processor: SalmonnProcessor) -> Path:
    """Writes the student of the engine's objective and its tokenizer, whole or not at all; all ranks take part."""
    folder = recipe.run_dir / "model"
    tensors = _gathered(engine.module) if engine.zero_optimization_stage() == 3 else engine.module.state_dict()
    if dist.get_rank() == 0:
        with TemporaryDirectory(prefix=_ASIDE, dir=recipe.run_dir, ignore_cleanup_errors=True) as aside:
            _write(recipe, engine.module.student, processor, tensors, Path(aside, "new"))
            _exchange(Path(aside, "new"), folder, Path(aside, "old"))
        for left in recipe.run_dir.glob(f"{_ASIDE}*"):  # by runs that were killed
            shutil.rmtree(left, ignore_errors=True)
    dist.barrier()
    return folder


def _write(
    recipe: Recipe,
    student: SalmonnForConditionalGeneration,
    processor: SalmonnProcessor,
    tensors: dict[str, Tensor],
    folder: Path,
) -> None:
    tensors = {k.removeprefix("student."): v for k, v in tensors.items() if k.startswith("student.")}
    processor.save_pretrained(folder)
    if recipe.student is None:
        save_trained_part(tensors, folder / "trained.safetensors", also=_trained(recipe, student))
    if recipe.student is not None and student.config.adapted:
        student = _merged(student, tensors)
        tensors = student.state_dict()
    student.save_pretrained(folder, state_dict=tensors)  # it empties the dictionary
    describe(recipe, folder)


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Puts a folder in the place of another one, which goes to `old`."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise


def _gathered(module: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` has of a module that ZeRO 3 has partitioned: whole on the CPU, in the first rank alone."""
    named = module.state_dict(keep_vars=True)
    whole: dict[int, Tensor] = {}  # what two names share stays shared
    for tensor in {id(tensor): tensor for tensor in named.values()}.values():
        with deepspeed.zero.GatheredParameters(tensor):  # one at a time
            if dist.get_rank() == 0:
                whole[id(tensor)] = tensor.detach().to("cpu", copy=True)
    return {name: whole[id(tensor)] for name, tensor in named.items() if id(tensor) in whole}


def _trained(recipe: Recipe, teacher: SalmonnForConditionalGeneration) -> set[str]:
    """Names of the weights that this run trained, or the one that it went on from."""
    names = {name for name, parameter in teacher.named_parameters() if parameter.requires_grad}
    before = resolve(recipe.teacher.weights) if recipe.teacher.weights else None
    if before and before.suffix == ".safetensors" and not recipe.teacher.random_weights:
        names |= read_tensors(before).keys()
    return names


def _merged(student: SalmonnForConditionalGeneration, tensors: dict[str, Tensor]) -> SalmonnForConditionalGeneration:
    """The student of these tensors with its adapters folded in; its users need to know nothing of them."""
    with default_dtype(next(of.dtype for name, of in tensors.items() if name.startswith("connector."))):
        merged = SalmonnForConditionalGeneration(copy.deepcopy(student.config))
    load_exactly(merged, tensors, "the trained student")
    merge_lora(merged)
    return merged
