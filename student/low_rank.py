"""An encoder of low rank: each linear layer's outputs on a few clips say which directions it needs.

(LiteASR: Kamahori et al. 2025, "Efficient Automatic Speech Recognition with Low-Rank Approximation", section 3.)
Shapes: N frames, I width of what goes into a linear layer, O of what comes out, R rank.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from data.errors import InputError
from teacher.connector import real
from teacher.encoder import SpeechEncoder
from teacher.low_rank import LowRank
from teacher.model import Batch


@torch.no_grad()
def lower_rank(encoder: SpeechEncoder, wanted: float, heard: Iterable[tuple[Batch, Tensor]] | None) -> None:
    """Puts two factors in the place of each linear layer of which they are smaller, in place.

    With the mean output m and the R principal directions V of the outputs around it, a layer's output y becomes
    m + V V^T (y - m). Of a layer that is of low rank already, the product of its factors is what is cut.

    Args:
        encoder: In evaluation mode, without adapters.
        wanted: The rank (an integer); or the least share, below 1, of the variance of each layer's outputs that stays.
        heard: Clips, and the encoder frames B of each clip itself, without padding; None: an encoder without weights,
            of which the shape is wanted.

    Raises:
        InputError: A share is wanted of an encoder without weights.
    """
    linears = _linears(encoder)
    if isinstance(wanted, int):
        linears = {name: linear for name, linear in linears.items() if _smaller(linear, wanted)}
    elif heard is None:
        raise InputError(
            "student.encoder_rank: a share of the variance takes weights; name a rank to try it at random weights"
        )
    if heard is None:
        for name in linears:
            _put(encoder, name, wanted)
        return
    for name, moments in _moments(encoder, linears, heard).items():
        weight_OI, bias_O = _whole(linears[name])
        mean_O, directions, variances = _principal(weight_OI, bias_O, *moments)
        rank = wanted
        if not isinstance(wanted, int):
            rank = int((variances.cumsum(0) < wanted * variances.sum()).sum()) + 1
        if not _smaller(linears[name], rank):
            continue
        made, directions_OR = _put(encoder, name, rank), directions[:, :rank]
        made.down.weight.copy_(directions_OR.T @ weight_OI)
        made.up.weight.copy_(directions_OR)
        made.up.bias.copy_(mean_O + directions_OR @ (directions_OR.T @ (bias_O - mean_O)))


def _linears(encoder: SpeechEncoder) -> dict[str, nn.Linear | LowRank]:
    """The linear layers by name, and those of low rank whole."""
    found: dict[str, nn.Linear | LowRank] = {}
    for name, of in encoder.named_modules():
        if isinstance(of, nn.Linear | LowRank) and name.rpartition(".")[0] not in found:
            found[name] = of
    return found


def _moments(
    encoder: SpeechEncoder, linears: dict[str, nn.Linear | LowRank], heard: Iterable[tuple[Batch, Tensor]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and covariance over the clips' frames of each layer's outputs, or of its inputs where they are narrower."""
    widths = {name: min(of.in_features, of.out_features) for name, of in linears.items()}
    sums = {name: torch.zeros(width, dtype=torch.float64) for name, width in widths.items()}
    squares = {name: torch.zeros(width, width, dtype=torch.float64) for name, width in widths.items()}
    number, device = 0, encoder.conv1.weight.device

    def note(name: str, frames_B: Tensor, linear: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        states = out if linear.out_features <= linear.in_features else given[0]
        states_ND = real(states, frames_B).float()
        sums[name] += states_ND.sum(0).double().cpu()
        squares[name] += (states_ND.T @ states_ND).double().cpu()

    for batch, frames_B in heard:
        with ExitStack() as hooks:
            for name, of in linears.items():
                hooks.callback(of.register_forward_hook(partial(note, name, frames_B)).remove)
            encoder(batch.features.mel_BMT.to(device), batch.features.mel_frames_B)
        number += int(frames_B.sum())
    means = {name: of / number for name, of in sums.items()}
    return {name: (means[name], of / number - means[name].outer(means[name])) for name, of in squares.items()}


def _principal(weight_OI: Tensor, bias_O: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of a layer's outputs (O), their principal directions, as columns, and the variance along each.

    Args:
        weight_OI: The layer's weight.
        bias_O: Its bias.
        mean: Of its outputs, or of its inputs.
        covariance: Of the same.
    """
    variances, directions = torch.linalg.eigh(covariance)  # in rising order
    variances, directions = variances.clamp(min=0).flip(0), directions.flip(1)
    if len(mean) == len(bias_O):
        return mean, directions, variances
    directions, sizes, _ = torch.linalg.svd(weight_OI @ (directions * variances.sqrt()), full_matrices=False)
    return weight_OI @ mean + bias_O, directions, sizes.square()


def _smaller(linear: nn.Linear | LowRank, rank: int) -> bool:
    """Whether two factors have fewer weights than the layer has."""
    now = sum(parameter.numel() for name, parameter in linear.named_parameters() if name.endswith("weight"))
    return rank * (linear.in_features + linear.out_features) < now


def _whole(linear: nn.Linear | LowRank) -> tuple[Tensor, Tensor]:
    """A layer's weight (O, I) and bias (O), in float64 on the CPU; Whisper's keys have no bias, which is zeros."""
    if isinstance(linear, LowRank):
        weight_OI, bias = linear.up.weight.double() @ linear.down.weight.double(), linear.up.bias
    else:
        weight_OI, bias = linear.weight.double(), linear.bias
    bias_O = weight_OI.new_zeros(len(weight_OI)) if bias is None else bias.double()
    return weight_OI.cpu(), bias_O.cpu()


def _put(encoder: SpeechEncoder, name: str, rank: int) -> LowRank:
    """An untrained layer of this rank where the layer of this name was."""
    linear = encoder.get_submodule(name)
    weight = next(linear.parameters())
    made = LowRank(linear.in_features, linear.out_features, rank, device=weight.device, dtype=weight.dtype)
    encoder.set_submodule(name, made)
    return made
