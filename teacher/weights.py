"""Weights in and out: every key accounted for, nothing half-written.

What others released in formats of their own is read in `teacher/released.py`.
"""

import re
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from data.errors import InputError
from data.hashing import hash_of
from data.known_hashes import known_sha256
from data.paths import resolve, written_whole
from teacher.released import read_checkpoint, salmonn_tensors


def locate(name: str) -> Path:
    """The folder of a pretrained model: a folder's path, or a hub name that was downloaded before."""
    place = resolve(name)
    if not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
    return place


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model folder's weights: whole or in shards, safetensors before PyTorch's own format."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if files := sorted(folder.glob(f"{stem}.{suffix}")) or sorted(folder.glob(f"{stem}-*-of-*.{suffix}")):
            return files
    return []


def model_files(folder: Path) -> list[Path]:
    """The files that say what a model folder computes: its weights, and the configuration that they are put into."""
    return [*weight_files(folder), *(path for path in [folder / "config.json"] if path.is_file())]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A weight file's tensors: of safetensors, or of a PyTorch file that is a plain state dictionary.

    Raises:
        InputError: The file is missing, broken, or holds anything else.
    """
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error


def load_encoder(encoder: nn.Module, folder: Path) -> None:
    """Reads a Whisper's encoder weights; whatever else the checkpoint holds (the decoder) is left alone."""
    tensors = {}
    for file in weight_files(folder):
        for key, tensor in read_tensors(file).items():
            name = key.removeprefix("model.")
            if name.startswith("encoder."):
                tensors[name.removeprefix("encoder.")] = tensor
    load_exactly(encoder, tensors, str(folder))


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Loads a state dictionary; what is missing, unexpected or of another shape is named.

    Raises:
        InputError: Any key of the module or of the file is unaccounted for.
    """
    copy_exactly(module.state_dict(), tensors, source)


@torch.no_grad()
def copy_exactly(own: dict[str, Tensor], tensors: dict[str, Tensor], source: str) -> None:
    """Copies tensors into those of the same names, all of which must be there and of the same shapes.

    Raises:
        InputError: A name on either side is unaccounted for.
    """
    faults = [f"missing {key}" for key in own.keys() - tensors.keys()]
    faults += [f"unexpected {key}" for key in tensors.keys() - own.keys()]
    faults += [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & tensors.keys()
        if own[key].shape != tensors[key].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:5])
        raise InputError(f"{source}: not the weights of this model: {shown} ({len(faults)} in all); check the recipe")
    for key, value in tensors.items():
        own[key].copy_(value)


@contextmanager
def read_by_libraries(place: object, fault: str = "") -> Iterator[None]:
    """Turns what libraries say of files or sizes into a line that names them: of damaged ones they raise anything.

    Args:
        place: What is read: a folder, or a key of the recipe.
        fault: What it then is, such as "not a model", to which "that can be read" is added; empty: the reason says it.

    Raises:
        InputError: Something else was raised than what is of this kind already, or of the machine.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        said = f"{fault} that can be read ({reason}); make or fetch it again" if fault else reason
        raise InputError(f"{place}: {said}") from error


def share_weights(folder: str | Path) -> None:
    """Who may read the configuration that `save_pretrained` has written may read the weights beside it.

    safetensors makes its files the owner's alone.
    """
    for path in Path(folder).glob("*.safetensors"):
        with suppress(OSError):  # a file system without modes
            shutil.copymode(Path(folder, "config.json"), path)


def load_pretrained(kind: type, folder: Path, dtype: torch.dtype, **options: object) -> PreTrainedModel:
    """A model from its Hugging Face folder, all of whose weights are there (transformers would make some up).

    Args:
        kind: `SalmonnForConditionalGeneration`, or `AutoModelForCausalLM`.
        folder: What `save_pretrained` wrote.
        dtype: Of the parameters.
        options: Handed on to `from_pretrained`.

    Raises:
        InputError: The folder's files are broken, or of another model.
    """
    with read_by_libraries(folder, "not a model"):
        model, report = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False, **options
        )
    for kind_of, what in (("missing_keys", "missing"), ("unexpected_keys", "of no part of this model")):
        if keys := sorted(report[kind_of]):
            raise InputError(f"{folder}: {len(keys)} weights are {what}, such as {keys[0]}; make or fetch it again")
    return model


def shaped_as(kind: type, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model of a Hugging Face folder's configuration on the meta device: sizes alone, for those who ask no weight.

    Raises:
        InputError: The folder's configuration is broken, or of another model.
    """
    with read_by_libraries(folder, "not a model"), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return kind.from_config(config, dtype=dtype, trust_remote_code=False)


def is_trained_part(key: str) -> bool:
    """Whether a tensor is what SALMONN's training adds: the connector (with norms) and the LoRA updates."""
    return key.startswith("connector.") or ".lora_" in key


def save_trained_part(
    tensors: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.bfloat16, *, also: Container[str] = ()
) -> None:
    """Writes connector and LoRA of a whole model's state dictionary, and what else is named, as one file."""
    names = [key for key in tensors if is_trained_part(key) or key in also]
    kept = {key: tensors[key].detach().to("cpu", dtype).contiguous() for key in names}
    with written_whole(path) as temporary:
        save_file(kept, temporary)


def load_trained_part(model: nn.Module, path: Path) -> None:
    """Reads connector, LoRA and what else was trained from our safetensors, or from a released SALMONN's `.pth`.

    Raises:
        InputError: The file is broken, or of another model: every key is accounted for.
    """
    tensors = read_tensors(path) if path.suffix == ".safetensors" else salmonn_tensors(path)
    whole = model.state_dict()
    # More than the trained part, where more was trained; a `.pth` holds shared weights under their second names.
    own = {key: value for key, value in whole.items() if is_trained_part(key) or key in tensors}
    copy_exactly(own, tensors, str(path))


def folder_hash(folder: Path) -> str:
    """A hash over a model folder: its weights, its configuration, and its tokenizer."""
    files = [*sorted(folder.glob("model*.safetensors")), *sorted(folder.glob("*.bin")), folder / "config.json"]
    return hash_of([[path.name, known_sha256(path)] for path in files if path.is_file()] + [tokenizer_hash(folder)])


def tokenizer_hash(folder: Path) -> str:
    """A hash over a folder's tokenizer files, under the names that Hugging Face's tokenizers have."""
    names = ("tokenizer*", "*.model", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json")
    files = sorted({path for name in names for path in folder.glob(name) if path.is_file()})
    return hash_of([[path.name, known_sha256(path)] for path in files])
