"""Narrower feed-forward layers of encoder and LLM: which neurons do most on a few clips, and leaving out the others.

Shapes: B clips, T positions, N positions that count, F neurons.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from functools import partial

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from data.errors import InputError
from teacher.connector import within
from teacher.low_rank import LowRank
from teacher.model import Batch, SalmonnForConditionalGeneration

_FEED_FORWARD = {
    "encoder": (("fc1",), "fc2"),
    "llm": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
}
"""By part, the linears of a layer that give its neurons, and the one that reads them."""


def stack_of(model: SalmonnForConditionalGeneration, part: str) -> nn.ModuleList:
    """The layers of encoder or LLM."""
    return model.encoder.layers if part == "encoder" else model.llm.get_decoder().layers


def neurons_of(model: SalmonnForConditionalGeneration, part: str) -> int:
    """How many neurons each feed-forward layer of a part has."""
    return _linears(stack_of(model, part)[0], part)[1].in_features


@torch.no_grad()
def neuron_importance(
    model: SalmonnForConditionalGeneration, batches: Iterable[tuple[Batch, Tensor]], parts: Collection[str]
) -> dict[str, Tensor]:
    """How much each neuron of the feed-forward layers does: the Euclidean norm of its activation over all positions.

    (Activation-based importance of neurons: Muralidharan et al. 2024, "Compact Language Models via Pruning and
    Knowledge Distillation", section 2.2; here the activation is that behind the nonlinearity: in the LLM's gated
    layers the product of gate and up.) In the LLM it is multiplied by the norm of what the neuron writes, its column
    of the last linear. There all positions count, the prompt's too, from which the text is written; its first one has
    by far the largest activations of some layers, and without it the mini teacher loses three times as much.

    Args:
        model: In evaluation mode.
        batches: As of `student.ranking.block_distances`.
        parts: "encoder" (over the clips' frames), "llm" (over prompt, audio tokens and text).

    Returns:
        By part (layers, neurons).

    Raises:
        InputError: The LLM's feed-forward layers are not laid out as Llama's.
    """
    reading = {part: [_linears(layer, part)[1] for layer in stack_of(model, part)] for part in parts}
    squares = {part: torch.zeros(len(of), of[0].in_features, dtype=torch.float64) for part, of in reading.items()}

    def note(part: str, number: int, counts_BT: Callable[[int], Tensor], _: nn.Module, given: tuple[Tensor]) -> None:
        active_NF = given[0][counts_BT(given[0].shape[1])].float()
        squares[part][number] += active_NF.square().sum(0).double().cpu()

    for batch, frames_B in batches:
        batch, frames_B = batch.to(model.device), frames_B.to(model.device)
        positions = {"encoder": partial(within, frames_B), "llm": partial(_attended, batch.attention_mask_BT)}
        with ExitStack() as hooks:
            for part, linears in reading.items():
                for number, linear in enumerate(linears):
                    hook = linear.register_forward_pre_hook(partial(note, part, number, positions[part]))
                    hooks.callback(hook.remove)
            if "llm" in parts:
                model.hidden(batch)
            else:
                model.encoder(batch.features.mel_BMT, batch.features.mel_frames_B)
    norms = {part: of.sqrt() for part, of in squares.items()}
    if "llm" in parts:
        norms["llm"] *= torch.stack([_weight(linear).double().norm(dim=0).cpu() for linear in reading["llm"]])
    return norms


def keep_neurons(layers: Iterable[nn.Module], part: str, kept: Iterable[Tensor]) -> None:
    """Narrows each layer's feed-forward, in place, to the neurons of these numbers."""
    for layer, numbers in zip(layers, kept, strict=True):
        giving, reading = _linears(layer, part)
        for linear in giving:
            _select(linear, 0, numbers)
        _select(reading, 1, numbers)


def _select(linear: nn.Linear | LowRank, dim: int, numbers: Tensor) -> None:
    if isinstance(linear, LowRank):
        linear = linear.up if dim == 0 else linear.down
    numbers = numbers.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(dim, numbers))
    if dim == 0:
        linear.out_features = len(numbers)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.detach()[numbers])
    else:
        linear.in_features = len(numbers)


def _weight(linear: nn.Module) -> Tensor:
    """A linear's weight (out, in), with the updates of its adapters."""
    if not isinstance(linear, LoraLayer):
        return linear.weight
    return linear.get_base_layer().weight + sum(map(linear.get_delta_weight, linear.active_adapters))


def _attended(attention_mask_BT: Tensor, _: int) -> Tensor:
    return attention_mask_BT.bool()


def _linears(layer: nn.Module, part: str) -> tuple[list[nn.Module], nn.Module]:
    """A layer's linears that give its neurons, and the one that reads them."""
    giving, reading = _FEED_FORWARD[part]
    try:
        return [layer.get_submodule(name) for name in giving], layer.get_submodule(reading)
    except AttributeError as error:
        raise InputError(
            f"student.{part}_ffn: the layers of this LLM have no {reading} and {', '.join(giving)}, as Llama's do; "
            "leave the key out"
        ) from error
