"""What each shift makes of a grid, by formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.quantizers import DoReFaWeights, MidRise, Quantizer
from mixbit.robustness._grids import Grid, grid_of
from mixbit.robustness._shifts import BitShift, Clipping, PowerOfTwoStep, RoundBy, ScaledStep, Shift, WeightBits

ROWS = torch.cat(
    [torch.randn(3, 200, generator=torch.Generator().manual_seed(0)), torch.tensor([[4.0], [-9.0], [5.0]])], dim=1
) - torch.tensor([[0.0], [0.5], [1.0]])


def grid(kind: type[Quantizer] = Quantizer, bits: int = 4, step: float = 0.3, signed: bool = True) -> Grid:
    quantizer = kind([bits], signed=signed, channels=3)
    if quantizer.learned:
        with torch.no_grad():
            quantizer.steps.fill_(step)
    found = grid_of(quantizer)
    assert found is not None
    return found


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 100])
@pytest.mark.parametrize(("kind", "top"), [(Quantizer, 7), (MidRise, 7.5)])
def test_percentiles_by_sorting(percent: float, kind: type[Quantizer], top: float) -> None:
    """The least magnitude that so many percent of 201 do not exceed stands for the top level, row by row."""
    found = Clipping(f"percentile {percent:g}")(grid(kind), ROWS)
    magnitudes = np.sort(np.abs(ROWS.numpy()), axis=1)
    place = next(n for n in range(1, 202) if n / 201 >= percent / 100 - 1e-12)
    np.testing.assert_allclose(found.step.numpy(), magnitudes[:, place - 1] / top, rtol=1e-6)
    assert (found.bits, found.qmin, found.qmax) == (4, -8, 7)


@pytest.mark.parametrize("number", [2, 2.5, 3, 4])
@pytest.mark.parametrize("bits", [3, 4])
def test_sigmas_by_formula(number: float, bits: int) -> None:
    """Means below zero count by their magnitude; deviations are unbiased."""
    found = Clipping(f"sigma {number:g}")(grid(bits=bits), ROWS)
    x = ROWS.double().numpy()
    wanted = (np.abs(x.mean(axis=1)) + number * x.std(axis=1, ddof=1)) / 2 ** (bits - 1)
    np.testing.assert_allclose(found.step.numpy(), wanted, rtol=1e-5)


def test_sigma_of_one_weight_is_its_magnitude_and_of_none_the_smallest_step() -> None:
    found = Clipping("sigma 3")(grid(), torch.tensor([[2.0], [-4.0], [0.0]]))
    assert found.step.tolist() == pytest.approx([2 / 8, 4 / 8, 1e-8])


@pytest.mark.parametrize("kind", [Quantizer, MidRise])
@pytest.mark.parametrize("rule", ["minmax", "mse", "lsq+"])
def test_rules_are_those_of_the_kind(kind: type[Quantizer], rule: str) -> None:
    from mixbit.quantizers import find_rule

    other = kind([4], signed=True, channels=3)
    other.initialise(ROWS, find_rule(rule))
    found = Clipping(rule)(grid(kind), ROWS)
    assert torch.equal(found.step, other.steps[0].detach()) and not found.zero_point.any()


def test_an_affine_rule_brings_its_zero_points() -> None:
    found = Clipping("minmax-affine")(grid(signed=False), ROWS)
    low, high = ROWS.min(dim=1).values, ROWS.max(dim=1).values
    torch.testing.assert_close(found.step, (high - low) / 15)
    assert torch.equal(found.zero_point, torch.round(-low / found.step)) and found.zero_point.all()
    assert not Clipping("sigma 2")(found, ROWS).zero_point.any()


def test_dorefa_is_not_clipped_and_inputs_cannot_be() -> None:
    one = grid(DoReFaWeights)
    for rule in ("minmax", "sigma 3"):
        assert Clipping(rule)(one, ROWS).same_as(one)
    with pytest.raises(MixbitError, match="sides='weights'"):
        Clipping("minmax")(grid(), None)


def test_steps_are_scaled() -> None:
    assert ScaledStep(1.25)(grid(), None).step.tolist() == pytest.approx([0.375] * 3)


@pytest.mark.parametrize(
    ("step", "found"),
    [(0.3, 0.25), (0.36, 0.5), (0.25, 0.25), (2**-1.51, 0.25), (2**-1.49, 0.5), (5.0, 4.0), (6.0, 8.0)],
)
def test_the_nearest_power_of_two_is_nearest_in_the_logarithm(step: float, found: float) -> None:
    assert PowerOfTwoStep()(grid(step=step), None).step.tolist() == [found] * 3


def test_the_power_of_two_of_dorefa_is_of_its_levels_distance() -> None:
    """Levels of 4 bits are 2/15 apart, of which 1/8 is nearest."""
    found = PowerOfTwoStep()(grid(DoReFaWeights), None)
    assert found.spacing.tolist() == pytest.approx([0.125] * len(found.spacing))


@pytest.mark.parametrize(
    ("bits", "more", "found"), [(4, 2, 6), (4, -1, 3), (4, -6, 2), (4, 6, 8), (8, 1, 8), (2, -1, 2)]
)
def test_bits_are_added_within_two_to_eight(bits: int, more: int, found: int) -> None:
    shifted = BitShift(more)(grid(bits=bits), None)
    assert shifted.bits == found and shifted.step.tolist() == pytest.approx([0.3 * 2 ** (bits - found)] * 3)


@pytest.mark.parametrize(("more", "found"), [(-1, 1), (0, 1), (1, 2), (6, 7)])
def test_one_bit_is_as_trained_and_has_only_more(more: int, found: int) -> None:
    trained = grid(MidRise, bits=1)
    shifted = BitShift(more)(trained, None)
    assert shifted.bits == found and shifted.step.tolist() == pytest.approx((trained.step / (2**found - 1)).tolist())


def test_bits_are_set_and_none_is_float() -> None:
    assert WeightBits(2)(grid(), None).bits == 2 and not WeightBits(2)(grid(), None).exact
    assert WeightBits(None)(grid(), None).exact


def test_roundings_are_handed_on_with_their_seed() -> None:
    found = RoundBy("stochastic", 7)(grid(), None)
    assert (found.rounding, found.seed) == ("stochastic", 7)


@pytest.mark.parametrize(
    ("shift", "label", "value"),
    [
        (ScaledStep(0.98), "0.98", 0.98), (PowerOfTwoStep(), "2^n", None), (WeightBits(3), "3", 3.0),
        (WeightBits(None), "float", None), (BitShift(2), "+2", 2.0), (BitShift(-1), "-1", -1.0),
        (RoundBy("floor", 3), "floor", None), (RoundBy("stochastic", 3), "stochastic 3", None),
        (Clipping("sigma 2"), "sigma 2", None),
    ],
)  # fmt: skip
def test_labels_and_places_on_the_axis(shift: Shift, label: str, value: float | None) -> None:
    assert (shift.label, shift.value) == (label, value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScaledStep(0.0), lambda: ScaledStep(float("inf")), lambda: ScaledStep(-1.0), lambda: WeightBits(1),
        lambda: BitShift(7), lambda: BitShift(-7), lambda: RoundBy("up"), lambda: Clipping("percentile 0"),  # type: ignore[arg-type]
        lambda: Clipping("percentile 101"), lambda: Clipping("sigma 0"), lambda: Clipping("sigmas 2"),
    ],
)  # fmt: skip
def test_illegal_shifts(make: object) -> None:
    with pytest.raises(MixbitError):
        make()  # type: ignore[operator]


def test_the_legal_ends_are_legal() -> None:
    assert (BitShift(6).more, BitShift(-6).more, Clipping("percentile 100").rule) == (6, -6, "percentile 100")
