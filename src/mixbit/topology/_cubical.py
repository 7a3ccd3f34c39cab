"""A pixel lattice that grows pixel by pixel, and its first Betti number, in plain Python.

The same algorithm as `_lattice.c`, for machines without a compiler.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixbit.topology._union import UnionFind


class PixelLattice(UnionFind):
    """Cubical complex of the pixels of a (height, width) map that are there: none at first.

    Pixels that share a side are joined by an edge, and four that share a corner span a square. `holes` is the first
    Betti number. The complex lies in the plane, where `pixels - edges + squares = components - holes`, so only the
    components have to be followed.
    """

    def __init__(self, height: int, width: int) -> None:
        self.holes = 0
        self._row = width + 2  # a frame that never enters stands around the map
        self._present = bytearray((height + 2) * self._row)
        self._parent = list(range(len(self._present)))
        down = self._row
        self._around = (1, down + 1, down, down - 1, -1, -down - 1, -down, 1 - down)  # sides have even places

    def insert(self, y: int, x: int) -> None:
        """Add a pixel, and every edge and square that it completes."""
        at = (y + 1) * self._row + x + 1
        there = [self._present[at + step] for step in self._around]
        sides = [k for k in (0, 2, 4, 6) if there[k]]
        squares = sum(there[k + 1] and there[(k + 2) % 8] for k in sides)
        joined = sum(self._join(at, at + self._around[k]) for k in sides)
        self._present[at] = 1
        self.holes += len(sides) - squares - joined


def python_lattice_birth(values: npt.NDArray[np.float32], v_max: int) -> int:
    """Birth of one map (h, w) with a pixel or more; -1 if it has a NaN."""
    flat = values.ravel()
    if np.isnan(flat).any():
        return -1
    order = np.argsort(-flat, kind="stable")
    order = order[flat[order] > flat.min()]
    starts = 1 + np.flatnonzero(flat[order][1:] != flat[order][:-1])
    lattice = PixelLattice(*values.shape)
    for step, group in enumerate(np.split(order, starts), start=1):
        if step > v_max:
            return 0
        for at in group.tolist():
            lattice.insert(*divmod(at, values.shape[1]))
        if lattice.holes:
            return step
    return 0
