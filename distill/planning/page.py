"""A plan as a page, and as JSON."""

from typing import Any

from distill.planning.disk import cache_bytes
from distill.planning.memory import Memory
from distill.planning.setting import Setting
from distill.planning.times import caching_hours, stage_times
from distill.recipe.recipe import Recipe

_GB, _PETA, _TERA = 1e9, 1e15, 1e12
_WIDE = 32


def planned(on: Setting, kept: float) -> dict[str, Any]:
    """What a recipe takes on its GPUs, stage by stage, as JSON has it.

    Args:
        on: The recipe and its GPUs.
        kept: Ids of a cached position.
    """
    recipe, card, memory = on.recipe, on.card, Memory(on)
    stages = []
    for number, stage in enumerate(recipe.train.stages):
        times = stage_times(on, stage)
        stages.append(
            {
                "name": stage.name,
                "memory": memory.of_stage(stage),
                "key": f"train.stages.{number}.max_seconds",
                "max_seconds": stage.max_seconds,
                "largest": memory.largest(lambda s, stage=stage: memory.of_stage(stage, s), on.student),
                **vars(times),
            }
        )
    found = {"recipe": recipe.name, "clips": on.clips.source, "stages": stages}
    found |= {"gpus": card.number, "memory": card.memory, "room": card.room}
    found |= {"flops": card.flops, "utilisation": card.utilisation}
    if recipe.cache:
        found["caching"] = {
            "name": "caching",
            "memory": memory.of_caching(),
            "key": "cache.max_seconds",
            "max_seconds": recipe.cache.max_seconds,
            "largest": memory.largest(memory.of_caching, on.teacher),
            "hours": caching_hours(on),
            "disk": cache_bytes(recipe.cache, on.teacher.config, on.clips, kept),
        }
    return found


def page(found: dict[str, Any], recipe: Recipe) -> str:
    """The plan for people: a column a stage, caching first."""
    columns = [*filter(None, [found.get("caching")]), *found["stages"]]
    room, again = found["room"], "activation_checkpointing" in recipe.deepspeed
    lines = [
        f"{found['recipe']} on {found['gpus']} x {found['memory'] / _GB:g} GB (computed, not run)",
        f"{found['clips']}; ZeRO {(recipe.deepspeed.get('zero_optimization') or {}).get('stage', 0)}, activations "
        f"{'computed again' if again else 'kept'}",
        "",
        _line("memory of a GPU, GB", [of["name"] for of in columns]),
    ]
    parts = dict.fromkeys(name for of in columns for name in of["memory"])
    lines += [_line(f"  {name}", [_gb(of["memory"].get(name)) for of in columns]) for name in parts]
    lines.append(_line(f"  in all (of {room / _GB:,.1f})", [_gb(sum(of["memory"].values())) for of in columns]))
    lines.append(_line("max_seconds", [f"{of['max_seconds']:g}" for of in columns]))
    lines.append(_line("  the largest that fits", [str(of["largest"] or "none") for of in columns]))
    blank = [""] * (len(columns) - len(found["stages"]))
    lines.append(_line("steps an epoch", [*blank, *(f"{of['steps_an_epoch']:,.0f}" for of in found["stages"])]))
    lines.append(
        _line("PFLOP a step and GPU", [*blank, *(f"{of['flop_a_step'] / _PETA:,.2f}" for of in found["stages"])])
    )
    speed = f"{found['utilisation']:.0%} of {found['flops'] / _TERA:,.0f} TFLOP/s"
    lines.append(_line(f"hours at {speed}", [f"{of['hours']:,.1f}" for of in columns]))
    lines.append(f"  in all {sum(of['hours'] for of in columns):,.1f} hours; writing texts is not in them")
    if caching := found.get("caching"):
        disk = ", ".join(f"{name} {of / _GB:,.2f} GB" for name, of in caching["disk"].items())
        lines.append(f"disk for the cache: {sum(caching['disk'].values()) / _GB:,.2f} GB ({disk})")
    return "\n".join(lines + _told(columns, room))


def _told(columns: list[dict[str, Any]], room: float) -> list[str]:
    """A line for each column that does not fit."""
    lines = []
    for of in columns:
        if sum(of["memory"].values()) <= room:
            continue
        largest = max(of["memory"], key=of["memory"].get)
        part = f"the largest part is '{largest}', {of['memory'][largest] / _GB:,.1f} GB"
        mend = f"set {of['key']} to {of['largest']}" if of["largest"] else f"nothing fits, whatever {of['key']}"
        lines.append(f"{of['name']} does not fit: {mend}; {part}")
    return lines


def _line(label: str, cells: list[str]) -> str:
    return f"{label:<{_WIDE}}" + "".join(f"{cell:>12}" for cell in cells)


def _gb(amount: float | None) -> str:
    return "" if amount is None else f"{amount / _GB:,.2f}"
