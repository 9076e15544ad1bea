"""A language model's linear layers in eight or four bits, and what weights really take."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import get_args

import torch
from torch import Tensor, nn

from data.errors import InputError
from teacher.model import SalmonnForConditionalGeneration
from teacher.settings import Quantisation

INSTALL = "pip install -r requirements-quantise.txt"
_GROUPS = (64, 32)  # weights that share a scale: the larger, the smaller the model
_KERNEL_ROWS = 128  # above, unpacking the weight once takes less time than the kernel for packed ones
_KERNEL_WIDTH = 32  # the kernel reads so many weights at once, beyond the end where a row is no multiple of them
_OUTLIERS = 6.0  # LLM.int8(): features of a state above this stay in 16 bits


def require_quantisation(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
    """Refuses what cannot be done here, before anything is loaded.

    Args:
        name: Which quantisation.
        device: Where the model is to run.
        dtype: Of the LLM before it.

    Raises:
        InputError: No such quantisation, its library is missing, or it needs another device or precision.
    """
    if name not in get_args(Quantisation):
        raise InputError(f"quantisation '{name}': none of {', '.join(get_args(Quantisation))}")
    library = "bitsandbytes" if name.startswith("bnb_") else "torchao"
    if find_spec(library) is None:
        raise InputError(f"quantisation {name}: the package {library} is not installed; {INSTALL}")
    if name == "int4" and device.type == "cuda":  # as torchao's kernel asks; not run on one yet
        if dtype != torch.bfloat16:
            precision = str(dtype).removeprefix("torch.")
            raise InputError(f"quantisation int4: on a GPU it takes bfloat16, not {precision}; set teacher.dtype bf16")
        if (capability := torch.cuda.get_device_capability(device)) < (8, 0):
            shown = "{}.{}".format(*capability)
            raise InputError(f"quantisation int4: takes compute capability 8.0, this GPU has {shown}; take bnb_nf4")


@torch.no_grad()
def quantise_llm(model: SalmonnForConditionalGeneration, name: Quantisation, device: torch.device) -> None:
    """Stores the linear layers of the LLM's decoder in fewer bits, in place; embeddings and head stay as they are.

    `int8`: a scale a row; `int4`: a scale and a zero a group of 64 weights; both by torchao, activations in the model's
    precision. `bnb_int8`: LLM.int8() (Dettmers et al. 2022); `bnb_nf4`: NF4 (Dettmers et al. 2023); by bitsandbytes.

    Args:
        model: Without adapters (`merge_lora`).
        name: Which quantisation.
        device: Where the model is to run: packed weights are laid out for it, and do not move.

    Raises:
        InputError: It cannot be done here, or a layer's width is no multiple of a group.
    """
    decoder = model.llm.get_decoder()
    require_quantisation(name, device, decoder.dtype)
    decoder.to(device)
    if name.startswith("bnb_"):
        replace_linear(decoder, partial(linear_by_bitsandbytes, name=name))
    else:
        from torchao.quantization import quantize_

        quantize_(decoder, _torchao_config(name, decoder, device))
        if name == "int8" and device.type == "cpu":
            replace_linear(decoder, RowwiseInt8)
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            # Read from a file, all weights are one mapping of it: as long as one of them stays there, so do all.
            parameter.data = parameter.data.clone()


def _torchao_config(name: str, decoder: nn.Module, device: torch.device) -> object:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if name == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    widths = {layer.in_features for layer in decoder.modules() if isinstance(layer, nn.Linear)}
    # torchao passes over a layer that its groups do not fit, without a word.
    groups = [group for group in _GROUPS if not any(width % group for width in widths)]
    if not groups:
        width = next(width for width in sorted(widths) if width % _GROUPS[-1])
        raise InputError(f"quantisation int4: a layer {width} wide is no multiple of {_GROUPS[-1]}; take int8")
    if device.type == "cpu":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=groups[0], set_inductor_config=False)
    return Int4WeightOnlyConfig(
        group_size=groups[0], int4_packing_format="tile_packed_to_4d", set_inductor_config=False
    )


class RowwiseInt8(nn.Module):
    """A linear layer over torchao's int8 weight, by PyTorch's kernel for it.

    Uncompiled, torchao itself unpacks a weight whenever it is used: on a CPU a decoding step then takes ten times as
    long as in bf16, with the kernel a quarter.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, states: Tensor) -> Tensor:
        """States (..., in) to states (..., out)."""
        rows = states.reshape(-1, self.in_features)
        packed, scale = self.weight.qdata, self.weight.scale.flatten().to(states.dtype)
        if len(rows) <= _KERNEL_ROWS and self.in_features % _KERNEL_WIDTH == 0:
            out = torch._weight_int8pack_mm(rows, packed, scale)
        else:
            # Packed weights go up to 127: in fp16 a sum of them and large states would end beyond what it can say.
            out = nn.functional.linear(rows / 128, packed.to(states.dtype)) * (128 * scale)
        out = out if self.bias is None else out + self.bias
        return out.view(*states.shape[:-1], self.out_features)


def replace_linear(decoder: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Puts what `make` returns in the place of every linear layer."""
    for path, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear):
            parent = decoder.get_submodule(path.rpartition(".")[0])
            setattr(parent, path.rpartition(".")[2], make(layer))


def linear_by_bitsandbytes(layer: nn.Linear, name: str) -> nn.Module:
    """The layer in eight or four bits by bitsandbytes, on its device."""
    import bitsandbytes

    sizes, options = (layer.in_features, layer.out_features), {"bias": layer.bias is not None}
    device, weight = layer.weight.device, layer.weight.data.cpu()
    if name == "bnb_int8":
        packed = bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=_OUTLIERS, **options)
        packed.weight = bitsandbytes.nn.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
    else:
        packed = bitsandbytes.nn.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", **options)
        packed.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    packed.bias = layer.bias
    # Quantised as it moves there; in training mode it would compute otherwise.
    return packed.to(device).train(layer.training)


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a parameter takes: of packed weights all that is kept of them, scales with them."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    scales = 0
    if state := getattr(tensor, "quant_state", None):  # bitsandbytes, four bits
        scales = sum(scale.numel() * scale.element_size() for scale in (state.absmax, state.code))
    elif hasattr(tensor, "SCB"):  # eight bits: an fp32 number a row, which moves to the layer when it is first used
        scales = 4 * len(tensor)
    return tensor.numel() * tensor.element_size() + scales
