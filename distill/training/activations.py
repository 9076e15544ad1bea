"""Activation checkpointing by DeepSpeed: layers keep their inputs and are computed again in the backward pass."""

from functools import partial
from typing import Any

import deepspeed
import torch

from data.errors import InputError
from teacher.device import get_accelerator
from teacher.model import SalmonnForConditionalGeneration


def recompute_activations(model: SalmonnForConditionalGeneration, block: dict[str, Any]) -> None:
    """Has every layer of the encoder, the Q-Former and the LLM checkpointed in training.

    Args:
        model: Of any precision, partitioned or not.
        block: The recipe's `deepspeed` block, whose section `activation_checkpointing` says where inputs are kept.

    Raises:
        InputError: Inputs are to be moved to the CPU, and are there already.
    """
    if block["activation_checkpointing"].get("cpu_checkpointing") and get_accelerator().device_name() == "cpu":
        raise InputError("deepspeed.activation_checkpointing.cpu_checkpointing: this is the CPU; leave it out here")
    deepspeed.checkpointing.configure(None, deepspeed_config=block)
    model._set_gradient_checkpointing(True, _checkpoint)


def _checkpoint(forward: partial, *inputs: Any) -> Any:
    """A layer's forward pass, as transformers hands it over: its keywords are bound, tensors among them."""
    # Up to 5.22 what is called is bound to the layer, from 5.23 on it is the first argument.
    layer = forward.args[0] if forward.args else forward.func.__self__
    # What every layer gets, such as the sound that a Q-Former asks: aliases of it, as DeepSpeed empties what it has
    # moved to the CPU.
    inputs = (*inputs[:1], *(x.view_as(x) if torch.is_tensor(x) else x for x in inputs[1:]))
    keywords = {name: x.view_as(x) if torch.is_tensor(x) else x for name, x in forward.keywords.items()}
    tensors = [x for x in (*inputs, *keywords.values()) if torch.is_tensor(x)]
    if not any(tensor.requires_grad for tensor in tensors):
        if not any(parameter.requires_grad for parameter in layer.parameters()):
            return forward(*inputs)
        # DeepSpeed's checkpoint is one autograd function: without an input that has a gradient, its weights get none.
        first, *others = inputs
        inputs = (first.detach().requires_grad_(), *others)
    return deepspeed.checkpointing.checkpoint(forward.func, *forward.args, *inputs, **keywords)
