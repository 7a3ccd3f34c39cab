"""A clique complex that grows edge by edge, and its first Betti number, in plain Python.

The same algorithm as `_births.c`, for machines without a compiler, and for single graphs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixbit.topology._union import UnionFind


class CliqueComplex(UnionFind):
    """Clique complex of a graph on `vertices` points, without edges at first.

    Every edge carries its class: a vector over GF(2), as the bits of an integer, whose sum around a cycle says which
    holes the cycle surrounds. `holes` is the first Betti number.
    """

    def __init__(self, vertices: int) -> None:
        self.vertices = vertices
        self.holes = 0
        self._neighbours = [0] * vertices
        self._parent = list(range(vertices))
        self._classes: dict[tuple[int, int], int] = {}
        self._made = 0

    def insert(self, a: int, b: int) -> None:
        """Add the edge {a, b} and every clique that it completes."""
        common = self._neighbours[a] & self._neighbours[b]
        if common:
            self._fill(a, b, common)
        elif not self._join(a, b):
            self._classes[a, b] = self._classes[b, a] = 1 << self._made
            self._made += 1
            self.holes += 1
        self._neighbours[a] |= 1 << b
        self._neighbours[b] |= 1 << a

    def is_cone(self, a: int, b: int) -> bool:
        """Whether one of the two is joined to all others: no hole now or later."""
        return any(self._neighbours[v].bit_count() == self.vertices - 1 for v in (a, b))

    def _fill(self, a: int, b: int, common: int) -> None:
        """The first triangle gives the edge its class; every further one whose sum is not zero kills a class."""
        own = None
        while common and self.holes:
            c = (common & -common).bit_length() - 1
            common &= common - 1
            around = self._classes.get((a, c), 0) ^ self._classes.get((b, c), 0)
            if own is None:
                own = self._classes[a, b] = self._classes[b, a] = around
            elif self._classes[a, b] ^ around:
                self._kill(self._classes[a, b] ^ around)

    def _kill(self, total: int) -> None:
        bit = total & -total
        for edge, own in self._classes.items():
            if own & bit:
                self._classes[edge] = own ^ total
        self.holes -= 1


def python_birth(weights: npt.NDArray[np.float32], v_max: int) -> int:
    """Birth of one map (m, m), m > 1; -1 if it has a NaN off its diagonal."""
    first, second = np.triu_indices(len(weights), 1)
    edges = np.maximum(weights[first, second], weights[second, first])
    if np.isnan(edges).any():
        return -1
    order = np.argsort(-edges, kind="stable")
    order = order[edges[order] > edges.min()]
    starts = 1 + np.flatnonzero(edges[order][1:] != edges[order][:-1])
    graph = CliqueComplex(len(weights))
    for step, group in enumerate(np.split(order, starts), start=1):
        if step > v_max:
            return 0
        for a, b in zip(first[group].tolist(), second[group].tolist(), strict=True):
            graph.insert(a, b)
            if graph.is_cone(a, b):
                return 0
        if graph.holes:
            return step
    return 0
