"""Bounds on the chance of an event from how often it came, and the radius that a bound certifies.

Clopper and Pearson's bounds (1934) are exact: they fail with a chance of at most alpha, whatever the true chance is.
The radius is that of Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML
2019), with the chance of the second class bounded by that of all others.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixbit._settings import Range
from mixbit.errors import MixbitError

__all__ = ["Chance", "chance_of", "least_samples", "lower_bound", "radius_of", "upper_bound"]

Chance = Annotated[float, Range(above=0, below=1)]
"""Of an error: neither never nor always."""


def lower_bound(hits: ArrayLike, samples: ArrayLike, alpha: float) -> NDArray[np.float64] | Any:
    """Least chance of an event that came `hits` times in `samples`: `Beta^-1(alpha; k, n - k + 1)`.

    Args:
        hits: whole numbers of 0 or more, of any shape.
        samples: 1 or more, of a shape that fits.
        alpha: chance that the bound is above the true chance.

    Raises:
        MixbitError: more hits than samples, no sample, or an alpha that is not between 0 and 1.

    >>> round(float(lower_bound(990, 1000, 0.001)), 8)
    0.97603619
    """
    from scipy.special import betaincinv

    k, n = _counted(hits, samples, alpha)
    some = np.maximum(k, 1)
    return np.where(k == 0, 0.0, betaincinv(some, n - some + 1, alpha))


def upper_bound(hits: ArrayLike, samples: ArrayLike, alpha: float) -> NDArray[np.float64] | Any:
    """Largest chance of an event that came `hits` times in `samples`: `Beta^-1(1 - alpha; k + 1, n - k)`.

    Args:
        hits: whole numbers of 0 or more, of any shape.
        samples: 1 or more, of a shape that fits.
        alpha: chance that the bound is below the true chance.

    Raises:
        MixbitError: see `lower_bound`.

    >>> round(float(upper_bound(0, 1000, 0.001)), 8), round(float(upper_bound(10, 1000, 0.001)), 8)
    (0.00688395, 0.02396381)
    """
    k, n = _counted(hits, samples, alpha)
    return 1 - lower_bound(n - k, n, alpha)


def radius_of(chance: ArrayLike, sigma: float) -> NDArray[np.float64] | Any:
    """Radius in L2 in which the smoothed class stays: `sigma * Phi^-1(chance)`, 0 where the chance is 1/2 or less.

    Args:
        chance: lower bound on the chance of the class, of any shape.
        sigma: standard deviation of the noise, in the unit of the input space.

    >>> round(float(radius_of(lower_bound(990, 1000, 0.001), 1.0)), 6), float(radius_of(0.5, 1.0))
    (1.97801, 0.0)
    """
    from scipy.special import ndtri

    found = np.asarray(chance, dtype=np.float64)
    return np.where(found > 0.5, sigma * ndtri(np.maximum(found, 0.5)), 0.0)


def chance_of(radius: ArrayLike, sigma: float) -> NDArray[np.float64] | Any:
    """Chance of a class that certifies a radius: `Phi(radius / sigma)`.

    >>> round(float(chance_of(0.989005, 0.5)), 5)
    0.97604
    """
    from scipy.special import ndtr

    return ndtr(np.asarray(radius, dtype=np.float64) / sigma)


def least_samples(alpha: float) -> int:
    """The fewest samples that can certify anything: with all of them hits the bound is `alpha^(1/n)`, above 1/2.

    >>> least_samples(0.001), float(lower_bound(9, 9, 0.001)) > 0.5, float(lower_bound(10, 10, 0.001)) > 0.5
    (10, False, True)
    """
    return math.floor(math.log(alpha) / math.log(0.5)) + 1


def _counted(hits: ArrayLike, samples: ArrayLike, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    k, n = np.broadcast_arrays(np.asarray(hits, dtype=np.float64), np.asarray(samples, dtype=np.float64))
    if not bool(((k >= 0) & (k <= n) & (n >= 1)).all()):
        raise MixbitError(
            f"hits={hits!r}, samples={samples!r}. Legal: 0 hits or more, at most as many as samples, 1 or more."
        )
    if not 0 < alpha < 1:
        raise MixbitError(f"alpha={alpha!r} is illegal. Legal: above 0 and below 1, such as 0.001.")
    return k, n
