"""Births of feature maps and tokens as they come from a network, in either of the two readings as a graph."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError, did_you_mean
from mixbit.topology.birth import birth_times
from mixbit.topology.graphs import square, token_grid
from mixbit.topology.lattice import lattice_birth_times

__all__ = ["Graph", "map_births"]

Graph = Literal["unit", "grid"]
"""What the vertices of a map are: its rows and columns, or its pixels."""


def map_births(
    values: npt.ArrayLike,
    *,
    tokens: bool = False,
    graph: Graph = "unit",
    fill: float | None = None,
    v_max: int | None = None,
) -> npt.NDArray[np.int32]:
    """Births of maps or tokens.

    Args:
        values: (..., h, w) maps, or (..., N) tokens.
        tokens: which of the two.
        graph: "unit": rows and columns are the vertices (`birth_times`), after padding to a square (`square`,
            `token_grid`). "grid": pixels are (`lattice_birth_times`). No map needs padding then, and tokens must fill a
            square: in rows of another length, neighbours in the lattice would not be neighbours in the image (our
            completion).
        fill: value of padding; None takes the default of `square`, or of `token_grid` for tokens. Not for "grid".
        v_max: births after this step count as none.

    Returns:
        (...), int32; 0 for none.

    Raises:
        MixbitError: an unknown graph, tokens that fill no square, values that are not a number.

    >>> ring = [[9, 8, 7], [6, 1, 5], [4, 3, 2]]
    >>> int(map_births(ring)), int(map_births(ring, graph="grid"))
    (0, 8)
    >>> int(map_births(np.ravel(ring), tokens=True, graph="grid"))
    8
    """
    if graph not in get_args(Graph):
        raise MixbitError(f"graph is {graph!r}.{did_you_mean(graph, get_args(Graph))} Legal: unit, grid.")
    if graph == "grid":
        return lattice_birth_times(_token_lattice(values) if tokens else values, v_max=v_max)
    pad = token_grid if tokens else square
    return birth_times(pad(values) if fill is None else pad(values, fill=fill), v_max=v_max)


def _token_lattice(tokens: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Tokens (..., k * k) row by row as (..., k, k)."""
    array = np.asarray(tokens, dtype=np.float32)
    count = array.shape[-1] if array.ndim else 0
    side = math.isqrt(count)
    if not count or side * side != count:
        raise MixbitError(f"{count} tokens fill no square lattice. Legal: 4, 9, 16, ...; leave a class token out.")
    return array.reshape(*array.shape[:-1], side, side)
