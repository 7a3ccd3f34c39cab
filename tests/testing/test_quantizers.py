"""The contract on mixbit's own quantizers, and on wrong ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.quantizers import RULES, Quantizer
from mixbit.testing.quantizers import QuantizerCases


class TestLsq(QuantizerCases):
    rule = "lsq"

    def make(self, bits: int, signed: bool) -> nn.Module:
        quantizer = Quantizer([bits], signed=signed)
        quantizer.initialise(self.inputs(signed), RULES[self.rule])
        return quantizer


class TestMinMax(TestLsq):
    rule = "minmax"


class TestMse(TestLsq):
    rule = "mse"


class Floor(nn.Module):
    """Rounds down without a straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(x * 10) / 10


@pytest.mark.parametrize(
    "case",
    [
        "test_at_most_two_to_the_bits_values",
        "test_unsigned_is_never_negative",
        "test_gradient_passes_inside_and_stops_outside",
    ],
)
def test_a_wrong_quantizer_is_caught(case: str) -> None:
    class Wrong(QuantizerCases):
        def make(self, bits: int, signed: bool) -> nn.Module:
            return Floor()

    with pytest.raises(AssertionError):
        getattr(Wrong(), case)()
