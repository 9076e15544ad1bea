"""What a model is and what it takes, as the page shows it."""

import resource
import sys

from data.strict_json import loads
from student.use.audio_lm import AudioLM
from student.use.usage import CARD
from teacher.weights import weight_files


def about(model: AudioLM) -> dict:
    """Facts of a loaded model, its folder's as they are now: asked for once, soon after it was loaded.

    Returns:
        `role` (teacher or student; None where no card says it), `parameters`, `weight_bytes` (of the folder's files;
        None where there is no folder, or they have gone), `memory_bytes` (the weights where they are used), `device`,
        `dtype`.
    """
    parameters = list(model.model.parameters())
    return {
        "role": _role(model),
        "parameters": sum(of.numel() for of in parameters),
        "weight_bytes": _weight_bytes(model),
        "memory_bytes": sum(of.nbytes for of in (*parameters, *model.model.buffers())),
        "device": str(parameters[0].device),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
    }


def peak_bytes() -> int:
    """What this process took of the machine's memory at its peak: the models, Python and its libraries."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _weight_bytes(model: AudioLM) -> int | None:
    if model.folder is None:
        return None
    try:
        return sum(file.stat().st_size for file in weight_files(model.folder)) or None
    except OSError:
        return None


def _role(model: AudioLM) -> str | None:
    """What the card says; a broken one says nothing, and nothing rests on it here."""
    if model.folder is None:
        return None
    try:
        role = loads((model.folder / CARD[1]).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return role if role in ("teacher", "student") else None
