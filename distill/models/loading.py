"""The two models of a recipe as they are scored: built or loaded, adapters folded in, on their device."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from data.errors import InputError
from data.paths import REPOSITORY, resolve
from data.strict_json import loads
from distill.models.students import untrained_student
from distill.recipe.identity import NOT_OF_A_MODEL, counting
from distill.recipe.recipe import Recipe
from teacher.build import build_teacher, weights_hash
from teacher.device import DTYPES, pick_device
from teacher.model import SalmonnForConditionalGeneration, merge_lora
from teacher.processor import SalmonnProcessor
from teacher.quantise import quantise_llm, require_quantisation, stored_bytes
from teacher.settings import Quantisation
from teacher.weights import folder_hash, load_pretrained, locate, tokenizer_hash


def student_folder(recipe: Recipe, folder: Path | None = None) -> Path:
    """Where the trained student lies: the given folder, or the run's own.

    Raises:
        InputError: There is no model.
    """
    folder = folder or recipe.run_dir / "model"
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no trained model there; run 'deepspeed distill/train.py' with this recipe first, "
            "or name its folder with --checkpoint"
        )
    return folder


def checkpoint_shown(recipe: Recipe, folder: Path | None) -> str:
    """The checkpoint as a reader elsewhere can make sense of it."""
    weights = None if recipe.teacher.random_weights else recipe.teacher.weights
    path = folder or (resolve(weights) if weights else Path("untrained"))
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def weights_identity(recipe: Recipe, folder: Path | None) -> object:
    """What a model's weights and tokenizer are: those of a folder, or of the recipe's teacher, as JSON has it."""
    if folder:
        return folder_hash(folder)
    return [weights_hash(recipe.teacher), tokenizer_hash(locate(recipe.teacher.llm))]


def load_for_scoring(
    recipe: Recipe,
    which: str,
    folder: Path | None = None,
    quantise: Quantisation | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[SalmonnForConditionalGeneration, SalmonnProcessor]:
    """Teacher or student in the recipe's precision, in evaluation mode; at random weights, the student's shape alone.

    Args:
        recipe: The recipe.
        which: "teacher" or "student".
        folder: A model folder instead of the run's own.
        quantise: Of its LLM (see `quantise_llm`); None: as the recipe says.
        dtype: Of every part, instead of the recipe's.

    Raises:
        InputError: Weights are missing, or the folder's model is not one of this recipe.
    """
    stated, device = DTYPES[recipe.teacher.dtype], pick_device()
    if quantise:
        require_quantisation(quantise, device, stated)
    if which == "teacher" and folder is None:
        model, processor = build_teacher(recipe.teacher, dtype)
    elif which == "student" and folder is None and recipe.teacher.random_weights and recipe.student:
        model, processor = untrained_student(recipe)
    else:
        folder = student_folder(recipe, folder)
        _require_same_recipe(recipe, folder)
        model = load_pretrained(SalmonnForConditionalGeneration, folder, dtype or stated)
        processor = SalmonnProcessor.from_pretrained(folder)
        if recipe.student is not None and which == "student":
            kept = model.config.encoder_config.encoder_layers, model.config.llm_config.num_hidden_layers
            encoder, llm = recipe.student.encoder_layers, recipe.student.llm_layers
            # A number of layers, or their list; null keeps all there are.
            wanted = tuple(
                had if of is None else of if isinstance(of, int) else len(of)
                for of, had in zip((encoder, llm), kept, strict=True)
            )
            if kept != wanted:
                raise InputError(
                    f"{folder}: a checkpoint of another recipe, with {kept[0]} encoder and {kept[1]} LLM layers; "
                    f"this one has {wanted[0]} and {wanted[1]}; give its own --config"
                )
    merge_lora(model)
    if quantise:
        quantise_llm(model, quantise, device)
    return model.eval().to(device), processor


def _require_same_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuses a run's model where the recipe that made it has another teacher or student than this one."""
    made_by = folder.parent / "recipe.json"
    if not made_by.is_file():
        return
    try:
        made = loads(made_by.read_text())
        if not isinstance(made, dict):
            raise ValueError("no recipe")
        # The rest says nothing of the models, and has had other keys; those that came later have their defaults.
        sections = {name: made.get(name) for name in ("teacher", "student")}
        then = Recipe.model_validate_json(json.dumps(json.loads(recipe.model_dump_json()) | sections))
    except ValueError as error:
        faults = error.error_count() if isinstance(error, ValidationError) else 1
        raise InputError(f"{made_by}: cannot be read ({faults} faults); train the model again") from error
    trees = [counting(of, NOT_OF_A_MODEL) for of in (then, recipe)]
    for section in ("teacher", "student"):
        sides = [tree[section] or {} for tree in trees]
        differs = [key for key in sides[0].keys() | sides[1].keys() if sides[0].get(key) != sides[1].get(key)]
        if differs:
            key = sorted(differs)[0]
            raise InputError(f"{folder}: a checkpoint of another recipe (other {section}.{key}); give its own --config")


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Parameters of each part; the token embeddings (and the head that shares them) stand alone."""

    def number(parameter: Tensor) -> int:
        # Four-bit weights of bitsandbytes are packed two to a byte; their shape stands beside them.
        packed = getattr(parameter, "quant_state", None)
        return parameter.numel() if packed is None else packed.shape.numel()

    return _sums_by_part(model, number)


def part_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of each part's weights as they are stored, split as `parameter_counts`."""
    return _sums_by_part(model, stored_bytes)


def _sums_by_part(model: torch.nn.Module, measure: Callable[[Tensor], int]) -> dict[str, int]:
    embeddings = {
        id(p) for m in (model.get_input_embeddings(), model.llm.get_output_embeddings()) for p in m.parameters()
    }
    sums = {name: 0 for name, part in model.named_children() if any(True for _ in part.parameters())}
    sums["embeddings"] = 0
    for name, parameter in model.named_parameters():
        sums["embeddings" if id(parameter) in embeddings else name.split(".")[0]] += measure(parameter)
    return sums
