"""Golden numbers of the quantizers that KURE is studied with.

Expected errors are integrals over the density on fine grids; the rounding is that of mixbit's own quantizers.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from mixbit.ptq import Levels, lp_error, lp_step
from mixbit.quantizers import DoReFaWeights, MidRise, Quantizer, fake_quantize

POINTS = 200_000
EDGE = math.sqrt(3.0)


@cache
def density(name: str) -> tuple[Tensor, Tensor]:
    """Points `(1, n)` and their probabilities `(n,)`, of unit variance."""
    reach = {"uniform": EDGE, "normal": 9.0, "laplace": 24.0}[name]
    x = ((torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS * 2 - 1) * reach
    y = {
        "uniform": torch.ones_like(x),
        "normal": torch.exp(-(x**2) / 2),
        "laplace": torch.exp(-math.sqrt(2) * x.abs()),
    }[name]
    return x.float().view(1, -1), (y / y.sum()).float()


def error(name: str, bits: int, step: float, levels: Levels = "midrise") -> float:
    x, weights = density(name)
    return lp_error(x, torch.tensor([step]), bits, levels, weights=weights).item()


def best(name: str, bits: int, levels: Levels = "midrise") -> tuple[float, float]:
    """The step that the search finds, and its error."""
    x, weights = density(name)
    step = lp_step(x, bits, levels, weights=weights).item()
    return step, error(name, bits, step, levels)


MID_RISE = [
    (2, "uniform", 0.86603, 0.0625), (2, "normal", 0.9957, 0.118846), (2, "laplace", 1.0874, 0.19630),
    (3, "uniform", 0.43301, 0.015625), (3, "normal", 0.58604, 0.037439), (3, "laplace", 0.7310, 0.07175),
    (4, "uniform", 0.21651, 0.00390625), (4, "normal", 0.33522, 0.011543), (4, "laplace", 0.4611, 0.02535),
    (8, "uniform", 0.01353, 1.526e-5), (8, "normal", 0.03085, 8.8e-5), (8, "laplace", 0.054844, 3.014e-4),
]  # fmt: skip
"""The source has 5.5e-4 at 0.0434 for Laplace at 8 bits: the error at that step, but not the least."""


@pytest.mark.parametrize(("bits", "name", "step", "mse"), MID_RISE)
def test_best_steps_on_the_mid_rise_grid(bits: int, name: str, step: float, mse: float) -> None:
    found, least = best(name, bits)
    assert found == pytest.approx(step, rel=0.004)
    assert least == pytest.approx(mse, rel=0.02 if bits == 8 else 0.002)
    assert error(name, bits, step) == pytest.approx(mse, rel=0.02 if bits == 8 else 5e-4)


SIGNED = [
    (2, "uniform", None, 0.107438), (3, "uniform", None, 0.020377), (4, "uniform", 0.22891, 0.004444),
    (2, "normal", None, 0.149431), (3, "normal", None, 0.040638), (4, "normal", 0.33863, 0.011864),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "name", "step", "mse"), SIGNED)
def test_best_steps_on_signed_integers(bits: int, name: str, step: float | None, mse: float) -> None:
    found, least = best(name, bits, "signed")
    assert least == pytest.approx(mse, rel=0.002)
    if step is not None:
        assert found == pytest.approx(step, rel=0.003)


def mid_tread(name: str, bits: int, step: float) -> float:
    """`2^M + 1` levels: the operator between `-2^(M-1)` and `2^(M-1)`."""
    x, weights = density(name)
    one = torch.ones(1)
    half = 2.0 ** (bits - 1)
    y = fake_quantize(x, one * step, one * 0, -half * one, half * one)
    return float(((y - x).double() ** 2 * weights).sum())


@pytest.mark.parametrize(
    ("bits", "name", "step", "mse"),
    [
        (4, "uniform", 0.20377, 0.003460), (4, "normal", 0.31893, 0.010405),
        (3, "uniform", None, 0.012346), (3, "normal", None, 0.030696),
        (2, "uniform", None, 0.040000), (2, "normal", None, 0.082177),
    ],
)  # fmt: skip
def test_one_level_more_with_zero_among_them(bits: int, name: str, step: float | None, mse: float) -> None:
    found = (5.1 if name == "normal" else 2 * EDGE) / 2**bits
    for reach in (0.05, 0.008, 0.0013):
        found = min((found * (1 + reach * k) for k in range(-7, 8)), key=lambda s: mid_tread(name, bits, s))
    assert mid_tread(name, bits, found) == pytest.approx(mse, rel=0.003)
    if step is not None:
        assert found == pytest.approx(step, rel=0.004)
        assert mid_tread(name, bits, step) == pytest.approx(mse, rel=3e-4)


@pytest.mark.parametrize(("bits", "mse"), [(2, 0.01333333), (3, 0.00411523), (4, 0.00115340)])
def test_lemma_2_and_its_minimum(bits: int, mse: float) -> None:
    """On [-1, 1]: `(1 - 2^(M-1) s)^3 / 3 + 2^M s^3 / 24`, least at `2 / (2^M + 1)` and not at `2 / 2^M`."""
    least = 2 / (2**bits + 1)
    found = {step: mid_tread("uniform", bits, step * EDGE) / 3 for step in (least, least * 0.97, 2 / 2**bits)}
    for step, error in found.items():
        assert error == pytest.approx((1 - 2 ** (bits - 1) * step) ** 3 / 3 + 2**bits * step**3 / 24, rel=1e-3)
    assert found[least] == min(found.values()) == pytest.approx(mse, rel=1e-3)
    if bits == 4:
        assert found[0.125] == pytest.approx(0.00130208, rel=1e-3)


RATIOS = (0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5, 2)
WRONG = {
    "uniform": (0.04188, 0.01750, 0.00648, 0.00445, 0.00391, 0.00424, 0.00484, 0.00550, 0.00679, 0.00903, 0.01563),
    "normal": (0.02712, 0.01690, 0.01260, 0.01178, 0.01155, 0.01174, 0.01223, 0.01384, 0.01596, 0.02109, 0.03746),
    "laplace": (0.04112, 0.03126, 0.02665, 0.02569, 0.02540, 0.02565, 0.02635, 0.02882, 0.03236, 0.04176, 0.07479),
}
BEST = {"uniform": 0.216506, "normal": 0.33522, "laplace": 0.46105}


@pytest.mark.parametrize("name", WRONG)
def test_error_under_a_wrong_step_at_four_bits(name: str) -> None:
    found = [error(name, 4, BEST[name] * ratio) for ratio in RATIOS]
    assert found == pytest.approx(WRONG[name], rel=2.5e-3)


def test_uniform_is_below_normal_from_0_85_to_2_and_not_at_0_7() -> None:
    """What holds of the paper's claim; not the curvature at the best step, which is larger for the uniform density."""
    for ratio in (0.85, 0.9, 1.0, 1.2, 1.5, 2.0):
        assert error("uniform", 4, BEST["uniform"] * ratio) < error("normal", 4, BEST["normal"] * ratio)
    assert error("uniform", 4, BEST["uniform"] * 0.7) > error("normal", 4, BEST["normal"] * 0.7)


def test_steps_that_are_powers_of_two() -> None:
    uniform, normal = error("uniform", 4, 0.25), error("normal", 4, 0.25)
    assert uniform == pytest.approx(0.00512, abs=1e-5) and normal == pytest.approx(0.02146, abs=1e-5)
    assert uniform / error("uniform", 4, BEST["uniform"]) == pytest.approx(1.31, abs=0.01)
    assert normal / error("normal", 4, BEST["normal"]) == pytest.approx(1.86, abs=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_modules_round_as_the_error_says(bits: int) -> None:
    """The tables hold for the quantizers that models carry."""
    x, weights = density("normal")
    for kind, levels in ((MidRise, "midrise"), (Quantizer, "signed")):
        quantizer = kind([bits], signed=True)
        with torch.no_grad():
            quantizer.steps.fill_(0.1)
            found = float(((quantizer(x) - x).double() ** 2 * weights).sum())
        assert found == pytest.approx(error("normal", bits, 0.1, levels), rel=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [
        (2, (-1, -1 / 3, -1 / 3, 1 / 3, 1 / 3, 1 / 3, 1)),
        (3, (-1, -0.4286, -0.1429, 0.1429, 0.1429, 0.4286, 1)),
        (4, (-1, -0.4667, -0.0667, 0.0667, 0.0667, 0.4667, 1)),
    ],
)
def test_dorefa_weights(bits: int, wanted: tuple[float, ...]) -> None:
    found = DoReFaWeights([bits], signed=True)(torch.tensor([-2, -0.5, -0.1, 0, 0.1, 0.5, 2]))
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_search_on_quantiles() -> None:
    """A tensor with the shape of the density instead of weights on its points."""
    ranks = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    normal = torch.special.ndtri(ranks).float().view(1, -1)
    uniform = ((2 * ranks - 1) * EDGE).float().view(1, -1)
    for bits, step in ((2, 0.9957), (3, 0.58604), (4, 0.33522)):
        assert lp_step(normal, bits, "midrise").item() == pytest.approx(step, rel=0.003)
        assert lp_step(uniform, bits, "midrise").item() == pytest.approx(2 * EDGE / 2**bits, rel=0.003)
