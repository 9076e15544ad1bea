"""Which keys of a recipe do not count where two recipes are asked whether they are the same."""

import json

from distill.recipe.recipe import Recipe

NOT_OF_A_RUN = (
    *("description", "runs", "results", "bf16_on_cpu", "data.valid", "data.test", "cache", "generation", "evaluation"),
    "data.faults",  # rows are compared as they are
    *("train.save_every", "train.keep_checkpoints", "train.best_by", "train.export", "train.prefetch"),
    *("train.validate_every", "train.validate_clips", "train.validate_shown", "train.timeout_s"),
    *("train.largest_first", "train.elastic", "train.workers", "train.compile"),
)
"""A run goes on under others of these: where it lies, how often it is saved and watched, what is done after it."""
COMPUTED_AGAIN = "deepspeed.activation_checkpointing"
"""Nor does it change a run that layers are computed again, but for rounding: where memory was used up it goes on so."""
NOT_OF_A_MODEL = (
    *("teacher.dtype", "teacher.precision", "teacher.weights", "teacher.shapes"),
    *("student.weights", "student.llm_shapes"),
)
"""Where training starts, and in what precision a model is scored, do not change what it is."""
_ONCE = {"student.connector": "qformer", "student.stack": None, "student.reference_padding": False}
"""What recipes meant before they had these keys: at that value they do not count, so that earlier runs go on."""
_WATCHING = ("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "log_level", "timers")
_WATCHING += ("tensorboard", "wandb", "comet", "csv_monitor", "flops_profiler", "comms_logger")
_WATCHING += ("activation_checkpointing.profile",)
"""What DeepSpeed prints and measures counts nowhere."""


def counting(recipe: Recipe, without: tuple[str, ...]) -> dict:
    """A recipe as JSON has it, without some of its keys (`a.b`); a section that the recipe does not have is null."""
    tree = json.loads(recipe.model_dump_json())
    for key in (*without, *(f"deepspeed.{name}" for name in _WATCHING)):
        section, name = _place(tree, key)
        section.pop(name, None)
    for key, once in _ONCE.items():
        section, name = _place(tree, key)
        if name in section and section[name] == once:
            del section[name]
    return tree


def _place(tree: dict, key: str) -> tuple[dict, str]:
    """The section that `a.b` names, empty where there is none, and its last part."""
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.get(section) or {}
    return tree, name
