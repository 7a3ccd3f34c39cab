"""Union-find over numbered vertices, for the pure routines of both readings of a map."""

from __future__ import annotations


class UnionFind:
    """Which vertices hang together; a subclass fills `_parent` with each vertex's own number."""

    _parent: list[int]

    def _join(self, a: int, b: int) -> bool:
        """Whether the two were apart."""
        root, other = self._find(a), self._find(b)
        self._parent[root] = other
        return root != other

    def _find(self, v: int) -> int:
        while self._parent[v] != v:
            self._parent[v] = self._parent[self._parent[v]]
            v = self._parent[v]
        return v
