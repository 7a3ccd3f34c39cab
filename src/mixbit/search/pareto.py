"""Points in two or three objectives: which are beaten by none, and how much of the space they beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixbit._pareto import non_dominated
from mixbit.errors import MixbitError, shown

__all__ = ["hypervolume", "non_dominated"]

MOST_OBJECTIVES = 3


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The size of the space between the points and the reference: what is beaten by a point, and beats the reference.

    Less is better in every column; negate what is to be large. A point that does not beat the reference in all columns
    adds nothing, and so does one that another beats.

    Args:
        points: `(n, m)`, a row a point; one to three columns. No points have no volume.
        reference: `(m,)`.

    Raises:
        MixbitError: another shape, or what is no finite number.

    >>> hypervolume([[1, 3], [2, 1], [3, 3]], [4, 4])           # 1 x 1 and 2 x 3
    7.0
    >>> hypervolume([[0, 0, 1], [1, 1, 0]], [2, 2, 2])          # 2 x 2 x 1 and 1 x 1 x 2, with 1 in common
    5.0
    """
    try:
        corner, table = np.asarray(reference, dtype=np.float64), np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise MixbitError(f"The points or their reference are no table of numbers: {cause}. Legal: numbers.") from cause
    if corner.ndim != 1 or not 1 <= len(corner) <= MOST_OBJECTIVES:
        raise MixbitError(
            f"The reference has the shape {corner.shape}. Legal: one number an objective, 1 to {MOST_OBJECTIVES}."
        )
    table = table.reshape(0, len(corner)) if not table.size else table
    if table.ndim != 2 or table.shape[1] != len(corner):
        raise MixbitError(f"The points have the shape {table.shape}. Legal: (n, {len(corner)}), as the reference has.")
    if not (np.isfinite(table).all() and np.isfinite(corner).all()):
        bad = next((row for row in [corner, *table] if not np.isfinite(row).all()), corner)
        raise MixbitError(f"No volume can be told of {shown(bad.tolist())}. Legal: finite numbers.")
    table = table[(table < corner).all(axis=1)]
    return float(_volume(table[non_dominated(table)], corner))


def _volume(table: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    """Slices along the last column: each from one point's value to the next, of the points that have begun by then."""
    if not len(table):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - table.min())
    ordered = table[np.argsort(table[:, -1], kind="stable")]
    ends = np.append(ordered[1:, -1], corner[-1])
    if len(corner) == 2:
        lengths = corner[0] - np.minimum.accumulate(ordered[:, 0])
    else:
        lengths = np.array([_volume(ordered[:count, :-1], corner[:-1]) for count in range(1, len(ordered) + 1)])
    return float(np.sum((ends - ordered[:, -1]) * lengths))
