"""Birth time of the first one-dimensional hole of a map read as a lattice of pixels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError
from mixbit.topology._checks import refuse_nan, step_limit
from mixbit.topology._cubical import python_lattice_birth
from mixbit.topology._library import compiled_lattice_births, lattice_library

__all__ = ["lattice_birth_times"]

_SMALLEST = 3  # rows and columns of the smallest ring of pixels


def lattice_birth_times(maps: npt.ArrayLike, *, v_max: int | None = None) -> npt.NDArray[np.int32]:
    """Step at which the first hole appears among the brightest pixels of each map.

    The other reading of a map in GMPQ-TE (its appendix A has one vertex a pixel, and says nothing of edges). Our
    completion: pixels are the vertices of a lattice, those that share a side are joined by an edge, and four that share
    a corner span a square. Pixels enter from the brightest to the darkest; step v adds all pixels of the v-th distinct
    value, with every edge and square whose pixels are there (the superlevel filtration of cubical complexes). The
    birth time is the first step v after which the first Betti number over GF(2) is not zero: pixels close a ring
    around a darker one.

    It is found without a homology package: in the plane `pixels - edges + squares = components - holes`, so a
    union-find structure counts the holes exactly, also for ties. It does not change when the map is turned, mirrored,
    or its values go through an increasing function.

    Args:
        maps: (..., h, w), float32 or what becomes it; a pixel of -inf never enters.
        v_max: births after this step count as none; None: all steps.

    Returns:
        (...), int32 births from 1 up; 0 where no hole ever appears: fewer than 3 rows or columns, a constant map, a map
        that falls from its middle to its rim.

    Raises:
        MixbitError: fewer than two dimensions, a NaN, or `v_max` is not a positive number.

    A ring around a dark pixel closes with its darkest pixel, the eighth; beside it the same ring, in three values:

    >>> ring = [[9, 8, 7], [6, 1, 5], [4, 3, 2]]
    >>> int(lattice_birth_times(ring)), int(lattice_birth_times(ring, v_max=7))
    (8, 0)
    >>> int(lattice_birth_times([[3, 3, 3], [2, 0, 2], [1, 1, 1]]))
    3
    """
    array = np.ascontiguousarray(maps, dtype=np.float32)
    if array.ndim < 2:
        raise MixbitError(f"maps have the shape {array.shape}, legal is (..., h, w).")
    limit = step_limit(v_max)
    births = _births(array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:]), limit)
    refuse_nan(births)
    return births.reshape(array.shape[:-2])


def _births(maps: npt.NDArray[np.float32], v_max: int, *, compiled: bool = True) -> npt.NDArray[np.int32]:
    """Births of maps (n, h, w); -1 for a NaN. `compiled=False` is for tests."""
    if min(maps.shape[1:]) < _SMALLEST or not len(maps):
        return np.where(np.isnan(maps).any(axis=(1, 2)), -1, 0).astype(np.int32)
    found = lattice_library() if compiled else None
    if found is not None:
        return compiled_lattice_births(found, maps, v_max)
    return np.array([python_lattice_birth(one, v_max) for one in maps], dtype=np.int32)
