"""Bytes of weights, gradients and optimizer states under ZeRO (Rajbhandari et al. 2020, section 3 and figure 1).

Mixed-precision Adam takes 2 bytes of weights, 2 (4 in fp32) of gradients and 12 of states for each trained parameter;
ZeRO 1 shares out the states among the ranks, 2 the gradients with them, 3 the weights too. What is frozen has weights
alone, of which ZeRO 3 shares out its part.
"""

from dataclasses import dataclass
from typing import Any

_SIZES = {"fp32": 4, "fp16": 2, "bf16": 2}
_ALIGNED = 2
"""DeepSpeed fills a group up to this many elements a rank (`nccl_start_alignment_factor`)."""
_BUCKET, _LIVE = 500_000_000, 1_000_000_000
"""DeepSpeed's own, elements: `reduce_bucket_size`, `stage3_max_live_parameters`."""


@dataclass(frozen=True)
class Engine:
    """What of the recipe's `deepspeed` block says how much memory there is for what.

    Attributes:
        stage: Of ZeRO.
        ranks: Processes.
        element: Bytes of a weight in training.
        gradient: Bytes of a gradient as it is accumulated.
        zero: The block's section `zero_optimization`.
    """

    stage: int
    ranks: int
    element: int
    gradient: int
    zero: dict[str, Any]

    def share(self, groups: list[int]) -> int:
        """Elements of this rank's part of some groups of parameters, each filled up so that ranks have the same."""
        unit = _ALIGNED * self.ranks
        return sum(-(-group // unit) * unit // self.ranks for group in groups)

    def weights(self, numel: int) -> int:
        """Bytes of so many weights of the model that is trained."""
        if self.stage < 3:
            return numel * self.element
        return -(-numel // self.ranks) * self.element

    def gathered(self, numel: int) -> int:
        """ZeRO 3: bytes of the weights that a rank holds whole at a time, at most."""
        if self.stage < 3 or self.ranks == 1:
            return 0
        return min(numel, int(self.zero.get("stage3_max_live_parameters", _LIVE))) * self.element

    def gradients(self, groups: list[int]) -> int:
        """Bytes of the gradients that are kept through a step."""
        if self._offloads("optimizer"):
            return 0
        return (self.share(groups) if self.stage >= 2 else sum(groups)) * self.gradient

    def states(self, groups: list[int]) -> int:
        """Bytes of AdamW's two moments and of the weights in fp32 that it steps on, which are a copy in fp32 too."""
        if self._offloads("optimizer"):
            return 0
        return (self.share(groups) if self.stage >= 1 else sum(groups)) * 12

    def buckets(self) -> int:
        """Bytes of the buffers in which gradients are put together to be reduced, whatever their number."""
        if self.stage < 1 or not self.zero.get("contiguous_gradients", True):
            return 0
        buffers = 2 if self.zero.get("overlap_comm") and self.stage < 3 else 1
        size = self.gradient if self.stage == 1 else self.element
        return buffers * int(self.zero.get("reduce_bucket_size", _BUCKET)) * size

    def _offloads(self, what: str) -> bool:
        return ((self.zero.get(f"offload_{what}") or {}).get("device") or "none") != "none"


def engine_of(block: dict[str, Any], ranks: int) -> Engine:
    """What a recipe's `deepspeed` block asks for.

    Args:
        block: The block.
        ranks: Processes, one a GPU.
    """
    dtype = next((name for name in ("bf16", "fp16") if block.get(name, {}).get("enabled")), "fp32")
    gradient = (block.get("data_types") or {}).get("grad_accum_dtype") or dtype
    zero = block.get("zero_optimization") or {}
    return Engine(int(zero.get("stage", 0)), ranks, _SIZES[dtype], _SIZES[gradient], zero)
