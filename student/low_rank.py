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
from teacher.connector import within
from teacher.encoder import SpeechEncoder
from teacher.low_rank import LowRank
from teacher.model import Batch


@torch.no_grad()
def lower_rank(
    encoder: SpeechEncoder,
    wanted: float,
    heard: Iterable[tuple[Batch, Tensor]] | None,
    key: str = "student.encoder_rank",
) -> None:
    """Puts two factors in the place of each linear layer of which they are smaller, in place.

    With the mean output m and the R principal directions V of the outputs around it, a layer's output y becomes
    m + V V^T (y - m). Of a layer that is of low rank already, the product of its factors is what is cut.

    Args:
        encoder: In evaluation mode, without adapters.
        wanted: The rank (an integer); or the least share, below 1, of the variance of each layer's outputs that stays.
        heard: Clips, and the encoder frames B of each clip itself, without padding; None: an encoder without weights,
            of which the shape is wanted.
        key: Of the recipe, for messages.

    Raises:
        InputError: A share is wanted of an encoder without weights.
    """
    linears = _linears(encoder)
    if heard is None:
        if not isinstance(wanted, int):
            raise InputError(f"{key}: a share of the variance takes weights; name a rank to try it at random weights")
        factors = {name: None for name, of in linears.items() if _smaller(of, min(wanted, of.out_features))}
        for name in factors:
            _put(encoder, name, wanted)
        return
    for name, (mean_O, scatter_OO) in _moments(encoder, linears, heard).items():
        linear = linears[name]
        values_O, directions_OO = torch.linalg.eigh(scatter_OO)  # in rising order
        values_O, directions_OO = values_O.clamp(min=0).flip(0), directions_OO.flip(1)
        rank = wanted
        if not isinstance(wanted, int):
            rank = int((values_O.cumsum(0) < wanted * values_O.sum()).sum()) + 1
        if not _smaller(linear, min(rank, linear.out_features)):
            continue
        weight_OI, bias_O = _whole(linear)
        made, directions_OR = _put(encoder, name, rank), directions_OO[:, :rank]
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
    """Of each layer's outputs over the clips' frames, the mean (O) and the covariance (O, O), in float64."""
    sums = {name: torch.zeros(of.out_features, dtype=torch.float64) for name, of in linears.items()}
    squares = {name: torch.zeros(2 * [of.out_features], dtype=torch.float64) for name, of in linears.items()}
    number, device = 0, encoder.conv1.weight.device

    def note(name: str, frames_B: Tensor, _: nn.Module, __: tuple, out: Tensor) -> None:
        out_NO = out[within(frames_B, out.shape[1])].double()
        sums[name] += out_NO.sum(0).cpu()
        squares[name] += (out_NO.T @ out_NO).cpu()

    for batch, frames_B in heard:
        with ExitStack() as hooks:
            for name, of in linears.items():
                hooks.callback(of.register_forward_hook(partial(note, name, frames_B.to(device))).remove)
            encoder(batch.features.mel_BMT.to(device), batch.features.mel_frames_B.to(device))
        number += int(frames_B.sum())
    means = {name: of / number for name, of in sums.items()}
    return {name: (means[name], of / number - means[name].outer(means[name])) for name, of in squares.items()}


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
