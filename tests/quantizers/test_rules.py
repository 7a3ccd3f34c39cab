"""First step sizes."""

from __future__ import annotations

import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.quantizers import RULES, find_rule, integer_range

VALUES = torch.tensor([[-1.3, -1, -0.62, -0.3, -0.06, 0, 0.12, 0.26, 0.55, 0.74, 1.4]])


def test_numbers_of_the_dossier() -> None:
    assert float(RULES["lsq"](VALUES, 0, 3)[0]) == pytest.approx(0.666577, abs=1e-6)
    assert float(RULES["lsq"](VALUES, 0, 7)[0]) == pytest.approx(0.436377, abs=1e-6)
    assert float(RULES["lsq+"](VALUES, -4, 3)[0]) == pytest.approx(0.588429, abs=1e-6)


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("signed", [True, False])
def test_zero_and_constant_tensors_give_a_usable_step(name: str, signed: bool) -> None:
    low, high = integer_range(4, signed=signed)
    for rows in (torch.zeros(2, 8), torch.full((2, 8), 0.7), torch.rand(2, 1)):
        step, zero = RULES[name](rows, low, high)
        assert step.shape == zero.shape == (2,)
        assert (step > 0).all() and torch.isfinite(step).all() and torch.isfinite(zero).all()


def test_mse_is_never_worse_than_minmax() -> None:
    rows = torch.randn(6, 500, generator=torch.Generator().manual_seed(0))
    for bits in range(2, 9):
        low, high = integer_range(bits, signed=True)

        def error(step: torch.Tensor, low: int = low, high: int = high) -> torch.Tensor:
            s = step[:, None]
            return (torch.clamp(torch.round(rows / s), low, high) * s - rows).square().sum(1)

        assert (error(RULES["mse"](rows, low, high)[0]) <= error(RULES["minmax"](rows, low, high)[0])).all()


def test_unknown_rule_offers_the_nearest() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'minmax'"):
        find_rule("min-max")
