"""A linear layer of low rank: two smaller ones, one after the other."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """`up(down(x))`, where a linear layer was: rank x (in + out) weights instead of in x out."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.up = nn.Linear(rank, out_features, device=device, dtype=dtype)

    @property
    def in_features(self) -> int:
        """Width of what goes in."""
        return self.down.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Width of what comes out."""
        return self.up.weight.shape[0]

    @property
    def rank(self) -> int:
        """Width between the two."""
        return self.up.weight.shape[1]

    def forward(self, states: Tensor) -> Tensor:
        """States (..., in) to states (..., out)."""
        return self.up(self.down(states))


def ranks_of(module: nn.Module) -> dict[str, int]:
    """The ranks of the layers of low rank, by name: what `lower_ranks` needs to make them again."""
    return {name: of.rank for name, of in module.named_modules() if isinstance(of, LowRank)}


def lower_ranks(module: nn.Module, ranks: Mapping[str, int]) -> None:
    """Puts untrained layers of these ranks in the place of the linear layers of these names."""
    for name, rank in ranks.items():
        linear = module.get_submodule(name)
        module.set_submodule(name, LowRank(linear.in_features, linear.out_features, rank))


def on_factors(lora: dict, module: nn.Module) -> dict:
    """peft's settings of a part, where layers of low rank that are named get an update of each of their factors."""
    if not (factored := [*ranks_of(module)]):
        return lora
    named = [f"{name}.{factor}" for name in lora["target_modules"] for factor in ("down", "up")]
    return lora | {"target_modules": [*lora["target_modules"], *named], "exclude_modules": factored}
