"""What AdamW gets: its parameter groups, and the learning rate of each at each step."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

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
def frozen(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """No gradient is computed for these, nor for what lies before them, for as long as the context lasts.

    Only so long: a checkpoint leaves out what needs none.
    """
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
