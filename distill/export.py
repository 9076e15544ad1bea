"""The trained model as a Hugging Face folder."""

import os
import shutil
from pathlib import Path

import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from distill.recipe import Recipe
from teacher.processor import SalmonnProcessor
from teacher.weights import save_trained_part


def save_model(recipe: Recipe, engine: DeepSpeedEngine, processor: SalmonnProcessor) -> Path:
    """Writes the student of the engine's objective and its tokenizer, whole or not at all; all ranks take part."""
    folder, temporary = recipe.run_dir / "model", recipe.run_dir / f".model.{os.getpid()}.tmp"
    if engine.zero_optimization_stage() == 3:
        tensors = engine._zero3_consolidated_16bit_state_dict()
    else:
        tensors = engine.module.state_dict()
    if dist.get_rank() == 0:
        tensors = {k.removeprefix("student."): v for k, v in tensors.items() if k.startswith("student.")}
        processor.save_pretrained(temporary)
        if recipe.student is None:
            save_trained_part(tensors, temporary / "trained.safetensors")
        engine.module.student.save_pretrained(temporary, state_dict=tensors)  # last: it empties the dictionary
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    dist.barrier()
    return folder
