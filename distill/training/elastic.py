"""A run that goes on with another number of processes: the same data in the same steps, its checkpoint dealt out anew.

What the processes of the beginning saw together in a step, the others see by more or fewer micro-batches each
(`LengthBatches` makes a step's batches of their number in all). ZeRO keeps of each parameter's fp32 values and moments
a piece on each process, in a file of its own; pieces of another number are cut from these files as they are loaded.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor

from data.errors import InputError
from data.strict_json import loads
from distill.recipe.deepspeed_block import accumulation
from distill.recipe.recipe import Recipe
from distill.training.deepspeed_insides import groups_of, load_pieces

_PIECES = "*_optim_states.pt"
_MODEL = "*_model_states.pt"
_CUT_OTHERWISE = {
    **{"round_robin_gradients": False, "parameter_alignment": 0},
    **{"zero_hpz_partition_size": 1, "mics_shard_size": -1},
}
"""Keys with which ZeRO cuts by other rules than are known here, and what they usually are."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


def processes_of_run(recipe: Recipe, world: int) -> int:
    """The processes that a run began with, whose batches a step has; as many as there are, unless it is elastic."""
    run_dir = recipe.run_dir
    if not (recipe.train.elastic and (run_dir / "checkpoints" / "latest").is_file()):
        return world
    try:
        begun = loads((run_dir / "identity.json").read_text())["processes"]
        return max(int(begun), 1)
    except (OSError, ValueError, KeyError, TypeError):
        return world  # damaged, which is told when it is compared


def accumulation_of(recipe: Recipe, begun: int, world: int) -> int | None:
    """Micro-batches of a process in a step, where that differs from what the recipe says; else None.

    Args:
        recipe: The run's.
        begun: Processes that it began with.
        world: Processes now.

    Raises:
        InputError: They cannot share a step's micro-batches evenly, or the recipe's block rules it out.
    """
    if begun == world:
        return None
    block = recipe.deepspeed
    zero = block.get("zero_optimization", {})
    for key, usual in _CUT_OTHERWISE.items():
        if zero.get(key, usual) not in (usual, None):
            raise InputError(f"train.elastic: with deepspeed.zero_optimization.{key} a run goes on with as many only")
    if (zero.get("offload_optimizer") or {}).get("device") == "nvme":
        raise InputError("train.elastic: states that are offloaded to NVMe go to as many processes only")
    if block.get("bf16", {}).get("enabled") and not zero.get("stage"):
        raise InputError(
            "train.elastic: bf16 without ZeRO keeps pieces of its own; take as many processes as it began with"
        )
    if zero.get("stage") == 1 and block.get("data_types", {}).get("grad_accum_dtype") == "fp32":
        raise InputError(
            "train.elastic: deepspeed.data_types.grad_accum_dtype at ZeRO 1 keeps pieces of its own; take as many "
            "processes as it began with (at zero_optimization.stage 2 it goes on with others)"
        )
    together = begun * accumulation(block, begun)
    if together % world:
        shared = ", ".join(str(number) for number in range(1, together + 1) if together % number == 0)
        raise InputError(
            f"train.elastic: {world} processes cannot share the {together} micro-batches of a step; take {shared}"
        )
    return together // world


def processes_of(folder: Path) -> int | None:
    """How many processes a checkpoint is of; None where each has all of it."""
    return len([*folder.glob(_PIECES)]) or None


def load_dealt(engine: DeepSpeedEngine, folder: Path) -> dict[str, Any]:
    """Loads a checkpoint of another number of processes; gives what `save` was given besides.

    Each process reads all pieces (mapped into memory) and keeps its own.
    """
    pieces = [_read(path)["optimizer_state_dict"] for path in _by_rank(folder.glob(_PIECES))]
    state = _read(_by_rank(folder.glob(_MODEL))[0])
    groups = groups_of(engine)
    dealt = deal(pieces, state["param_shapes"], groups, engine.optimizer.state_dict(), engine.zero_optimization_stage())
    load_pieces(engine, state, dealt)
    return state


@torch.no_grad()
def deal(
    pieces: Sequence[Mapping],
    before: Sequence[Mapping[str, torch.Size]],
    now: Sequence[tuple[Mapping[str, torch.Size], int]],
    template: dict,
    stage: int,
) -> dict:
    """This process's piece of a checkpoint's optimizer states.

    Args:
        pieces: What each process of before has kept.
        before: Shapes of the parameters by name, of each group of before.
        now: Likewise of this engine, each with the length of this process's piece.
        template: What this process's optimizer would keep.
        stage: Of ZeRO, 1 to 3.

    Returns:
        The template with what the checkpoint has; a group that was never trained has no moments.
    """
    base, flat = _names(stage)
    group_of = {name: number for number, shapes in enumerate(before) for name in shapes}
    states: dict[int, dict[str, Any]] = {}
    flats = []

    def dealt(kept: Sequence[Tensor], shapes: Mapping[str, torch.Size], length: int, groups: Sequence[int]) -> Tensor:
        whole = {}
        for group, of_group in zip(groups, kept, strict=True):
            whole |= _whole(of_group, before[group], stage)
        return _piece(whole, shapes, stage, length)

    for number, (shapes, length) in enumerate(now):
        groups = sorted({group_of[name] for name in shapes})
        flats.append(dealt([[piece[flat][group] for piece in pieces] for group in groups], shapes, length, groups))
        of_ranks = [[piece[base]["state"].get(group) for piece in pieces] for group in groups]
        states[number] = {}
        if not all(state for of_group in of_ranks for state in of_group):
            continue
        states[number] = {"step": of_ranks[0][0]["step"]}
        for key in _MOMENTS:
            kept = [[state[key] for state in of_group] for of_group in of_ranks]
            states[number][key] = dealt(kept, shapes, length, groups)
    told = {key: pieces[0][key] for key in ("loss_scaler", "dynamic_loss_scale", "overflow")}
    return template | told | {base: template[base] | {"state": states}, flat: flats}


def _names(stage: int) -> tuple[str, str]:
    """Under which names ZeRO keeps the optimizer's states, and the fp32 values."""
    if stage == 3:
        return "optimizer_state_dict", "fp32_flat_groups"
    return "base_optimizer_state", "single_partition_of_fp32_groups"


def _whole(pieces: Sequence[Tensor], shapes: Mapping[str, torch.Size], stage: int) -> dict[str, Tensor]:
    """The flat values of each parameter of a group, from the processes' pieces.

    Up to stage 2 the group as a whole is cut into pieces, at stage 3 each parameter is; what fills the last piece up is
    left out.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if stage < 3:
        group = torch.cat([piece.flatten() for piece in pieces])[: sum(sizes.values())]
        return dict(zip(sizes, group.split([*sizes.values()]), strict=True))
    whole, at = {}, 0
    for name, size in sizes.items():
        each = -(-size // len(pieces))
        whole[name] = torch.cat([piece.flatten()[at : at + each] for piece in pieces])[:size]
        at += each
    return whole


def _piece(whole: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], stage: int, length: int) -> Tensor:
    """This process's piece of a group, of so many values."""
    rank, world = dist.get_rank(), dist.get_world_size()
    cut = [torch.cat([whole[name] for name in shapes])] if stage < 3 else [whole[name] for name in shapes]
    parts = []
    for values in cut:
        each = length if stage < 3 else -(-len(values) // world)
        part = values[rank * each : (rank + 1) * each]
        parts.append(torch.nn.functional.pad(part, (0, each - len(part))))
    piece = torch.cat(parts)
    if len(piece) != length:
        raise InputError(
            f"train.elastic: DeepSpeed cuts states otherwise than was known ({len(piece)}, {length} values)"
        )
    return piece


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


def _by_rank(paths: Any) -> list[Path]:
    """Files of a checkpoint in the order of their processes; mp_rank_00 is one for all."""
    return sorted(paths, key=lambda path: int(path.name.partition("pp_rank_")[2].partition("_")[0] or 0))
