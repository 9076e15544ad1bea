"""What AdamW gets: its parameter groups, and the learning rate of each at each step."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from deepspeed import DeepSpeedEngine

from distill.recipe.stages import StageSettings
from distill.training.objective import Objective


def learning_rate(peak: float, stage: StageSettings, step: int) -> float:
    """Linear warm-up from `initial_lr` x peak to `peak`, then a cosine to `final_lr` x peak at the stage's last step.

    Step counts from 0.
    """
    if step < stage.warmup_steps:
        return peak * (stage.initial_lr + (1 - stage.initial_lr) * (step + 1) / stage.warmup_steps)
    share = (step - stage.warmup_steps) / max(stage.steps - 1 - stage.warmup_steps, 1)
    return peak * (stage.final_lr + (1 - stage.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def parameters_by_part(objective: Objective) -> dict[str, list[torch.nn.Parameter]]:
    """The trained parameters by the part whose learning rate they have."""
    parts: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            module, _, rest = name.partition(".")
            # The CTC head learns with the connector that it teaches.
            part = {"student": rest.partition(".")[0], "ctc": "connector", "matching": "projections"}[module]
            parts.setdefault(part, []).append(parameter)
    return parts


def parameter_groups(objective: Objective, weight_decay: float) -> list[dict]:
    """AdamW groups: one for each part with decay and one without (biases, norms, scales)."""
    groups = []
    for part, whole in parameters_by_part(objective).items():
        for decays in (True, False):
            parameters = [parameter for parameter in whole if (parameter.ndim > 1) == decays]
            if parameters:
                groups.append({"params": parameters, "weight_decay": weight_decay if decays else 0.0, "name": part})
    return groups


@contextmanager
def at_rest(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """No gradient is computed for these, nor for what lies before them, for as long as the context lasts.

    Only so long: a checkpoint leaves out what needs none.
    """
    resting = list(parameters)
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)


def forget_gradients(engine: DeepSpeedEngine) -> None:
    """No gradient is left of the step before.

    DeepSpeed writes over what it keeps of them (at ZeRO 3, and where the optimizer is offloaded) only where there is a
    new one: what no loss reaches at a step, as the CTC head at one on the student's own texts, would be moved by an old
    one, which no checkpoint holds; and one that overflowed would be found at every step.
    """
    gradients = [getattr(engine.optimizer, "grad_partitions_flat_buffer", None)]
    flat = [parameter for group in engine.basic_optimizer.param_groups for parameter in group["params"]]
    flat += getattr(engine.optimizer, "fp32_partitioned_groups_flat", [])  # ZeRO 3 takes them from the groups
    gradients += [parameter.grad for parameter in flat]
    for gradient in gradients:
        if gradient is not None:
            gradient.zero_()


def let_parts_rest(optimizer: torch.optim.Optimizer) -> None:
    """A group whose learning rate is 0 is left out of a step: neither its moments nor its count of steps move.

    So a part that joins in a later stage begins as in a run of its own. Every group has its state from now on, at step
    0: DeepSpeed restores none where the first group has none.

    Args:
        optimizer: As DeepSpeed has it, over its own flat copies of the parameters.
    """
    resting: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def leave_out(*_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["lr"] == 0 else ():
                resting.append((parameter, parameter.grad))
                parameter.grad = None

    def restore(*_: object) -> None:
        for parameter, gradient in resting:
            parameter.grad = gradient
        resting.clear()

    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # weights do not even decay
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                before, parameter.grad = parameter.grad, torch.zeros_like(parameter)
                optimizer.step()
                parameter.grad = before
    for state in optimizer.state.values():
        state["step"] = torch.zeros_like(state["step"]) if torch.is_tensor(state["step"]) else 0
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.register_step_pre_hook(leave_out)
    optimizer.register_step_post_hook(restore)
