"""What the recipe's `deepspeed` block may hold: whatever this release of DeepSpeed reads, and nothing else.

DeepSpeed checks the sections for which it has pydantic models, and passes over every other key that it does not know.
"""

import copy
import difflib
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

from pydantic import ValidationError

from data.settings import section_of

with redirect_stdout(sys.stderr):  # see teacher/device.py
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

_OURS = {"optimizer": "train.betas, train.weight_decay and the stages' lr", "scheduler": "the stages' lr"}

_SECTIONS = ("zero_optimization", "bf16", "fp16")
"""Where this code looks too, and DeepSpeed takes more than it should."""


def require_known(block: dict[str, Any]) -> None:
    """Refuses a block with a key that DeepSpeed would not read, or would not take.

    Raises:
        ValueError: Names the key and the nearest known one.
    """
    for key, instead in _OURS.items():
        if key in block:
            raise ValueError(f"'{key}' is not DeepSpeed's here but the recipe's own ({instead}); leave it out")
    for key in _SECTIONS:
        if not isinstance(block.get(key, {}), dict):
            raise ValueError(f"'{key}' is a section, not {block[key]!r}; write it as an object, or leave it out")
    # How many processes there are is not known yet, so the sizes of batches are looked at when the engine starts.
    asked = _Asked({"train_micro_batch_size_per_gpu": 1, **copy.deepcopy(block), "train_batch_size": None})
    try:
        DeepSpeedConfig(asked)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error
    except Exception as error:  # of values of another kind it raises anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"DeepSpeed refuses it: {reason}") from error
    _require_asked(block, asked, "")


def require_usable(block: dict[str, Any]) -> None:
    """Refuses what DeepSpeed takes, but the loop cannot train with.

    Raises:
        ValueError: Names the key and the mend.
    """
    zero = block.get("zero_optimization", {})
    wider = block.get("data_types", {}).get("grad_accum_dtype") == "fp32" and block.get("bf16", {}).get("enabled")
    if block.get("fp16", {}).get("enabled") and not zero.get("stage"):
        # It divides gradients by a scale with which it never multiplied the loss (0.19.8).
        raise ValueError("fp16: without ZeRO DeepSpeed does not scale the loss; set zero_optimization.stage to 1 or 2")
    if wider and not zero.get("stage"):
        raise ValueError("data_types.grad_accum_dtype: with bf16 it takes ZeRO; set zero_optimization.stage to 1 or 2")
    if zero.get("compute_grad_norm") is False:
        raise ValueError("zero_optimization.compute_grad_norm: by its norm a lost gradient is found; leave it out")
    if block.get("managed_gradient_accumulation") is False:
        raise ValueError("managed_gradient_accumulation: the loop asks for a step at each micro-batch; leave it out")
    if block.get("train_micro_batch_size_per_gpu", 1) != 1:
        raise ValueError(
            "train_micro_batch_size_per_gpu: a micro-batch is bounded by seconds (max_seconds of a stage) and tokens, "
            "not by clips; set it to 1"
        )


def accumulation(block: Mapping[str, Any], processes: int) -> int:
    """Micro-batches of a process in a step, by the rules of DeepSpeed's configuration."""
    if isinstance(each := block.get("gradient_accumulation_steps"), int):
        return each
    whole, micro = block.get("train_batch_size"), block.get("train_micro_batch_size_per_gpu")
    return max(whole // micro // processes, 1) if whole and micro else 1


class _Asked(dict):
    """A section that writes down which keys it is asked for."""

    def __init__(self, tree: dict[str, Any], names: set[str] | None = None) -> None:
        nested = {k: _Asked(v) if isinstance(v, dict) and not isinstance(v, _Asked) else v for k, v in tree.items()}
        super().__init__(nested)
        self.names = set() if names is None else names

    def __copy__(self) -> "_Asked":
        return _Asked(dict(self.items()), self.names)

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)

    def keys(self) -> "_Asked":
        return self  # so that "key in block.keys()" is seen too

    def __iter__(self) -> Iterator[str]:
        # Handed on as a whole, to one of DeepSpeed's models, which refuses what it does not know.
        self.names.update(super().keys())
        return super().__iter__()


def _require_asked(block: dict[str, Any], asked: _Asked, path: str) -> None:
    """Every key of a section that DeepSpeed looked into was looked up."""
    for key, value in block.items():
        if key not in asked.names:
            raise ValueError(f"unknown key '{path}{key}'; {_nearest(key, asked.names)}")
        inner = dict.get(asked, key)
        if isinstance(value, dict) and inner is not None and inner.names:  # none: it is read later, where it is used
            _require_asked(value, inner, f"{path}{key}.")


def _explain(error: ValidationError) -> str:
    """A fault that DeepSpeed's own models found, in one line."""
    fault = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] != "extra_forbidden":
        return f"key '{key}': {fault['msg']} (it is {fault['input']!r})"
    model = next((model for model in _models() if model.__name__ == error.title), None)
    for step in fault["loc"][:-1]:
        field = model.model_fields.get(step) if model else None
        model = section_of(field.annotation) if field else None
    fields = model.model_fields.items() if model else ()
    names = {name for own, field in fields for name in (own, field.alias) if name}
    return f"unknown key '{key}'; {_nearest(str(fault['loc'][-1]), names)}"


def _models(of: type = DeepSpeedConfigModel) -> Iterator[type[DeepSpeedConfigModel]]:
    for model in of.__subclasses__():
        yield model
        yield from _models(model)


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{near[0]}'?" if near else "DeepSpeed has no such key"
