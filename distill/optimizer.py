"""What AdamW gets: its parameter groups, and the learning rate of each at each step."""

import math

import torch

from distill.objective import Objective
from distill.recipe import StageSettings


def learning_rate(peak: float, stage: StageSettings, step: int) -> float:
    """Linear warm-up to `peak`, then a cosine to `final_lr` x peak at the stage's last step (step counts from 0)."""
    if step < stage.warmup_steps:
        return peak * (step + 1) / stage.warmup_steps
    share = (step - stage.warmup_steps) / max(stage.steps - 1 - stage.warmup_steps, 1)
    return peak * (stage.final_lr + (1 - stage.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def parameter_groups(objective: Objective, weight_decay: float) -> list[dict]:
    """AdamW groups: one for each part with decay and one without (biases, norms, scales)."""
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            module, _, rest = name.partition(".")
            # The CTC head learns with the connector that it teaches.
            part = {"student": rest.partition(".")[0], "ctc": "connector", "matching": "projections"}[module]
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "name": part}
        for (part, decays), parameters in groups.items()
    ]
