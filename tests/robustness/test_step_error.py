"""Errors of best and of wrong steps against reference tables, and what of the paper's theorem does not hold."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest

from mixbit.errors import MixbitError
from mixbit.robustness.step_error import Density, LevelGrid, expected_mse, optimal_step, relative_mse

SQRT3 = math.sqrt(3)
BEST = {  # 2^M levels, mid-rise: density and bits -> (error, step) of the best step
    ("uniform", 2): (0.0625, 0.86603), ("normal", 2): (0.118846, 0.9957), ("laplace", 2): (0.19630, 1.0874),
    ("uniform", 3): (0.015625, 0.43301), ("normal", 3): (0.037439, 0.58604), ("laplace", 3): (0.07175, 0.7310),
    ("uniform", 4): (0.00390625, 0.21651), ("normal", 4): (0.011543, 0.33522), ("laplace", 4): (0.02535, 0.4611),
    ("uniform", 8): (1.526e-5, 0.01353), ("normal", 8): (8.8e-5, 0.03085),
}  # fmt: skip
OTHER_GRIDS = [
    ("mid-tread", 4, 0.003460, 0.20377, 0.010405), ("mid-tread", 3, 0.012346, None, 0.030696),
    ("mid-tread", 2, 0.04, None, 0.082178), ("signed", 4, 0.004444, 0.22891, 0.011864),
    ("signed", 3, 0.020377, None, 0.040638), ("signed", 2, 0.107438, None, 0.149431),
]  # fmt: skip
WRONG = {  # 4 bits, step over best step -> error
    "uniform": (0.04188, 0.01750, 0.00648, 0.00445, 0.00391, 0.00424, 0.00484, 0.00550, 0.00679, 0.00903, 0.01563),
    "normal": (0.02712, 0.01690, 0.01260, 0.01178, 0.01155, 0.01174, 0.01223, 0.01384, 0.01596, 0.02109, 0.03746),
    "laplace": (0.04112, 0.03126, 0.02665, 0.02569, 0.02540, 0.02565, 0.02635, 0.02882, 0.03236, 0.04176, 0.07479),
}
RATIOS = (0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5, 2)


@pytest.mark.parametrize(("density", "bits"), BEST)
def test_the_best_step_and_its_error(density: Density, bits: int) -> None:
    error, step = BEST[density, bits]
    # The table was made by sums over a fine grid, and at 8 bits the valley is flat.
    assert optimal_step(density, bits) == pytest.approx(step, rel=4e-3 if bits == 8 else 3e-4)
    assert relative_mse(density, bits, 1.0) == pytest.approx(error, rel=5e-3 if bits == 8 else 2e-4)


def test_laplace_at_eight_bits_is_clipped_far_out() -> None:
    """A search that ends at step 0.0434 has nearly twice the error: the tail beyond 5.6 sigma counts."""
    assert optimal_step("laplace", 8) == pytest.approx(0.054844, rel=1e-4)
    assert relative_mse("laplace", 8, 1.0) == pytest.approx(3.0142e-4, rel=1e-4)
    assert expected_mse("laplace", 8, 0.0434) == pytest.approx(5.563e-4, rel=1e-3)


@pytest.mark.parametrize(("grid", "bits", "uniform", "step", "normal"), OTHER_GRIDS)
def test_the_other_two_grids(grid: LevelGrid, bits: int, uniform: float, step: float | None, normal: float) -> None:
    assert relative_mse("uniform", bits, 1.0, grid) == pytest.approx(uniform, abs=6e-7)
    assert relative_mse("normal", bits, 1.0, grid) == pytest.approx(normal, abs=6e-7)
    if step is not None:
        assert optimal_step("uniform", bits, grid) == pytest.approx(step, abs=6e-6)


@pytest.mark.parametrize("density", WRONG)
def test_errors_of_wrong_steps_at_four_bits(density: Density) -> None:
    assert [relative_mse(density, 4, ratio) for ratio in RATIOS] == pytest.approx(WRONG[density], rel=2.5e-3)


@pytest.mark.parametrize(("density", "before", "after"), [("uniform", 0.00391, 0.00512), ("normal", 0.01154, 0.02146)])
def test_a_power_of_two_costs_the_normal_density_more(density: Density, before: float, after: float) -> None:
    step = optimal_step(density, 4)
    rounded = 2.0 ** round(math.log2(step))
    assert rounded == 0.25
    assert expected_mse(density, 4, step) == pytest.approx(before, rel=2e-3)
    assert expected_mse(density, 4, rounded) == pytest.approx(after, rel=2e-3)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_uniform_has_less_error_from_just_below_the_best_step_up(bits: int) -> None:
    """What holds of the paper's Theorem 4, and all of it that is asserted anywhere here."""
    for ratio in np.linspace(0.85, 2.0, 116):
        assert relative_mse("uniform", bits, float(ratio)) < relative_mse("normal", bits, float(ratio))


@pytest.mark.parametrize(("bits", "crossing"), [(4, 0.806), (3, 0.680)])
def test_below_the_crossing_the_uniform_density_is_worse(bits: int, crossing: float) -> None:
    apart = [
        relative_mse("uniform", bits, crossing + shift) - relative_mse("normal", bits, crossing + shift)
        for shift in (-0.001, 0.001)
    ]
    assert apart[0] > 0 > apart[1]


def test_at_two_bits_the_curves_do_not_cross() -> None:
    assert all(relative_mse("uniform", 2, r) < relative_mse("normal", 2, r) for r in np.linspace(0.5, 2, 31).tolist())


def lemma2(a: float, bits: int, step: float) -> float:
    """The paper's formula for a uniform density on `[-a, a]` and `2^M + 1` levels, which clips: `2^(M-1) step <= a`."""
    half = 2 ** (bits - 1)
    return (a - half * step) ** 3 / (3 * a) + 2 * half * step**3 / (24 * a)


@pytest.mark.parametrize(("bits", "step", "error"), [(4, 2 / 17, 0.0011534), (3, 2 / 9, 0.00411523), (2, 0.4, 1 / 75)])
def test_lemma_2_and_its_exact_minimiser(bits: int, step: float, error: float) -> None:
    assert lemma2(1.0, bits, step) == pytest.approx(error, rel=1e-5)
    assert min(lemma2(1.0, bits, step * (1 + shift)) for shift in (-1e-4, 1e-4)) > lemma2(1.0, bits, step)
    # With unit variance a is sqrt(3), and errors are three times as large.
    assert optimal_step("uniform", bits, "mid-tread") == pytest.approx(SQRT3 * step, rel=1e-6)
    for ratio in (0.7, 1.0):
        exact = expected_mse("uniform", bits, SQRT3 * step * ratio, "mid-tread")
        assert exact == pytest.approx(3 * lemma2(1.0, bits, step * ratio), rel=1e-9)


def test_lemma_2_is_not_least_at_the_step_that_the_paper_writes() -> None:
    assert lemma2(1.0, 4, 2 / 16) == pytest.approx(0.00130208, rel=1e-5)
    assert lemma2(1.0, 4, 2 / 16) > lemma2(1.0, 4, 2 / 17)


def test_theorem_4_does_not_hold_as_printed() -> None:
    """Curvature at the best step, by which the theorem compares: that of the uniform density is the larger one."""

    def curvature(density: Density) -> float:
        step = optimal_step(density, 4, "mid-tread")
        h = 1e-3 * step
        at = [expected_mse(density, 4, step + shift, "mid-tread") for shift in (-h, 0.0, h)]
        return (at[0] - 2 * at[1] + at[2]) / h**2

    assert curvature("uniform") == pytest.approx(2**3, rel=1e-2)
    assert curvature("uniform") > 3 * curvature("normal")


@pytest.mark.parametrize("grid", get_args(LevelGrid))
@pytest.mark.parametrize("density", get_args(Density))
def test_the_closed_form_is_what_sampling_gives(density: Density, grid: LevelGrid) -> None:
    random, count = np.random.default_rng(0), 400_000
    x = {
        "uniform": random.uniform(-SQRT3, SQRT3, count),
        "normal": random.normal(size=count),
        "laplace": random.laplace(scale=math.sqrt(0.5), size=count),
    }[density]
    step, half = 0.4, 4
    low, high = {"mid-rise": (-half, half - 1), "mid-tread": (-half, half), "signed": (-half, half - 1)}[grid]
    shift = 0.5 if grid == "mid-rise" else 0.0
    levels = np.clip(np.round(x / step - shift), low, high) + shift
    assert expected_mse(density, 3, step, grid) == pytest.approx(((x - step * levels) ** 2).mean(), rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gaussian", 4, 0.1), "Legal: 'uniform', 'normal', 'laplace'"),
        (("normal", 9, 0.1), "bits '9'"),
        (("normal", 4, 0.0), "step of 0.0"),
        (("normal", 4, math.inf), "step of inf"),
        (("normal", 4, 0.1, "mid-raise"), "Did you mean 'mid-rise'"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[Density, int, float], said: str) -> None:
    with pytest.raises(MixbitError, match=said.replace("(", r"\(")):
        expected_mse(*arguments)
