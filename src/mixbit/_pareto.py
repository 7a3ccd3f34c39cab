"""What no other beats: the one rule of dominance, for fronts, plots and searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def non_dominated(points: ArrayLike) -> NDArray[np.int64]:
    """Rows that no other row beats: no larger anywhere and smaller somewhere. Of equal rows the first one stays.

    Args:
        points: `(n, m)`, a row a point; less is better everywhere. A row with NaN beats nothing, and nothing beats it.

    Returns:
        Their numbers, rising.

    >>> non_dominated([[1, 9], [2, 5], [3, 5], [2, 5], [9, 1]]).tolist()        # row 2 is worse than 1, row 3 equal
    [0, 1, 4]
    """
    table: NDArray[Any] = np.asarray(points)
    if not len(table):
        return np.arange(0)
    order = np.lexsort(table.T)  # what beats a row comes before it, and of equal rows the first
    ordered, alive = table[order], np.ones(len(table), dtype=bool)
    for row in range(len(ordered)):
        if alive[row]:
            alive[row + 1 :] &= ~(ordered[row] <= ordered[row + 1 :]).all(axis=1)
    return np.sort(order[alive])
