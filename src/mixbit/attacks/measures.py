"""What came of an attack, in a few numbers with their intervals: accuracy, success, distances, queries.

An interval is a percentile bootstrap of 95 %: images are drawn with replacement, 2000 times, and the mean is taken of
each draw (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). It says how far the number hangs on the
images. Where all images agree it has no width, which is no proof that others would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mixbit.attacks._norms import NORMS, Norm, norm_of
from mixbit.attacks.attack import Found
from mixbit.errors import MixbitError

__all__ = ["ImageResults", "Interval", "Measures", "Spread", "interval_of_mean", "measure"]

_Value = TypeVar("_Value")

DRAWS = 2000
_TAIL = 2.5
"""Percent of the draws on either side."""
_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over images, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How the numbers of several images lie."""

    mean: float
    median: float
    largest: float

    @classmethod
    def of(cls, values: ArrayLike) -> Spread:
        """Summarise one number or more.

        >>> Spread.of([1, 2, 6])
        Spread(mean=3.0, median=2.0, largest=6.0)
        """
        found = np.asarray(values, dtype=np.float64)
        return cls(mean=float(found.mean()), median=float(np.median(found)), largest=float(found.max()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResults:
    """What came of an attack image by image, in plain numbers, as a file keeps them; see `Found`."""

    right: tuple[bool, ...]
    success: tuple[bool, ...]
    queries: tuple[int, ...]
    gradients: tuple[int, ...]
    norms: dict[Norm, tuple[float, ...]]
    """Of the perturbation, in the unit of the input space."""
    snapped: dict[Norm, tuple[float, ...]] | None = None
    """Of what is left of it after the network's own quantization of its input; None where there is none."""

    @classmethod
    def of(cls, found: Found, x: Tensor, snap: Callable[[Tensor], Tensor] | None = None) -> ImageResults:
        """Take from `found` what is kept of each image, and measure its perturbation.

        Args:
            found: what the attack came to.
            x: the images that were attacked `(N, ...)`.
            snap: gives the inputs that the network makes of inputs, on its own grid.
        """
        after = None if snap is None else _norms(snap(found.points) - snap(x))
        return cls(
            right=tuple(found.right.tolist()),
            success=tuple(found.success.tolist()),
            queries=tuple(found.queries.tolist()),
            gradients=tuple(found.gradients.tolist()),
            norms=_norms(found.points - x),
            snapped=after,
        )

    @classmethod
    def join(cls, parts: Sequence[ImageResults]) -> ImageResults:
        """Put the images of several parts together, in order."""
        left = [part.snapped for part in parts if part.snapped is not None]
        if not parts or len(left) not in (0, len(parts)):
            raise ValueError("parts of one attack on one network, one or more, are joined")
        return cls(
            right=_joined([part.right for part in parts]),
            success=_joined([part.success for part in parts]),
            queries=_joined([part.queries for part in parts]),
            gradients=_joined([part.gradients for part in parts]),
            norms={norm: _joined([part.norms[norm] for part in parts]) for norm in NORMS},
            snapped={norm: _joined([part[norm] for part in left]) for norm in NORMS} if left else None,
        )


def _norms(delta: Tensor) -> dict[Norm, tuple[float, ...]]:
    return {norm: tuple(norm_of(delta, norm).tolist()) for norm in NORMS}


def _joined(parts: Sequence[tuple[_Value, ...]]) -> tuple[_Value, ...]:
    return tuple(value for part in parts for value in part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What came of an attack on one network.

    Attributes:
        images: all that were tried.
        right: those that the network had right; only they are attacked.
        fooled: those of them whose point it has wrong.
        clean_accuracy: share of all images that it had right.
        robust_accuracy: share of all images that it had right, and whose point it has right too.
        success: share of the images that it had right whose point it has wrong; None where it had none right.
        distances: norms of the perturbations of the fooled images, in the unit of the input space; empty where none is.
        snapped: the same after the network's own quantization of its input; empty where that has none.
        boundary: mean norm of the points of an attack that seeks the nearest one, over the fooled images, an upper
            bound on their mean distance to the boundary; None of other attacks, and where no image is fooled.
        queries: points of which an attacked image got logits or a class; None where no image was attacked, and where
            the points were made on another network.
    """

    images: int
    right: int
    fooled: int
    clean_accuracy: Interval
    robust_accuracy: Interval
    success: Interval | None
    distances: dict[Norm, Spread]
    snapped: dict[Norm, Spread]
    boundary: Interval | None
    queries: Spread | None


def measure(results: ImageResults, *, nearest: Norm | None = None, seed: int = 0) -> Measures:
    """The measures of an attack.

    Args:
        results: of every image.
        nearest: the norm that the attack made small; None of an attack within a ball.
        seed: of the bootstrap.

    >>> norms = {norm: (0.0, 2.0, 4.0, 9.0) for norm in NORMS}
    >>> all_but_first, last_two = (False, True, True, True), (False, False, True, True)
    >>> results = ImageResults(
    ...     right=all_but_first, success=last_two, queries=(0, 7, 5, 5), gradients=(0,) * 4, norms=norms
    ... )
    >>> found = measure(results, nearest="L2")
    >>> found.clean_accuracy.value, found.robust_accuracy.value, round(found.success.value, 3), found.boundary.value
    (0.75, 0.25, 0.667, 6.5)
    >>> found.distances["Linf"]
    Spread(mean=6.5, median=6.5, largest=9.0)
    """
    right, success = np.array(results.right), np.array(results.success)
    kept = {norm: np.array(values)[success] for norm, values in results.norms.items()}
    return Measures(
        images=len(right),
        right=int(right.sum()),
        fooled=int(success.sum()),
        clean_accuracy=interval_of_mean(right, seed=seed),
        robust_accuracy=interval_of_mean(right & ~success, seed=seed),
        success=interval_of_mean(success, right, seed=seed) if right.any() else None,
        distances=_spreads(results.norms, success),
        snapped=_spreads(results.snapped or {}, success),
        boundary=interval_of_mean(kept[nearest], seed=seed) if nearest is not None and success.any() else None,
        queries=Spread.of(np.array(results.queries)[right]) if right.any() else None,
    )


def _spreads(norms: dict[Norm, tuple[float, ...]], of: NDArray[np.bool_]) -> dict[Norm, Spread]:
    return {norm: Spread.of(np.array(values)[of]) for norm, values in norms.items()} if of.any() else {}


def interval_of_mean(values: ArrayLike, among: ArrayLike | None = None, *, seed: int = 0) -> Interval:
    """Mean of one number an image over the images that count, with its interval.

    Images are drawn from all, so that also their number among those that count varies from draw to draw; a draw in
    which none counts is left out.

    Args:
        values: `(N,)`.
        among: which of the images count `(N,)`; None for all.
        seed: of the draws.

    Raises:
        MixbitError: no image counts.

    >>> interval_of_mean([1, 1, 1, 0], [True, True, False, False])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    numbers = np.asarray(values, dtype=np.float64)
    counts = np.ones_like(numbers) if among is None else np.asarray(among, dtype=np.float64)
    if not counts.any():
        raise MixbitError("no image counts, so there is no mean. Give one or more.")
    numbers = numbers * counts
    random, means = np.random.default_rng(seed), []
    at_once = max(1, _NUMBERS_AT_ONCE // len(numbers))
    for begun in range(0, DRAWS, at_once):
        drawn = random.integers(len(numbers), size=(min(at_once, DRAWS - begun), len(numbers)))
        size = counts[drawn].sum(1)
        means.append(numbers[drawn].sum(1)[size > 0] / size[size > 0])
    low, high = np.percentile(np.concatenate(means), [_TAIL, 100 - _TAIL])
    return Interval(value=float(numbers.sum() / counts.sum()), low=float(low), high=float(high))
