"""Where a training that diverged went wrong: the message names the first place, and nothing that is well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.training._finite import first_not_finite


class Overflow(nn.Module):
    """Infinite above a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.limit, float("inf"), x)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), Overflow(5.0), nn.Sequential(Overflow(1e9), nn.ReLU()))


def test_the_first_place_is_named() -> None:
    model, small = net(), torch.ones(3, 2)
    assert first_not_finite(model, small) == "the loss itself is not finite"
    assert first_not_finite(model, torch.full((3, 2), 1e6)) == "layer '1' gives the first output that is not finite"
    assert first_not_finite(model, torch.tensor([[float("nan"), 1.0]])) == "the input batch holds NaN or infinity"
    pair = (small, torch.tensor([float("inf")]))
    assert first_not_finite(model, pair) == "the input batch holds NaN or infinity"


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_parameter_comes_before_the_outputs_that_it_spoils(value: float) -> None:
    model = net()
    with torch.no_grad():
        model[0].bias[1] = value  # type: ignore[index, operator]
    assert first_not_finite(model, torch.ones(3, 2)) == "parameter '0.bias' is not finite"


def test_no_hook_stays() -> None:
    model = net()
    first_not_finite(model, torch.ones(3, 2))
    assert not any(module._forward_hooks for module in model.modules())
