"""Steps: what a plain one computes."""

from __future__ import annotations

import torch
from torch import nn

from mixbit.training import StepContext, supervised_step


def test_a_supervised_step_leaves_the_gradients_of_its_loss() -> None:
    """Of a squared error of one weight: 2 x (w x - y)."""
    model, x, y = nn.Linear(1, 1, bias=False), torch.tensor([[3.0]]), torch.tensor([[1.0]])
    nn.init.constant_(model.weight, 2.0)
    context = StepContext(model=model, loss=lambda _x, out, wanted: (out - wanted).square().sum(), forward=model)
    loss = supervised_step(context, x, y)
    assert float(loss) == 25 and not loss.requires_grad
    assert model.weight.grad is not None and float(model.weight.grad) == 30
