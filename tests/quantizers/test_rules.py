"""First step sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.quantizers import RULES, find_rule, integer_range

VALUES = torch.tensor([[-1.3, -1, -0.62, -0.3, -0.06, 0, 0.12, 0.26, 0.55, 0.74, 1.4]])


def test_numbers_by_hand() -> None:
    assert float(RULES["lsq"](VALUES, 0, 3)[0]) == pytest.approx(0.666577, abs=1e-6)
    assert float(RULES["lsq"](VALUES, 0, 7)[0]) == pytest.approx(0.436377, abs=1e-6)
    assert float(RULES["lsq+"](VALUES, -4, 3)[0]) == pytest.approx(0.588429, abs=1e-6)


ROWS = torch.tensor([[-1.3, -1, -0.62, 0.26, 1.4], [0.5, 0.6, 0.7, 0.8, 2.0], [-4.0, -0.2, -0.1, -0.3, -2.0]])


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_every_rule_is_its_formula_on_every_row(bits: int, signed: bool) -> None:
    """Rows of both signs, all above and all below zero, in NumPy."""
    low, high = integer_range(bits, signed=signed)
    x = ROWS.double().numpy()
    magnitude, mean, sigma = np.abs(x).mean(1), x.mean(1), x.std(1, ddof=1)
    widest = np.maximum(x.max(1) / high, x.min(1) / low if signed else 1e-8)
    bottom, top = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    affine = (top - bottom) / (high - low)
    wanted = {
        "lsq": 2 * magnitude / np.sqrt(high),
        "lsq+": np.maximum(np.abs(mean - 3 * sigma), np.abs(mean + 3 * sigma)) / 2 ** (bits - 1),
        "minmax": np.maximum(widest, 1e-8),
        "minmax-affine": affine,
        "constant": np.full(3, 0.1 / bits),
    }
    for name, steps in wanted.items():
        found, zero = RULES[name](ROWS, low, high)
        np.testing.assert_allclose(found.numpy(), steps, rtol=1e-6, err_msg=name)
        zeros = np.clip(low - np.round(bottom / affine), low, high) if name == "minmax-affine" else np.zeros(3)
        assert zero.tolist() == zeros.tolist(), name


@pytest.mark.parametrize("name", RULES)
def test_steps_are_single_precision_whatever_torchs_default_is(name: str) -> None:
    x = torch.linspace(-1, 1, 50).reshape(2, 25)
    wanted = RULES[name](x, -8, 7)
    torch.set_default_dtype(torch.float64)
    try:
        found = RULES[name](x, -8, 7)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype == torch.float32 and torch.equal(one, other)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("signed", [True, False])
def test_mse_is_the_best_of_eighty_by_brute_force(bits: int, signed: bool) -> None:
    """Two outliers a row, so that the best lies far below the min-max step, and elsewhere in every row."""
    low, high = integer_range(bits, signed=signed)
    x = np.random.default_rng(0).normal(size=(3, 4000))
    x[:, 0], x[:, 1] = (8, 10, 12), (-8, -10, -12)
    x *= [[1.0], [10.0], [0.1]]
    found, zero = RULES["mse"](torch.from_numpy(x).float(), low, high)
    assert not zero.any()
    for row, step in zip(x, found.tolist(), strict=True):
        widest = max(row.max() / high, row.min() / low if signed else 0.0)
        parts = widest * np.arange(1, 81) / 80
        errors = [((np.clip(np.round(row / s), low, high) * s - row) ** 2).sum() for s in parts]
        assert step == pytest.approx(parts[int(np.argmin(errors))], rel=1e-4)
        assert step / widest < 0.7


def test_affine_ranges_hold_zero_and_reach_the_ends() -> None:
    for row in ROWS:
        step, zero = RULES["minmax-affine"](row[None], 0, 15)
        q = torch.clamp(torch.round(row / step) + zero, 0, 15)
        assert ((q - zero) * step - row).abs().max() <= step / 2 * (1 + 1e-5)
        assert 0 <= zero.item() <= 15


@pytest.mark.parametrize("name", sorted(RULES))
def test_tiny_tensors_get_the_smallest_step(name: str) -> None:
    step, _ = RULES[name](torch.full((1, 8), 1e-12), -8, 7)
    assert step.item() == pytest.approx(0.1 / 4 if name == "constant" else 1e-8)


@pytest.mark.parametrize(("bits", "ranges"), [(2, ((-2, 1), (0, 3))), (8, ((-128, 127), (0, 255)))])
def test_integer_ranges(bits: int, ranges: tuple[tuple[int, int], tuple[int, int]]) -> None:
    assert (integer_range(bits, signed=True), integer_range(bits, signed=False)) == ranges
    assert integer_range(16, signed=False) == (0, 65535)
    assert (integer_range(1, signed=True), integer_range(1, signed=False)) == ((-1, 0), (0, 1))


@pytest.mark.parametrize("bits", [0, -3, 17, True, 4.0, "4"])
def test_bits_without_a_range_are_refused(bits: int) -> None:
    with pytest.raises(MixbitError, match=f"bits={bits!r} is no bit-width"):
        integer_range(bits, signed=True)


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


@pytest.mark.parametrize("columns", [1, 700, 3000, 70_000])
def test_mse_of_a_row_does_not_depend_on_the_others(columns: int) -> None:
    """As many steps are tried at once as fit: here eighty, some and one."""
    rows = torch.randn(4, columns, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [3.0], [9.0], [27]]
    )
    alone = torch.cat([RULES["mse"](row[None], -8, 7)[0] for row in rows])
    torch.testing.assert_close(RULES["mse"](rows, -8, 7)[0], alone)
    assert len(alone.unique()) == 4


def test_mse_is_the_min_max_step_where_no_error_is_a_number() -> None:
    """Numbers whose squares are infinite."""
    rows = torch.tensor([[1e30, -1e30], [0.5, -1.0]])
    assert RULES["mse"](rows, -8, 7)[0][0] == RULES["minmax"](rows, -8, 7)[0][0]
    assert RULES["mse"](rows, -8, 7)[0][1] == RULES["mse"](rows[1:], -8, 7)[0][0]


def test_unknown_rule_offers_the_nearest() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'minmax'"):
        find_rule("min-max")
