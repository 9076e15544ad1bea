"""Linear layers, plain, of low rank or with LoRA: what autograd keeps of their inputs, and their operations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from torch import nn

from teacher.low_rank import LowRank


@dataclass(frozen=True)
class Sizes:
    """Of what is kept, on a kind of device.

    Attributes:
        element: Bytes of an element of an activation.
        mask: Bytes of one of a dropout's mask: on a CPU it is a number.
        copied: Whether the output of masked attention is kept twice, as on a CPU, where what reads it gets a copy.
    """

    element: int
    mask: int = 1
    copied: bool = False


def whole_linears(module: nn.Module) -> Iterator[nn.Module]:
    """The linear layers of a module, each with its adapter or factors as one."""
    for child in module.children():
        if isinstance(child, LoraLayer | LowRank | nn.Linear):
            yield child
        else:
            yield from whole_linears(child)


def products(linear: nn.Module) -> Iterator[nn.Linear]:
    """The single products that a layer is made of: itself, its adapter's, its factors'."""
    if isinstance(linear, LoraLayer):
        yield from products(linear.get_base_layer())
        for name in linear.lora_A:
            yield from (linear.lora_A[name], linear.lora_B[name])
    elif isinstance(linear, LowRank):
        yield from products(linear.down)
        yield from products(linear.up)
    else:
        yield linear


def kept_inputs(
    readers: Iterable[nn.Module], width: int, sizes: Sizes, *, there: bool = False, flows: bool = True
) -> int:
    """Bytes that autograd keeps of one position that these layers read.

    A product keeps its input where its weight gets a gradient, and readers share it; behind a dropout of its own, an
    adapter has another one. The mask is kept where the input gets a gradient, be the adapter frozen.

    Args:
        readers: Layers with one and the same input.
        width: Of that input.
        sizes: Of elements.
        there: Whether the input is kept anyway.
        flows: Whether it gets a gradient.
    """
    shared, own = False, 0
    for reader in readers:
        plain = reader
        if isinstance(reader, LoraLayer):
            plain = reader.get_base_layer()
            for name, down in reader.lora_A.items():
                drops, learns = bool(getattr(reader.lora_dropout[name], "p", 0)), down.weight.requires_grad
                own += width * sizes.mask * (drops and flows)
                own += learns * (down.out_features + width * drops) * sizes.element
                shared |= learns and not drops
        first, *others = products(plain)
        shared |= first.weight.requires_grad
        own += sum(of.in_features * sizes.element for of in others if of.weight.requires_grad)
    return own + (width * sizes.element if shared and not there else 0)


@dataclass(frozen=True)
class Work:
    """Floating-point operations; a multiplication and an addition are two.

    Attributes:
        forward: Of the forward pass.
        backward: Of the backward pass.
        again: Of what is computed again in the backward pass.
    """

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward, self.again + other.again)

    @property
    def all(self) -> float:
        """Of a training step."""
        return self.forward + self.backward + self.again


def work_of(linear: nn.Module, rows: int, *, flows: bool) -> Work:
    """The products of a layer over so many rows: as much again for the gradient of the input, and for the weight's.

    (PaLM, Chowdhery et al. 2022, appendix B: 2 forward and 4 backward a weight and token, if all is trained.)

    Args:
        linear: The layer.
        rows: Rows of its input.
        flows: Whether its input gets a gradient.
    """
    done = Work()
    for of in products(linear):
        forward = 2.0 * rows * of.in_features * of.out_features
        done += Work(forward, forward * (flows + of.weight.requires_grad))
    return done


def attention_work(clips: int, queries: int, keys: int, width: int, *, flows: bool) -> Work:
    """The two products of scores and values, the causal half not left out (PaLM, appendix B), twice that backward."""
    forward = 4.0 * clips * queries * keys * width
    return Work(forward, 2 * forward * flows)
