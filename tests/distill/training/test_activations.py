from functools import partial

import pytest
import torch

from distill.training.activations import recompute_activations


class Holder:
    """What a model of transformers does with the function that it is given: it calls it for its layers."""

    def _set_gradient_checkpointing(self, enable, function):
        self.function = function


@pytest.mark.parametrize(
    "handed_over",
    [lambda layer: partial(layer.__call__), lambda layer: partial(type(layer).forward, layer)],
    ids=["to transformers 5.22", "from 5.23"],
)
def test_a_layer_whose_input_needs_no_gradient_gets_its_own(monkeypatch, handed_over):
    monkeypatch.setattr("deepspeed.checkpointing.configure", lambda *_, **__: None)  # it wants a process group
    holder, layer, given = Holder(), torch.nn.Linear(4, 4), torch.rand(2, 4)
    recompute_activations(holder, {"activation_checkpointing": {}})
    (expected,) = torch.autograd.grad(layer(given).square().sum(), [layer.weight])
    holder.function(handed_over(layer), given).square().sum().backward()
    assert torch.equal(layer.weight.grad, expected)
    layer.requires_grad_(False)
    assert not holder.function(handed_over(layer), given).requires_grad
