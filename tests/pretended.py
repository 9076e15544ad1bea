"""A device that is pretended: it computes on the CPU, and writes down where the host would wait for a real one.

Its tensors say that they are on `meta`, which torch has on every machine and asks nothing of; what they hold is on the
CPU. An operation of theirs with a tensor that was left on the CPU is refused, as CUDA refuses it.
"""

import traceback

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_WAITED_FOR = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
_WAITED_FOR |= {"aten::repeat_interleave.Tensor", "aten::unique_consecutive", "aten::is_nonzero"}
_MIXED = {"aten::copy_", "aten::_to_copy"}


class Held(Tensor):
    """A tensor of the pretended device."""

    @staticmethod
    def __new__(cls, inside: Tensor) -> "Held":
        return Tensor._make_wrapper_subclass(
            cls, inside.size(), inside.stride(), inside.storage_offset(), dtype=inside.dtype, device=DEVICE
        )

    def __init__(self, inside: Tensor) -> None:
        self.inside = inside

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("a tensor of the pretended device outside of it")


class Pretended(TorchDispatchMode):
    """The device. `waits` lists the operations for which the host waits, each with the line of ours that asked.

    `held` puts a module's weights there; tensors come there by `.to(DEVICE)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    @staticmethod
    def held(module: nn.Module) -> nn.Module:
        """The module with its parameters and buffers on the device."""
        for of in module.modules():
            for name, parameter in of._parameters.items():
                if parameter is not None:
                    of._parameters[name] = nn.Parameter(Held(parameter.detach()), parameter.requires_grad)
            for name, buffer in of._buffers.items():
                if buffer is not None:
                    of._buffers[name] = Held(buffer)
        return module

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        there = any(isinstance(x, Held) for x in tensors)
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted) == DEVICE:
            kwargs["device"], goes = torch.device("cpu"), True
        else:
            goes = there and wanted is None
        name = func.name()
        if there:
            self._look(name, args, tensors, leaves=wanted is not None and not goes)
        out = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if name.partition(".")[0].endswith("_") and isinstance(args[0], Held):
            return args[0]
        return tree_map(lambda x: Held(x) if isinstance(x, Tensor) and goes else x, out)

    def _look(self, name: str, args: tuple, tensors: list[Tensor], leaves: bool) -> None:
        indexed = name.startswith("aten::index") and len(args) > 1 and isinstance(args[1], list | tuple)
        indices = [x for x in args[1] if x is not None] if indexed else []
        by_booleans = any(isinstance(x, Held) and x.dtype in (torch.bool, torch.uint8) for x in indices)
        if leaves or by_booleans or name in _WAITED_FOR:
            asked = [f"{at.filename}:{at.lineno}" for at in traceback.extract_stack() if at.filename != __file__]
            ours = [line for line in asked if "site-packages" not in line]
            self.waits.append(f"{name}, asked at {ours[-1]}, {asked[-1]}")
        strangers = [x for x in tensors if not isinstance(x, Held) and x.dim() and all(x is not i for i in indices)]
        if strangers and name.partition(".")[0] not in _MIXED:
            raise AssertionError(f"{name}: a tensor of {tuple(strangers[0].shape)} was left on the host")


def _inside(x: object) -> object:
    return x.inside if isinstance(x, Held) else x
