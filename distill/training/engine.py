"""DeepSpeed's engine over the objective, as the recipe's `deepspeed` block has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import deepspeed
import torch
from deepspeed.runtime.config import DeepSpeedConfigError
from deepspeed.runtime.zero.utils import ZeRORuntimeException
from pydantic import ValidationError

from data.errors import InputError
from distill.recipe.recipe import Recipe
from distill.training.activations import recompute_activations
from distill.training.compiling import compile_layers
from distill.training.deepspeed_insides import remove_buffer_files, skip_frozen_groups
from distill.training.objective import Objective
from distill.training.optimizer import parameter_groups
from student.rounding import train_rounded
from teacher.device import get_accelerator, leave_common_port, leave_group_at_exit, port_told

_JOB = "log"


def join_ranks(timeout_s: float) -> None:
    """Joins the processes of the run, each of which the launcher has given its number.

    Args:
        timeout_s: Seconds after which a process that is silent ends the run.

    Raises:
        InputError: The port at which they meet is taken.
    """
    leave_common_port()
    with port_told():
        deepspeed.init_distributed(verbose=False, timeout=timedelta(seconds=timeout_s))
    leave_group_at_exit()
    if get_accelerator().device_name() == "cpu":
        remove_buffer_files()


def start_engine(recipe: Recipe, objective: Objective, accumulation: int | None = None) -> deepspeed.DeepSpeedEngine:
    """Wraps the objective, with AdamW over its trained parameters.

    Args:
        recipe: The run.
        objective: What is trained.
        accumulation: Micro-batches of a process in a step, where the recipe's block does not say it.

    Raises:
        InputError: DeepSpeed refuses the recipe's block.
    """
    if "activation_checkpointing" in recipe.deepspeed:
        recompute_activations(objective.student, recipe.deepspeed)
    if recipe.train.rounded_llm:
        train_rounded(objective.student.llm)
    if recipe.train.compile:
        compile_layers(objective.student)
    optimizer = _adamw(recipe, objective)
    try:
        engine, *_ = deepspeed.initialize(
            model=objective, optimizer=optimizer, config=_config(recipe, accumulation), dist_init_required=False
        )
    except (DeepSpeedConfigError, ValidationError, AssertionError, ValueError, ZeRORuntimeException) as error:
        raise InputError(f"deepspeed section of the recipe: DeepSpeed refuses it ({error})") from error
    except ImportError as error:  # of a monitor that requirements.txt leaves out
        raise InputError(f"deepspeed section of the recipe: it takes a package ({error}); install it") from error
    skip_frozen_groups(optimizer)
    return engine


@contextmanager
def gathered(engine: deepspeed.DeepSpeedEngine) -> Iterator[None]:
    """Each rank has all weights for as long as the context lasts, and goes through them at its own pace.

    At ZeRO 3 they would else be fetched module by module, for each token anew, and by all ranks at once: one that
    writes a token more than the others would wait for them for ever.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    with deepspeed.zero.unwrap_model_for_generation(engine):
        yield


def _adamw(recipe: Recipe, objective: Objective) -> torch.optim.Optimizer:
    """PyTorch's; where its states are offloaded DeepSpeed's, which is made for stepping on the CPU."""
    groups, betas = parameter_groups(objective, recipe.train.weight_decay), recipe.train.betas
    offload = recipe.deepspeed.get("zero_optimization", {}).get("offload_optimizer") or {}
    if offload.get("device", "none") == "none" or not recipe.deepspeed.get("zero_force_ds_cpu_optimizer", True):
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    from deepspeed.ops.adam import DeepSpeedCPUAdam  # compiled when it is first needed

    return DeepSpeedCPUAdam(groups, betas=betas)


def _config(recipe: Recipe, accumulation: int | None) -> dict:
    """The recipe's own block; what is monitored lies in the run's folder unless the block names another place."""
    config = dict(recipe.deepspeed) | ({"gradient_accumulation_steps": accumulation} if accumulation else {})
    for monitor in ("tensorboard", "csv_monitor"):
        if config.get(monitor, {}).get("enabled"):
            beside = {"output_path": str(recipe.run_dir / monitor.removesuffix("_monitor")), "job_name": _JOB}
            config[monitor] = beside | config[monitor]
    return config
