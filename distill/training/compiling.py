"""Layers compiled by torch.compile, where the recipe asks for it (`train.compile`)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from teacher.model import SalmonnForConditionalGeneration

BACKEND = "inductor"


def compile_layers(model: SalmonnForConditionalGeneration) -> None:
    """Compiles each layer of the speech encoder and of the LLM, for training alone.

    One by one, as layers are alike and what is compiled of one serves the others; and for any length, as batches have
    many. A layer's `forward` is replaced, not the layer: parameters keep their names, so checkpoints and exports are
    those of a run without it, and hooks are called as ever. A model that writes is not compiled. A compiled layer's
    dropout draws otherwise than a plain one's.

    Args:
        model: The student.
    """
    for layer in (*model.encoder.layers, *model.llm.get_decoder().layers):
        compiled = torch.compile(layer.forward, dynamic=True, backend=BACKEND)
        layer.forward = partial(_forward, layer, layer.forward, compiled)


def _forward(layer: nn.Module, plain: Callable, compiled: Callable, *inputs: Any, **keywords: Any) -> Any:
    return (compiled if layer.training else plain)(*inputs, **keywords)
