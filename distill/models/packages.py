"""A recipe's models as device packages (`student/device/`), written when they are first asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from data.errors import InputError
from data.hashing import hash_of
from data.paths import file_sha256, written_whole
from distill.models.loading import load_for_scoring, parameter_counts, student_folder, weights_identity
from distill.recipe.recipe import Recipe
from student.device import audio_onnx, llm_gguf, package
from student.device.audio_onnx import AudioFormat
from student.device.llm_gguf import LLMFormat
from student.use.audio_lm import AudioLM
from student.use.usage import usage_of

AUDIO: AudioFormat = "q8"
"""How encoder and connector are stored."""
ABOUT = "source.json"
"""Beside a package, what it was made of: its identity, parameters by part, layers."""
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime", "llama_cpp")


def require_device(recipe: Recipe) -> None:
    """Refuses what no package can be made of, before anything is loaded.

    Raises:
        InputError: A library is missing, or the recipe's weights are random.
    """
    audio_onnx.require_installed(_LIBRARIES)
    if recipe.teacher.random_weights:
        raise InputError("--runtime device: packages are of trained models; leave out --random-weights")


def package_identity(recipe: Recipe, folder: Path | None, llm: LLMFormat) -> str:
    """A hash over all that a package depends on: weights, use, forms, and the code that writes and runs it.

    Args:
        recipe: The recipe.
        folder: The model's; None: the recipe's teacher.
        llm: How its LLM is stored.
    """
    use = usage_of(recipe.data.prompts, recipe.generation, recipe.data.mono).model_dump(exclude={"max_seconds"})
    code = [file_sha256(path) for path in sorted(Path(package.__file__).parent.glob("*.py"))]
    return hash_of([weights_identity(recipe, folder), use, llm, AUDIO, code])[:16]


def device_package(
    recipe: Recipe, which: str, folder: Path | None, llm: LLMFormat, say: Callable[[str], None] = print
) -> Path:
    """The package of a model, below the run's folder; written anew where it is of another model or is not whole.

    Args:
        recipe: The recipe.
        which: "teacher" or "student".
        folder: A model folder instead of the run's own.
        llm: How its LLM is stored.
        say: Told what is being done.

    Raises:
        InputError: The model cannot be loaded or exported.
    """
    require_device(recipe)
    if folder is None and which == "student":
        folder = student_folder(recipe)
    place = recipe.run_dir / "device" / f"{which}_{llm}"
    identity = package_identity(recipe, folder, llm)
    if _about(place).get("identity") == identity:
        return place
    (place / ABOUT).unlink(missing_ok=True)
    model, processor = load_for_scoring(recipe, which, folder, dtype=torch.float32)
    counts = parameter_counts(model)
    about = {
        "identity": identity,
        "parts": counts,
        "encoder_layers": len(model.encoder.layers),
        "llm_layers": model.config.llm_config.num_hidden_layers,
    }
    usage = usage_of(recipe.data.prompts, recipe.generation, recipe.data.mono)
    package.write_package(AudioLM(model.cpu(), processor, usage), place, llm, AUDIO, say)
    with written_whole(place / ABOUT) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    return place


def package_sizes(place: Path) -> dict:
    """What a package holds, as metrics.json has it: parameters by part, layers, bytes of its files."""
    about = _about(place)
    parts, stored = about["parts"], package_bytes(place)
    return {
        "parameters": sum(parts.values()),
        "parameters_without_embeddings": sum(parts.values()) - parts["embeddings"],
        "encoder_layers": about["encoder_layers"],
        "llm_layers": about["llm_layers"],
        "parts": parts,
        "weight_bytes": sum(stored.values()),
        "device": "cpu",
    }


def package_bytes(place: Path) -> dict[str, int]:
    """Bytes of a package's files, by the parts that are in them."""
    files = {
        "encoder and connector": (audio_onnx.FILE, audio_onnx.WEIGHTS),
        "llm and embeddings": (llm_gguf.FILE,),
    }
    return {part: sum((place / name).stat().st_size for name in names) for part, names in files.items()}


def _about(place: Path) -> dict:
    try:
        about = json.loads((place / ABOUT).read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
