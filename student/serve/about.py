"""What a model is and what it takes, as the page shows it."""

import resource
import sys

from data.strict_json import loads
from student.use.audio_lm import AudioLM
from student.use.usage import CARD
from teacher.weights import weight_files


def about(model: AudioLM) -> dict:
    """Facts of a loaded model.

    Returns:
        `role` (teacher or student; None where no card says it), `parameters`, `weight_bytes` (of the folder's files;
        None of a model that was not loaded from one), `memory_bytes` (the weights where they are used), `device`,
        `dtype`.
    """
    parameters = list(model.model.parameters())
    return {
        "role": _role(model),
        "parameters": sum(of.numel() for of in parameters),
        "weight_bytes": sum(file.stat().st_size for file in weight_files(model.folder)) if model.folder else None,
        "memory_bytes": sum(of.nbytes for of in (*parameters, *model.model.buffers())),
        "device": str(parameters[0].device),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
    }


def peak_bytes() -> int:
    """What this process took of the machine's memory at its peak: the models, Python and its libraries."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _role(model: AudioLM) -> str | None:
    """What the card says; a broken one says nothing, and nothing rests on it here."""
    card = model.folder / CARD[1] if model.folder else None
    if card is None or not card.is_file():
        return None
    try:
        role = loads(card.read_text(encoding="utf-8"))["model"]
    except (ValueError, KeyError, TypeError):
        return None
    return role if role in ("teacher", "student") else None
