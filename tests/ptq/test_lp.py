"""The step of least Lp error: against brute force, and on sketches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.ptq import Levels, Sketch, lp, lp_error, lp_step, widest_step

LEVELS: tuple[Levels, ...] = ("signed", "unsigned", "midrise")


def values(levels: Levels = "signed", rows: int = 1, count: int = 2000, seed: int = 0) -> Tensor:
    x = torch.randn(rows, count, generator=torch.Generator().manual_seed(seed))
    return x.abs() if levels == "unsigned" else x


def levels_of(bits: int, levels: Levels) -> Tensor:
    if levels == "unsigned":
        return torch.arange(2.0**bits)
    whole = torch.arange(2.0**bits) - 2 ** (bits - 1)
    return whole + 0.5 if levels == "midrise" else whole


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("p", [1.0, 2.0, 2.4, 2.5, 3.0])
def test_error_is_the_distance_to_the_nearest_level(levels: Levels, p: float) -> None:
    for bits in (2, 4):
        x, step = values(levels, rows=2), torch.tensor([0.3, 0.9])
        grid = levels_of(bits, levels) * step[:, None]
        wanted = (x[:, :, None] - grid[:, None, :]).abs().amin(dim=2).double().pow(p).mean(dim=1)
        torch.testing.assert_close(lp_error(x, step, bits, levels, p=p), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("p", [2.0, 3.0])
def test_no_other_step_is_better(levels: Levels, bits: int, p: float) -> None:
    x = values(levels)
    least = lp_error(x, lp_step(x, bits, levels, p=p), bits, levels, p=p)
    for part in torch.linspace(0.02, 1.3, 400).tolist():
        other = lp_error(x, part * widest_step(x, bits, levels), bits, levels, p=p)
        assert least.item() <= other.item() * 1.01  # the curve is jagged, and some of its teeth lie between candidates


def test_rows_are_searched_on_their_own() -> None:
    x = values(rows=3) * torch.tensor([[1.0], [10.0], [0.01]])
    together = lp_step(x, 3, p=2.5)
    assert torch.equal(together, torch.cat([lp_step(row[None], 3, p=2.5) for row in x]))


@pytest.mark.parametrize("shape", [None, (300,), (3, 300)], ids=["alike", "of all rows", "of each row"])
def test_steps_are_the_same_however_many_are_tried_at_once(
    shape: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.cat([values(rows=2, count=300), torch.zeros(1, 300)])
    weights = None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(1)) ** 4
    together = lp_step(rows, 3, p=2.5, weights=weights)
    monkeypatch.setattr(lp, "_CACHED", 1)
    torch.testing.assert_close(
        lp_step(rows, 3, p=2.5, weights=weights), together, rtol=3e-3, atol=0
    )  # as fine as it looks
    assert together[2] < 1e-7 < together[0]


def test_weights_count_values_several_times() -> None:
    x, times = values(count=50), torch.arange(50) % 4
    torch.testing.assert_close(
        lp_step(x, 3, weights=times.float()), lp_step(x[0].repeat_interleave(times)[None], 3), rtol=1e-3, atol=0
    )


def test_larger_p_clips_less() -> None:
    steps = [lp_step(values(), 4, p=p).item() for p in (1.0, 2.0, 3.0, 5.0)]
    assert steps == sorted(steps) and steps[0] < steps[-1]


@pytest.mark.parametrize("levels", LEVELS)
def test_constant_and_zero_tensors(levels: Levels) -> None:
    for x in (torch.zeros(1, 5), torch.full((1, 5), 0.3), torch.full((1, 1), 1e-20)):
        step = lp_step(x, 4, levels)
        assert torch.isfinite(step).all() and (step > 0).all()
    assert lp_error(torch.full((1, 5), 0.3), lp_step(torch.full((1, 5), 0.3), 4, levels), 4, levels).item() < 1e-5


@pytest.mark.parametrize("levels", LEVELS)
def test_the_widest_step_clips_nothing(levels: Levels) -> None:
    x = values(levels, rows=3)
    for bits in (2, 8):
        step = widest_step(x, bits, levels)
        assert (lp_error(x, step, bits, levels, p=8.0) ** (1 / 8) <= step.double() / 2).all()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(LEVELS),
    st.sampled_from([2, 4, 8]),
    st.floats(1, 4),
    st.sampled_from([16, 256, 4096]),
)
def test_a_sketch_is_right_to_half_a_bin(seed: int, levels: Levels, bits: int, p: float, bins: int) -> None:
    """For any step, also one that is far from the best."""
    generator = torch.Generator().manual_seed(seed)
    x = values(levels, seed=seed) * float(torch.rand(1, generator=generator) * 10)
    sketch = Sketch(bins)
    for part in x.flatten().split(300):
        sketch.add(part)
    rows, counts = sketch.rows()
    step = widest_step(x, bits, levels) * float(torch.rand(1, generator=generator) + 0.05)
    exact = lp_error(x, step, bits, levels, p=p).item() ** (1 / p)
    found = lp_error(rows, step, bits, levels, p=p, weights=counts).item() ** (1 / p)
    assert abs(found - exact) <= sketch.width / 2 * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_sketch_finds_the_step_of_the_values(bits: int) -> None:
    x, sketch = values("unsigned", count=50_000), Sketch()
    for part in x.flatten().split(8000):
        sketch.add(part)
    rows, counts = sketch.rows()
    exact = lp_step(x, bits, "unsigned").item()
    assert lp_step(rows, bits, "unsigned", weights=counts).item() == pytest.approx(exact, rel=0.01)


def test_a_sketch_does_not_depend_on_how_values_come_but_for_its_range() -> None:
    x, whole, parts = values().flatten(), Sketch(64), Sketch(64)
    whole.add(x)
    for part in x[x.abs().argsort(descending=True)].split(70):  # the largest first: no bins have to merge
        parts.add(part)
    assert torch.equal(whole.counts, parts.counts) and whole.width == parts.width
    assert (whole.low, whole.high) == (x.min().item(), x.max().item())
    growing = Sketch(64)
    for part in x[x.abs().argsort()].split(70):
        growing.add(part)
    assert growing.counts.sum() == len(x) and whole.width <= growing.width <= 2 * whole.width


def test_a_sketch_of_nothing_but_zeros() -> None:
    sketch = Sketch()
    sketch.add(torch.zeros(7))
    rows, counts = sketch.rows()
    assert lp_step(rows, 4, "unsigned", weights=counts).item() > 0


def test_bad_input() -> None:
    with pytest.raises(MixbitError, match="levels='mid-rise' is unknown. Did you mean 'midrise'"):
        lp_step(values(), 4, "mid-rise")  # type: ignore[arg-type]
    for p in (0.5, 9.0, math.nan):
        with pytest.raises(MixbitError, match=r"p=.*Legal: 1 to 8"):
            lp_step(values(), 4, p=p)
    with pytest.raises(MixbitError, match="NaN or infinity"):
        lp_step(torch.tensor([[1.0, float("inf")]]), 4)
    with pytest.raises(MixbitError, match="NaN or infinity"):
        Sketch().add(torch.tensor([float("nan")]))
    for bins in (0, 5):
        with pytest.raises(MixbitError, match="even"):
            Sketch(bins)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.4, 3.5, 8.0])
@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_best_step_of_an_even_spread_is_known(p: float, bits: int) -> None:
    """Without a zero level: the ends lie half a step beyond the outer levels, whatever p; to the promised 0.2 %."""
    x = torch.linspace(-1, 1, 20001).view(1, -1)
    assert lp_step(x, bits, "midrise", p=p).item() == pytest.approx(2 / 2**bits, rel=2.5e-3)
    error = lp_error(x, torch.tensor([2 / 2**bits]), bits, "midrise", p=p).item()
    assert error == pytest.approx((1 / 2**bits) ** p / (p + 1), rel=1e-3)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("p", [1.0, 3.0])
def test_the_best_of_all_steps_by_brute_force(levels: Levels, p: float) -> None:
    """With outliers that are clipped: the best lies at a hundredth to a half of the step that clips nothing."""
    x = values(levels, count=4000)
    x[0, :2] = torch.tensor([300.0 if p == 1 else 12.0, 9.0])
    numbers = x.double().numpy()[0]
    found = lp_step(x, 3, levels, p=p).item()
    widest = widest_step(x, 3, levels).item()
    errors = {}
    for part in np.geomspace(0.003, 1.2, 1500):
        grid = levels_of(3, levels).double().numpy() * part * widest
        places = np.clip(np.searchsorted((grid[1:] + grid[:-1]) / 2, numbers), 0, len(grid) - 1)
        errors[float(part * widest)] = float((np.abs(numbers - grid[places]) ** p).mean())
    best = min(errors, key=errors.__getitem__)
    assert found == pytest.approx(best, rel=0.03) and 0.003 < best / widest < 0.8


def test_weighted_errors_are_weighted_means() -> None:
    x, weights = values(rows=2, count=60), torch.rand(2, 60, generator=torch.Generator().manual_seed(1)) * 5
    step = torch.tensor([0.3, 0.5])
    distance = (x - torch.clamp(torch.round(x / step[:, None]), -4, 3) * step[:, None]).abs().double()
    for one in (weights, weights[0]):
        wanted = (distance**3 * one).sum(dim=1) / one.sum(dim=-1)
        torch.testing.assert_close(lp_error(x, step, 3, p=3.0, weights=one), wanted, rtol=1e-5, atol=0)


def test_a_sketch_counts_values_where_they_are() -> None:
    """Beyond the top on either side it widens, and every bin keeps its place; ends are exact."""
    sketch = Sketch(8)
    for batch in ([0.1, 0.9], [-1.9], [3.9], [-0.1, 0.4]):
        sketch.add(torch.tensor(batch))
    rows, counts = sketch.rows()
    assert sketch.top == pytest.approx(8 * 0.9) and sketch.width == pytest.approx(0.9)  # doubled until it holds 3.9
    values_ = [-1.9, -0.1, 0.1, 0.4, 0.9, 3.9]
    placed = sorted(v for v, c in zip(rows[0].tolist(), counts.tolist(), strict=True) for _ in range(int(c)))
    assert len(placed) == 6 and all(abs(a - b) <= sketch.width * 1.01 for a, b in zip(placed, values_, strict=True))
    assert (sketch.low, sketch.high) == pytest.approx((-1.9, 3.9))


def test_values_of_a_sketch_are_unbiased_centres_within_the_ends() -> None:
    x, sketch = torch.rand(200_000, generator=torch.Generator().manual_seed(0)), Sketch(64)
    sketch.add(x)
    rows, counts = sketch.rows()
    assert float((rows[0] * counts).sum() / counts.sum()) == pytest.approx(float(x.mean()), abs=1e-4)
    assert float(rows.min()) >= float(x.min()) and float(rows.max()) <= float(x.max())
    alone = Sketch()
    alone.add(torch.full((5,), 0.3))
    assert alone.rows()[0].item() == pytest.approx(0.3, abs=1e-7) and alone.rows()[1].item() == 5


def test_a_sketch_has_eight_thousand_bins() -> None:
    """No value moves by more than an 8192nd of the range, which is what its users count on."""
    sketch = Sketch()
    sketch.add(torch.tensor([1.0, -1.0]))
    assert len(sketch.counts) == 8192 and sketch.width == 1 / 4096


def test_one_signed_bit_has_its_levels_half_a_step_from_zero() -> None:
    """`alpha sign(x)`: least squared error at `alpha = mean |x|`; nothing beyond the levels at `alpha = max |x|`."""
    rows = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lp_step(rows, 1), 2 * rows.abs().mean(dim=1), rtol=1e-2, atol=0)
    torch.testing.assert_close(widest_step(rows, 1), 2 * rows.abs().amax(dim=1))
    step = torch.tensor([0.5, 1.0, 2.0])
    error = (rows.abs().double() - step[:, None] / 2).square().mean(dim=1)
    torch.testing.assert_close(lp_error(rows, step, 1), error, rtol=1e-5, atol=0)
