"""Which modules can carry quantizers, and what is said of those that cannot."""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mixbit.network.carriers import why_not


class OwnAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x


def _patched() -> nn.Module:
    layer = nn.Linear(4, 2)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("module", "parameter", "reason"),
    [
        (_patched(), "0.weight", "its forward was set on the instance"),
        (OwnAttention(8, 2), "0.in_proj_weight", "OwnAttention has an attention forward of its own"),
        (OwnAttention(8, 2), "0.out_proj.weight", "OwnAttention has an attention forward of its own"),
        (nn.MultiheadAttention(8, 2, kdim=4), "0.out_proj.weight", "attention with separate key or value sizes"),
        (parametrizations.weight_norm(nn.Linear(4, 2)), "0.weight", "its weight is no plain parameter"),
    ],
)
def test_what_cannot_is_told_why(module: nn.Module, parameter: str, reason: str) -> None:
    assert str(why_not(nn.Sequential(module), parameter)).startswith(reason)


@pytest.mark.parametrize(
    ("module", "parameter"),
    [(nn.Conv2d(1, 2, 3), "0.weight"), (nn.MultiheadAttention(8, 2), "0.in_proj_weight")],
)
def test_what_can_is_told_nothing(module: nn.Module, parameter: str) -> None:
    assert why_not(nn.Sequential(module), parameter) is None
