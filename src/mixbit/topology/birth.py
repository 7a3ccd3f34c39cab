"""Birth time of the first one-dimensional hole of a map read as a weighted graph."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError
from mixbit.topology._checks import refuse_nan, step_limit
from mixbit.topology._complex import CliqueComplex, python_birth
from mixbit.topology._library import compiled_births, library

__all__ = ["birth_times", "first_betti"]


def birth_times(maps: npt.ArrayLike, *, v_max: int | None = None) -> npt.NDArray[np.int32]:
    """Step at which the first one-dimensional hole appears in the graph of each map.

    A map `U` (m, m) is a graph on m vertices: edge {j, k} weighs `max(U[j, k], U[k, j])`, the diagonal is ignored
    (Zhao and Zhang, ICLR 2022, section 3.1). Edges enter from the heaviest to the lightest; step v adds all edges of
    the v-th distinct weight. Every clique is filled. The birth time is the first step v after which the first Betti
    number over GF(2) is not zero.

    It is found without a homology package: an edge that enters alone makes a hole exactly when its ends are connected
    already and have no common neighbour (our completion; exact, also for ties). It does not change when the map is
    transposed, its vertices are renamed, or its values go through an increasing function.

    Args:
        maps: (..., m, m), float32 or what becomes it; an entry of -inf on both sides is an edge that never enters.
        v_max: births after this step count as none. None: all steps (our completion; the released code of Zhao and
            Zhang counts from 0 and stops at 50, so that a birth at our step 51 still counts: 51 is its value here. It
            also stops after `ceil(0.8 C(m, 2))` steps, whichever comes first; we have no such cut).

    Returns:
        (...), int32 births from 1 up; 0 where no hole ever appears: fewer than 4 vertices, a constant map, a map with
        one bright row.

    Raises:
        MixbitError: the maps are not square, have a NaN off their diagonal, or `v_max` is not a positive number.

    The circle on four vertices, then its two chords:

    >>> circle = [[0, 6, 1, 3], [0, 0, 5, 2], [0, 0, 0, 4], [0, 0, 0, 0]]
    >>> int(birth_times(circle)), int(birth_times(circle, v_max=3))
    (4, 0)
    """
    array = np.ascontiguousarray(maps, dtype=np.float32)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        raise MixbitError(f"maps have the shape {array.shape}, legal is (..., m, m). Pad them with topology.square.")
    limit = step_limit(v_max)
    births = _births(array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:]), limit)
    refuse_nan(births)
    return births.reshape(array.shape[:-2])


def _births(maps: npt.NDArray[np.float32], v_max: int, *, compiled: bool = True) -> npt.NDArray[np.int32]:
    """Births of maps (n, m, m); -1 for a NaN. `compiled=False` is for tests."""
    if maps.shape[-1] < 2 or not len(maps):
        return np.zeros(len(maps), dtype=np.int32)
    found = library() if compiled else None
    if found is not None:
        return compiled_births(found, maps, v_max)
    return np.array([python_birth(one, v_max) for one in maps], dtype=np.int32)


def first_betti(adjacency: npt.ArrayLike) -> int:
    """First Betti number over GF(2) of the clique complex of a graph: its holes that no triangles fill.

    Args:
        adjacency: (m, m), true or not zero where two vertices are joined on either side; the diagonal is ignored.

    Raises:
        MixbitError: the matrix is not square.

    >>> import numpy as np
    >>> circle = np.roll(np.eye(5), 1, axis=1)
    >>> first_betti(circle), first_betti(np.ones((5, 5)))
    (1, 0)
    """
    joined = np.asarray(adjacency) != 0
    if joined.ndim != 2 or joined.shape[0] != joined.shape[1]:
        raise MixbitError(f"adjacency has the shape {joined.shape}, legal is (m, m).")
    graph = CliqueComplex(len(joined))
    for a, b in zip(*np.nonzero(np.triu(joined | joined.T, 1)), strict=True):
        graph.insert(int(a), int(b))
    return graph.holes
