"""Maps and tokens as the square arrays that `birth_times` reads."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError

__all__ = ["square", "token_grid"]

Floats = npt.NDArray[np.float32]


def square(maps: npt.ArrayLike, *, fill: float = -math.inf) -> Floats:
    """Maps (..., h, w), padded at the bottom or the right to (..., m, m) with m = max(h, w).

    The papers say nothing of maps that are not square. Our completion: the missing entries are -inf, edges that never
    enter; vertices without edges change no hole.

    Args:
        maps: (..., h, w).
        fill: value of the missing entries.

    Raises:
        MixbitError: fewer than two dimensions.

    >>> square([[1.0, 2.0, 3.0]]).tolist()
    [[1.0, 2.0, 3.0], [-inf, -inf, -inf], [-inf, -inf, -inf]]
    """
    array = np.asarray(maps, dtype=np.float32)
    if array.ndim < 2:
        raise MixbitError(f"maps have the shape {array.shape}, legal is (..., h, w).")
    height, width = array.shape[-2:]
    if height == width:
        return array
    side = max(height, width)
    padded = np.full((*array.shape[:-2], side, side), fill, dtype=np.float32)
    padded[..., :height, :width] = array
    return padded


def token_grid(tokens: npt.ArrayLike, *, fill: float = 0.0) -> Floats:
    """Values of N tokens (..., N) as maps (..., q, q) with q = ceil(sqrt(N)), row by row in the order of the tokens.

    GMPQ-TE, appendix A: tokens lie on a grid by their position, which is padded with zeros to a square of that side.
    That the rows of the grid are q long is our completion.

    Args:
        tokens: (..., N).
        fill: value of the missing entries; -inf leaves them out of the graph.

    Raises:
        MixbitError: no tokens.

    >>> token_grid([1.0, 2.0, 3.0, 4.0, 5.0]).tolist()
    [[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [0.0, 0.0, 0.0]]
    """
    array = np.asarray(tokens, dtype=np.float32)
    if array.ndim < 1 or array.shape[-1] < 1:
        raise MixbitError(f"tokens have the shape {array.shape}, legal is (..., N) with N > 0.")
    side = math.isqrt(array.shape[-1] - 1) + 1
    grid = np.full((*array.shape[:-1], side * side), fill, dtype=np.float32)
    grid[..., : array.shape[-1]] = array
    return grid.reshape(*array.shape[:-1], side, side)
