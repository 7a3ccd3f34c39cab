"""NSGA-II on arrays: who survives, who becomes a parent, and what children are made of.

Deb, Pratap, Agarwal, Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on
Evolutionary Computation 6(2), 2002. Less is better in every column of `values`. The operators on genomes are ours:
children take each gene of either parent, and mutate along the order of its choices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixbit._pareto import non_dominated

Genomes = NDArray[np.int64]
"""`(n, genes)`, each gene the number of its choice, from 0."""
Indices = NDArray[np.int64]
Values = NDArray[np.float64]


def ranks(values: Values) -> Indices:
    """The number of the front that each row is in: 0 is beaten by none, 1 by those of 0 alone, and so on.

    >>> ranks(np.array([[1.0, 2], [2, 1], [2, 2], [2, 2], [3, 3]])).tolist()
    [0, 0, 1, 1, 2]
    """
    unique, inverse = np.unique(values, axis=0, return_inverse=True)
    found, left, front = np.zeros(len(unique), dtype=np.int64), np.arange(len(unique)), 0
    while len(left):
        best = non_dominated(unique[left])
        found[left[best]] = front
        left, front = np.delete(left, best), front + 1
    return found[inverse.reshape(-1)]


def crowding(values: Values) -> Values:
    """Sum over the objectives of the distance between both neighbours, in parts of the range; the ends are infinite.

    >>> crowding(np.array([[0.0, 4], [1, 3], [4, 0]])).tolist()
    [inf, 2.0, inf]
    """
    found = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        span = ordered[-1] - ordered[0]
        if span > 0:
            found[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
            found[order[[0, -1]]] = np.inf
    return found


def thinned(values: Values, room: int) -> Indices:
    """Rows of one front that stay: equal ones go first, then the most crowded, one after the other.

    >>> thinned(np.array([[0.0, 10], [1, 9], [2, 8], [2, 8], [6, 4], [10, 0]]), 4).tolist()
    [0, 2, 4, 5]
    """
    _, first = np.unique(values, axis=0, return_index=True)
    kept = np.sort(first)
    if len(kept) < room:
        return np.sort(np.concatenate([kept, np.delete(np.arange(len(values)), kept)[: room - len(kept)]]))
    while len(kept) > room:
        distances = crowding(values[kept])
        kept = np.delete(kept, len(kept) - 1 - np.argmin(distances[::-1]))  # of equal ones the last
    return kept


def survivors(values: Values, room: int) -> Indices:
    """Rows that live on: front by front, of the last one that has room the least crowded.

    >>> survivors(np.array([[3.0, 3], [1, 2], [2, 1], [2, 2]]), 3).tolist()
    [1, 2, 3]
    """
    rank, found = ranks(values), np.zeros(0, dtype=np.int64)
    for front in range(int(rank.max()) + 1):
        members = np.flatnonzero(rank == front)
        if len(found) + len(members) > room:
            members = members[thinned(values[members], room - len(found))]
        found = np.concatenate([found, members])
        if len(found) == room:
            break
    return np.sort(found)


def parents(values: Values, count: int, rng: np.random.Generator) -> Indices:
    """Winners of as many tournaments of two: the earlier front, then the less crowded, then the first drawn."""
    rank, alone = ranks(values), np.zeros(len(values))
    for front in range(int(rank.max()) + 1):
        members = np.flatnonzero(rank == front)
        alone[members] = crowding(values[members])
    one, other = rng.integers(len(values), size=(2, count))
    loses = (rank[other] < rank[one]) | ((rank[other] == rank[one]) & (alone[other] > alone[one]))
    winners: Indices = np.where(loses, other, one)
    return winners


def crossed(one: Genomes, other: Genomes, share: float, rng: np.random.Generator) -> Genomes:
    """Children, a share of which has each gene of either parent with even odds; the rest is the first parent."""
    swap = (rng.random(one.shape) < 0.5) & (rng.random((len(one), 1)) < share)
    children: Genomes = np.where(swap, other, one)
    return children


def mutated(genomes: Genomes, options: Indices, rate: float, rng: np.random.Generator) -> Genomes:
    """Each gene with some probability at another choice: half of the time the next one, else any on that side.

    A third of the genomes changes upwards alone, a third downwards, and in the last third each gene has its own way.
    Genes that go several ways at once cancel in what they cost; those that go one way move along the front, out to its
    ends. A gene that has no choice on its side stays, except in the last third, where it takes the other side.
    """
    way = rng.integers(3, size=(len(genomes), 1))
    up = np.where(way == 2, rng.random(genomes.shape) < 0.5, way == 1)
    up = np.where(way == 2, (up | (genomes == 0)) & (genomes < options - 1), up)
    room = np.where(up, options - 1 - genomes, genomes)
    far = 1 + (rng.random(genomes.shape) * room).astype(np.int64)
    step = np.minimum(np.where(rng.random(genomes.shape) < 0.5, 1, far), room)
    changes = rng.random(genomes.shape) < rate
    children: Genomes = np.where(changes, np.where(up, genomes + step, genomes - step), genomes)
    return children


def drawn(options: Indices, count: int, rng: np.random.Generator) -> Genomes:
    """Genomes at random, each around a level of its own and more or less far from it.

    Were all genes drawn alike, sums over many of them would all be near the middle, and the ends of a front far off.
    """
    level, width = rng.random((2, count, 1))
    place = level + width * (2 * rng.random((count, len(options))) - 1)
    genomes: Genomes = np.clip(np.floor(place * options), 0, options - 1).astype(np.int64)
    return genomes
