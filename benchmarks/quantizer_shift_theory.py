"""What a wrong step costs on known densities: the part of KURE's theory that holds, and the part that does not.

    python benchmarks/quantizer_shift_theory.py [--fresh] [--smoke]

Exact sums, no sampling, no training; a few seconds. For uniform, normal and Laplace densities of unit variance at 2, 3
and 4 bits: the squared error at r = 0.5 to 2 times the best step, where the curves of the uniform and the normal
density cross, and the curvature at the best step, by which Theorem 4 of the paper compares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import records
from mixbit.robustness.step_error import Density, LevelGrid, expected_mse, optimal_step, relative_mse

BITS = (2, 3, 4)
RATIOS = tuple(round(0.5 + 0.05 * i, 2) for i in range(31))
GRIDS: tuple[LevelGrid, ...] = ("mid-rise", "mid-tread")


def curve(density: Density, bits: int) -> dict[str, Any]:
    """Error by ratio on the grid of 2^M levels."""
    return {
        "density": density,
        "bits": bits,
        "best_step": optimal_step(density, bits),
        "mse": [relative_mse(density, bits, ratio) for ratio in RATIOS],
    }


def difference(bits: int, ratio: float) -> float:
    """Error of the uniform density less that of the normal one, each at `ratio` times its own best step."""
    return relative_mse("uniform", bits, ratio) - relative_mse("normal", bits, ratio)


def crossings(bits: int) -> list[float]:
    """Ratios from 0.5 to 2 at which the two densities have equal error."""
    found = []
    for low, high in pairwise(RATIOS):
        if difference(bits, low) * difference(bits, high) < 0:
            sign = difference(bits, low)
            while high - low > 1e-9:
                middle = (low + high) / 2
                low, high = (middle, high) if difference(bits, middle) * sign > 0 else (low, middle)
            found.append(round(low, 6))
    return found


def curvature(density: Density, bits: int, grid: LevelGrid) -> dict[str, Any]:
    """Second derivative of the error at the best step: by the step, and by its ratio to the best one."""
    best = optimal_step(density, bits, grid)
    h = 1e-3 * best
    low, middle, high = (expected_mse(density, bits, best + shift, grid) for shift in (-h, 0.0, h))
    second = (low - 2 * middle + high) / h**2
    return {
        "density": density,
        "bits": bits,
        "grid": grid,
        "best_step": best,
        "mse": middle,
        "by_step": second,
        "by_ratio": second * best**2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    records.arguments(parser)
    given = parser.parse_args()
    bits_of, densities = BITS[: 1 if given.smoke else None], get_args(Density)
    results = records.Results(
        "quantizer_shift_theory",
        settings={"bits": bits_of, "ratios": RATIOS},
        libraries=("scipy",),
        fresh=given.fresh,
        smoke=given.smoke,
    )
    parts: dict[str, Callable[[], Any]] = {
        "ratios": lambda: RATIOS,
        "curves": lambda: [curve(density, bits) for bits in bits_of for density in densities],
        "crossings_of_uniform_and_normal": lambda: {str(bits): crossings(bits) for bits in BITS},
        "curvature": lambda: [curvature(one, bits, grid) for grid in GRIDS for bits in bits_of for one in densities],
    }
    results.plan(parts)
    for name, make in parts.items():
        results.part(name, make)


if __name__ == "__main__":
    main()
