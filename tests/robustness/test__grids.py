"""The arithmetic of grids that are changed: levels, ranges and roundings, by formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.quantizers import DoReFaActivations, DoReFaWeights, LsqClip, MidRise, Pact, Quantizer, find_rule
from mixbit.robustness._grids import Grid, Rounding, grid_of


def grid(kind: str = "integers", **settings: object) -> Grid:
    given = {
        "kind": kind, "unrounded": lambda x: x, "bits": 3, "step": torch.tensor([1.0]), "zero_point": torch.zeros(1),
        "qmin": -4.0, "qmax": 3.0,
    }  # fmt: skip
    return Grid(**{**given, **settings})  # type: ignore[arg-type]


VALUES = torch.tensor([-9.0, -2.5, -1.5, -1.2, -0.5, -0.0, 0.49999997, 0.5, 1.5, 2.5, 2.7, 9.0])
ROUNDED: dict[Rounding, list[float]] = {
    "half-even": [-4, -2, -2, -1, 0, 0, 0, 0, 2, 2, 3, 3],
    "half-away": [-4, -3, -2, -1, -1, 0, 0, 1, 2, 3, 3, 3],
    "floor": [-4, -3, -2, -2, -1, 0, 0, 0, 1, 2, 2, 3],
    "truncate": [-4, -2, -1, -1, 0, 0, 0, 0, 1, 2, 2, 3],
}


@pytest.mark.parametrize("rounding", ROUNDED)
@pytest.mark.parametrize("step", [1.0, 0.25])
def test_roundings(rounding: Rounding, step: float) -> None:
    found = grid(rounding=rounding, step=torch.tensor([step])).apply(VALUES * step)
    assert (found / step + 0.0).tolist() == ROUNDED[rounding]


def test_chance_rounds_up_as_often_as_the_fraction_says_and_never_further() -> None:
    x = torch.full((40_000,), 1.3)
    found = grid(rounding="stochastic").apply(x, "a")
    assert found.unique().tolist() == [1.0, 2.0] and float(found.mean()) == pytest.approx(1.3, abs=0.01)
    whole = torch.arange(-4.0, 4.0)
    assert torch.equal(grid(rounding="stochastic").apply(whole, "a"), whole)


def test_draws_follow_from_the_seed_and_the_name() -> None:
    x = torch.full((64,), 1.5)

    def drawn(seed: int, name: str) -> list[float]:
        return grid(rounding="stochastic", seed=seed).apply(x, name).tolist()  # type: ignore[no-any-return]

    assert drawn(0, "a") == drawn(0, "a") and len({tuple(drawn(*one)) for one in ((0, "a"), (1, "a"), (0, "b"))}) == 3


@pytest.mark.parametrize("rounding", ["half-even", "floor", "half-away"])
def test_zero_points_and_steps_of_channels(rounding: Rounding) -> None:
    """Whole levels: rounding leaves them, and the zero point moves what is clipped."""
    found = grid(
        rounding=rounding, step=torch.tensor([1.0, 0.5]), zero_point=torch.tensor([2.0, -1.0]), qmin=0.0, qmax=3.0
    ).apply(torch.tensor([[-9.0, -2.0, 0.0, 1.0, 9.0], [-9.0, 0.5, 1.0, 2.0, 9.0]]))
    assert found.tolist() == [[-2.0, -2.0, 0.0, 1.0, 1.0], [0.5, 0.5, 1.0, 2.0, 2.0]]


def levels(one: Grid) -> list[float]:
    return [round(v, 6) for v in one.apply(torch.linspace(-20, 20, 40_001)).unique().tolist()]


@pytest.mark.parametrize(("bits", "step"), [(2, 2.0), (3, 1.0), (4, 0.5), (8, 1 / 32)])
def test_other_bits_keep_the_range(bits: int, step: float) -> None:
    """`2^M` steps from the lowest level: 8 at a step of 1; a zero point keeps the place of zero in it."""
    signed = grid().with_bits(bits)
    assert (signed.bits, signed.qmin, signed.qmax) == (bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert signed.step.tolist() == [step] and min(levels(signed)) == -4.0
    affine = grid(qmin=0.0, qmax=7.0, zero_point=torch.tensor([2.0])).with_bits(bits)
    assert (affine.qmin, affine.qmax) == (0, 2**bits - 1)
    assert affine.zero_point.item() == 2 * 2 ** (bits - 3) and min(levels(affine)) == -2.0


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_other_bits_keep_the_clip_of_a_mid_rise_grid(bits: int) -> None:
    found = levels(grid("midrise").with_bits(bits))
    assert len(found) == 2**bits and found[0] == -3.5 and found[-1] == 3.5


@pytest.mark.parametrize("bits", [2, 4])
def test_other_bits_of_dorefa_are_other_levels_from_minus_one_to_one(bits: int) -> None:
    quantizer = DoReFaWeights([3], signed=True)
    found = grid_of(quantizer)
    assert found is not None
    x = torch.linspace(-2, 2, 1001)
    torch.testing.assert_close(found.with_bits(bits).apply(x), DoReFaWeights([bits], signed=True)(x))


def test_spacing_is_the_distance_of_two_levels() -> None:
    dorefa = grid_of(DoReFaWeights([3], signed=True))
    assert dorefa is not None
    for one in (grid(step=torch.tensor([0.3])), grid("midrise", step=torch.tensor([0.3])), dorefa):
        found = one.apply(torch.linspace(-2, 2, 4001)).unique()
        torch.testing.assert_close(found.diff(), one.spacing.expand(len(found) - 1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.with_spacing(one.spacing).step, one.step)
        torch.testing.assert_close(one.with_spacing(torch.tensor([0.125])).spacing, torch.tensor([0.125]))


KINDS: list[Quantizer] = [
    Quantizer([4, 3], signed=True, channels=2), Quantizer([4, 3], signed=False, channels=2),
    MidRise([4, 3], signed=True, channels=2), LsqClip([4, 3], signed=True, channels=2), Pact([4, 3], signed=False),
    DoReFaActivations([4, 3], signed=False), DoReFaWeights([4, 3], signed=True, channels=2),
    Quantizer([4, 3], signed=True, channels=2, step_range=(0.15, 0.2)),
]  # fmt: skip


@pytest.mark.parametrize("quantizer", KINDS, ids=lambda one: type(one).__name__)
def test_the_grid_of_a_quantizer_is_its_row_in_use(quantizer: Quantizer) -> None:
    """To the last bit, zero points and clamped steps included; it is a copy."""
    if quantizer.learned:
        with torch.no_grad():
            quantizer.steps.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.1]])[:, : quantizer.channels])
    if type(quantizer) is Quantizer and not quantizer.signed:
        quantizer.zero_points.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    for bits in (4, 3):
        quantizer.select(bits)
        found = grid_of(quantizer)
        assert found is not None and found.bits == bits
        assert torch.equal(found.apply(x), quantizer(x).detach())
        found.step.add_(1.0)
        found.zero_point.add_(1.0)
        assert grid_of(quantizer).apply(x).equal(quantizer(x))  # type: ignore[union-attr]


def test_exact_is_what_more_bits_come_close_to() -> None:
    x = torch.tensor([-9.0, 0.3])
    assert torch.equal(grid(exact=True).apply(x), x)
    assert torch.equal(grid(exact=True, unrounded=torch.tanh).apply(x), x.tanh())


def test_grids_are_the_same_if_all_their_numbers_are() -> None:
    one = grid()
    assert one.same_as(grid())
    changes: dict[str, object] = {
        "kind": "midrise", "bits": 4, "qmin": -3.0, "qmax": 2.0, "rounding": "floor", "seed": 1, "exact": True,
        "step": torch.tensor([2.0]), "zero_point": torch.ones(1),
    }  # fmt: skip
    assert not any(one.same_as(grid(**{name: value})) for name, value in changes.items())


def test_a_class_of_the_users_own_has_no_grid() -> None:
    class Mine(Quantizer):
        """Rounds as it likes."""

    assert grid_of(Mine([4], signed=True)) is None and grid_of(nn.Identity()) is None


def test_half_types_come_back_as_they_were() -> None:
    x: Tensor = torch.tensor([0.3, 2.6]).bfloat16()
    for rounding in ("half-even", "floor"):
        found = grid(rounding=rounding).apply(x)
        assert found.dtype == torch.bfloat16 and found.tolist() == (
            [0.0, 3.0] if rounding == "half-even" else [0.0, 2.0]
        )


def test_the_grid_of_one_signed_bit_is_that_of_its_quantizer_and_keeps_its_clip_at_more_bits() -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    quantizer = Quantizer([1], signed=True, channels=3)
    quantizer.initialise(x, find_rule("mse"))
    grid = grid_of(quantizer)
    assert grid is not None and torch.equal(grid.apply(x), quantizer(x).detach())
    finer = grid.with_bits(3).apply(x)
    torch.testing.assert_close(finer.abs().amax(dim=1), quantizer(x).detach().abs()[:, 0])
