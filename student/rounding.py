"""Training with the weights rounded as a device package stores them, so that what rounding costs is learnt away.

The gradient goes through the rounding as if it were not there (straight-through: Bengio et al. 2013, arXiv 1308.3432).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.errors import InputError

RoundedFormat = Literal["q4_0"]
BLOCK = 32
"""Weights of a row that share a scale."""


def as_q4_0(weight: Tensor) -> Tensor:
    """The weights (..., I) that llama.cpp reads from a file of type Q4_0 in which these were stored.

    Of each block of 32 in a row, the weight of the largest magnitude becomes -8 times the scale, which has 16 bits; the
    others become whole multiples of it from -8 to 7 (llama.cpp, `quantize_row_q4_0_ref`).
    """
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, 0, 1 / scale)
    steps = (blocks * inverse + 8.5).trunc().clamp(0, 15) - 8
    return (steps * scale.half()).flatten(-2).to(weight.dtype)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, weight: Tensor) -> Tensor:
        return as_q4_0(weight)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class RoundedLinear(nn.Linear):
    """A linear layer that multiplies with its rounded weights, and learns the ones that are not."""

    def forward(self, hidden: Tensor) -> Tensor:
        """As a linear layer's."""
        return nn.functional.linear(hidden, _StraightThrough.apply(self.weight), self.bias)


def train_rounded(llm: PreTrainedModel) -> None:
    """Lets the linear layers of an LLM's blocks compute as a device package's do, in place; names and weights stay.

    Embeddings and head are left: a package of 4 bits has them in 8. So are rows that are no whole blocks.

    Args:
        llm: Without adapters, which are folded in before anything is stored.

    Raises:
        InputError: No layer has rows of whole blocks.
    """
    found = [of for of in llm.get_decoder().layers.modules() if type(of) is nn.Linear and of.in_features % BLOCK == 0]
    if not found:
        raise InputError(f"train.rounded_llm: no layer of the LLM has rows of whole blocks of {BLOCK}; leave it out")
    for linear in found:
        linear.__class__ = RoundedLinear
