"""Divergences between a teacher p and a student q over B outcomes, with their gradients.

Each takes log-probabilities logp_NB and logq_NB and gives loss_N and gradient_NB, the derivative by logq_NB with every
entry taken as free; `logit_gradient` carries it on to the logits under q. The outcomes are the vocabulary (dense), or
the kept ids and one tail bucket (sparse). An outcome of probability zero has the logarithm -inf, in both at padding.

Shapes: N supervised positions, B outcomes.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

Divergence = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

_LOG_UNSEEN = -24 * math.log(2)
"""Reverse KL takes what the teacher calls impossible as this probable: a tail of zero, one minus kept probabilities
that were rounded, says no more than that it is small, and the loss would be infinite."""


def forward_kl(logp_NB: torch.Tensor, logq_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) = sum p (log p - log q) (Hinton et al. 2015): the student covers all that the teacher holds likely."""
    p_NB = logp_NB.exp()
    return _expectation(p_NB, logp_NB - logq_NB), p_NB.neg_()


def reverse_kl(logp_NB: torch.Tensor, logq_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(q || p) = sum q (log q - log p) (Gu et al. 2024, MiniLLM): the student avoids what the teacher rules out."""
    ratio_NB = logq_NB - logp_NB.masked_fill(logp_NB == -torch.inf, _LOG_UNSEEN)
    q_NB = logq_NB.exp()
    loss_N = _expectation(q_NB, ratio_NB)
    return loss_N, _product(q_NB, ratio_NB + 1)


def jensen_shannon(logp_NB: torch.Tensor, logq_NB: torch.Tensor, *, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised Jensen-Shannon: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Agarwal et al. 2024 (GKD), equation 1. Divided by beta it tends to the forward KL as beta tends to 0, and divided
    by 1 - beta to the reverse KL as beta tends to 1; at 0 and 1 themselves it is zero.
    """
    logm_NB = torch.logaddexp(logp_NB + math.log(beta), logq_NB + math.log1p(-beta))
    q_NB = logq_NB.exp()
    ratio_NB = logq_NB - logm_NB
    loss_N = beta * _expectation(logp_NB.exp(), logp_NB - logm_NB) + (1 - beta) * _expectation(q_NB, ratio_NB)
    # The derivative through m is -(beta p + (1 - beta) q) (1 - beta) q / m = -(1 - beta) q: it cancels that of q log q.
    return loss_N, _product(q_NB, ratio_NB).mul_(1 - beta)


def skew_kl(logp_NB: torch.Tensor, logq_NB: torch.Tensor, *, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || alpha p + (1 - alpha) q) (Ko et al. 2024, DistiLLM, equation 4): never above -log alpha."""
    logm_NB = torch.logaddexp(logp_NB + math.log(alpha), logq_NB + math.log1p(-alpha))
    p_NB = logp_NB.exp()
    # The student's share in the mixture, (1 - alpha) q / m.
    share_NB = (logq_NB - logm_NB + math.log1p(-alpha)).exp()
    return _expectation(p_NB, logp_NB - logm_NB), _product(p_NB, share_NB).neg_()


def skew_reverse_kl(logp_NB: torch.Tensor, logq_NB: torch.Tensor, *, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(q || (1 - alpha) p + alpha q) (Ko et al. 2024, DistiLLM, section 3.1): the reverse KL without its poles."""
    logm_NB = torch.logaddexp(logp_NB + math.log1p(-alpha), logq_NB + math.log(alpha))
    q_NB = logq_NB.exp()
    ratio_NB = logq_NB - logm_NB
    return _expectation(q_NB, ratio_NB), _product(q_NB, ratio_NB + 1 - alpha * ratio_NB.exp())


def total_variation(logp_NB: torch.Tensor, logq_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the sum of |p - q| (Wen et al. 2023, f-distill): never above 1, however wrong the student is."""
    q_NB = logq_NB.exp()
    difference_NB = q_NB - logp_NB.exp()
    return 0.5 * difference_NB.abs().sum(1), 0.5 * difference_NB.sign() * q_NB


DivergenceName = Literal["forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl", "tv"]


def divergence_named(name: DivergenceName, *, beta: float = 0.5, alpha: float = 0.1) -> Divergence:
    """The divergence of a recipe.

    Args:
        name: Of one of those above.
        beta: Of "js", the teacher's share in the mixture.
        alpha: Of the skew ones, the share of what the expectation is over.
    """
    named = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "js": partial(jensen_shannon, beta=beta),
        "skew_kl": partial(skew_kl, alpha=alpha),
        "skew_reverse_kl": partial(skew_reverse_kl, alpha=alpha),
        "tv": total_variation,
    }
    if name not in named:
        raise ValueError(f"no divergence {name!r}; there are {', '.join(named)}")
    if not (0 < beta < 1 and 0 < alpha < 1):
        raise ValueError(f"beta and alpha of a divergence must lie between 0 and 1, not {beta} and {alpha}")
    return named[name]


def logit_gradient(gradient_NB: torch.Tensor, logq_NB: torch.Tensor) -> torch.Tensor:
    """From the derivative by log q to that by the logits x of q = softmax(x): g - q sum(g). Reuses `gradient_NB`."""
    return gradient_NB.sub_(logq_NB.exp().mul_(gradient_NB.sum(1, keepdim=True)))


def _expectation(weight_NB: torch.Tensor, value_NB: torch.Tensor) -> torch.Tensor:
    return _product(weight_NB, value_NB).sum(1)


def _product(weight_NB: torch.Tensor, value_NB: torch.Tensor) -> torch.Tensor:
    """weight x value, zero where the weight is zero, whatever the value (0 log 0 = 0)."""
    return (weight_NB * value_NB).masked_fill_(weight_NB == 0, 0)
