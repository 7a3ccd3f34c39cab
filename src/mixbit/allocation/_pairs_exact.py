"""Proof for small quadratic programmes: branch and bound, and all completions of the last groups at once.

Groups are decided one after the other, in blocks of partial choices. A partial choice is dropped if its harm so far,
the least harm of every later group given what is decided, and half of the least joint harm of each later group with
every other later one add up to more than the best choice known; limits enter with Lagrangian prices. The last groups,
up to some thousand combinations, are not bounded but tried: the harms of a block of partial choices with all
combinations are one matrix product. So 19 groups of 3 options take seconds even where no bound is of use.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np

from mixbit.allocation._pairs_search import Quadratic
from mixbit.allocation._problem import Floats, Ints

__all__ = ["proven_optimum"]

# Combinations of the last groups, and partial choices in one matrix product with them.
_ENDS = 20_000
_PRODUCT = 64
# Partial choices of one block, and entries of the table that branching it makes.
_BLOCK = 1024
_ENTRIES = 4_000_000
# Parts of the problem's size: differences below are rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class _Ends:
    """All combinations of the last groups."""

    columns: Ints
    """(M, groups)"""
    chosen: Floats
    """(columns of the last groups, M): 1 where a combination has a column."""
    first: int
    """The first of these columns."""
    harm: Floats
    """(M,) among themselves, priced."""
    paid: Floats
    """(M,) what of it is prices."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Partial choices of equally many groups."""

    columns: Ints
    """(b, decided)"""
    harm: Floats
    """(b,) so far, priced."""
    bound: Floats

    def take(self, keep: Ints | slice) -> _Block:
        return _Block(self.columns[keep], self.harm[keep], self.bound[keep])


def proven_optimum(problem: Quadratic, best: Ints, price: Floats, deadline: float) -> tuple[Ints, float, bool]:
    """The optimum, a lower bound of it, and whether the search came to its end before the deadline.

    Args:
        problem: what to minimise.
        best: a feasible choice as columns (n,), the better the faster.
        price: (k,) Lagrangian prices, not negative; any are valid, good ones are fast.
        deadline: `time.perf_counter()` at which to stop.
    """
    plan = _Plan(_reordered(problem), price)
    known, value = best, problem.value(best)
    back = _order(problem)
    stack = [plan.root()]
    while stack:
        if time.perf_counter() > deadline:
            bound = min(float(block.bound.min()) for block in stack)
            return known, min(bound, value), False
        block = stack.pop()
        block = block.take(np.flatnonzero(block.bound < value - plan.rounding))
        if not len(block.harm):
            continue
        if block.columns.shape[1] == plan.depth:
            for found in plan.completed(block, value):
                chosen = np.sort(back[found])
                reached = problem.value(chosen)
                if problem.feasible(chosen) and reached < value - plan.rounding:
                    known, value = chosen, reached
        else:
            stack += plan.children(block)
    return known, value, True


def _order(problem: Quadratic) -> Ints:
    """Columns of the problem, those of the groups with most joint harm first."""
    weight = np.add.reduceat(np.abs(problem.joint).sum(axis=1), problem.start[:-1])
    groups = np.argsort(-weight, kind="stable")
    return np.concatenate([np.arange(problem.start[g], problem.start[g + 1]) for g in groups])


def _reordered(problem: Quadratic) -> Quadratic:
    order = _order(problem)
    new = np.cumsum(np.concatenate([[0], np.diff(problem.group[order]) != 0]))
    starts = np.append(np.flatnonzero(np.diff(new, prepend=-1)), len(order))
    joint = problem.joint[np.ix_(order, order)]
    return Quadratic(new, problem.own[order], joint, problem.costs[:, order], problem.limits, starts)


class _Plan:
    """What is the same for all blocks: prices, parts of the bound, and the combinations of the last groups."""

    def __init__(self, problem: Quadratic, price: Floats) -> None:
        self.problem = problem
        self.priced = problem.own + price @ problem.costs
        self.offset = -float(price @ problem.limits)
        self.rounding = _ROUNDING * float(np.abs(self.priced).sum() + np.abs(problem.joint).sum() + abs(self.offset))
        groups = len(problem.start) - 1
        self.least = np.minimum.reduceat(problem.joint, problem.start[:-1], axis=1)
        """(N, n) least joint harm of a column with each group."""
        sizes = np.diff(problem.start)
        self.depth = groups
        while self.depth > 0 and np.prod(sizes[self.depth - 1 :].astype(float)) <= _ENDS:
            self.depth -= 1
        self.ends = self._ends()
        self.block = max(1, min(_BLOCK, _ENTRIES // int(len(self.priced) * sizes.max(initial=1))))

    def root(self) -> _Block:
        nothing, harm = np.zeros((1, 0), dtype=np.int64), np.array([self.offset])
        return _Block(nothing, harm, self._bound(nothing, harm, np.zeros((1, len(self.priced)))))

    def children(self, block: _Block) -> list[_Block]:
        """One group more; the most promising last, where they are taken from."""
        start, end = self.problem.start[block.columns.shape[1] :][:2]
        options = np.arange(start, end)
        rows = np.repeat(np.arange(len(block.harm)), len(options))
        column = np.tile(options, len(block.harm))
        columns = np.concatenate([block.columns[rows], column[:, None]], axis=1)
        field = self._field(block.columns)
        harm = block.harm[rows] + self.priced[column] + field[rows, column]
        grown = _Block(columns, harm, self._bound(columns, harm, field[rows] + self.problem.joint[column]))
        grown = grown.take(np.argsort(-grown.bound, kind="stable"))
        return [grown.take(slice(at, at + self.block)) for at in range(0, len(rows), self.block)]

    def completed(self, block: _Block, value: float) -> list[Ints]:
        """Of each partial choice that has feasible completions below `value` after pricing, the best one."""
        found: list[Ints] = []
        for at in range(0, len(block.harm), _PRODUCT):
            part = block.take(slice(at, at + _PRODUCT))
            total = self._field(part.columns)[:, self.ends.first :] @ self.ends.chosen
            total += self.ends.harm
            low = value - self.rounding - part.harm
            for row in np.flatnonzero(total.min(axis=1) < low):
                ends = np.flatnonzero(total[row] < low[row])
                ends = ends[self._fits(part.columns[row], self.ends.columns[ends])]
                if len(ends):
                    best = ends[(total[row, ends] - self.ends.paid[ends]).argmin()]
                    found.append(np.concatenate([part.columns[row], self.ends.columns[best]]))
        return found

    def _field(self, columns: Ints) -> Floats:
        """(b, N) joint harm of each column with what is decided (b, decided)."""
        field = np.zeros((len(columns), len(self.priced)))
        for group in columns.T:
            field += self.problem.joint[group]
        return field

    def _fits(self, decided: Ints, ends: Ints) -> Ints:
        costs = self.problem.costs
        used = costs[:, decided].sum(axis=1)[:, None] + costs[:, ends].sum(axis=2)
        return np.flatnonzero((used <= self.problem.limits[:, None]).all(axis=0))

    def _bound(self, columns: Ints, harm: Floats, field: Floats) -> Floats:
        decided, start = columns.shape[1], self.problem.start
        if decided == len(start) - 1:
            return harm
        rest = start[decided]
        alone = self.priced[rest:] + self.least[rest:, decided:].sum(axis=1) / 2
        least = np.minimum.reduceat(field[:, rest:] + alone, start[decided:-1] - rest, axis=1)
        bound: Floats = harm + least.sum(axis=1)
        return bound

    def _ends(self) -> _Ends:
        problem, first = self.problem, int(self.problem.start[self.depth])
        options = [range(a, b) for a, b in itertools.pairwise(problem.start[self.depth :].tolist())]
        columns = np.array(list(itertools.product(*options)), dtype=np.int64).reshape(-1, len(options))
        chosen = np.zeros((len(problem.own) - first, len(columns)))
        for group in columns.T:
            chosen[group - first, np.arange(len(columns))] = 1.0
        inside = problem.joint[first:, first:] @ chosen
        harm = self.priced[columns].sum(axis=1) + (chosen * inside).sum(axis=0) / 2
        paid = (self.priced - problem.own)[columns].sum(axis=1)
        return _Ends(columns, chosen, first, harm, paid)
