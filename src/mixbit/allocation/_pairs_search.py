"""Local search for a quadratic programme over one option a group: single and double changes, all evaluated at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from mixbit.allocation._problem import Bools, Floats, Ints

__all__ = ["Quadratic", "search"]

# A change counts from this part of the problem's size on: below, it would be rounding, and the search might not end.
_GAIN = 1e-12
# Entries of double-change tables that one search may look at, which is some seconds; at least a few starts are made.
_WORK = 150_000_000
_FEWEST_ROUNDS, _MOST_ROUNDS, _ROUNDS_PER_OPTION = 6, 150, 3
_FEWEST_KICKED = 2


@dataclass(frozen=True, slots=True)
class Quadratic:
    """One option a group, flat: all options of all groups in their order are N columns."""

    group: Ints
    """(N,) which group an option belongs to."""
    own: Floats
    """(N,) harm of an option by itself."""
    joint: Floats
    """(N, N) symmetric, zero between options of one group."""
    costs: Ints
    """Costs of every option `(k, N)`."""
    limits: Ints
    """Upper limits of the costs `(k,)`."""
    start: Ints
    """(n + 1,) the first option of each group, and N."""

    def value(self, chosen: Ints) -> float:
        """Total harm of the chosen columns (n,)."""
        return float(self.own[chosen].sum() + self.joint[np.ix_(chosen, chosen)].sum() / 2)

    def feasible(self, chosen: Ints) -> bool:
        """Whether chosen columns (n,) keep every limit."""
        return bool((self.costs[:, chosen].sum(axis=1) <= self.limits).all())

    def halves(self) -> Floats:
        """(N,) half of the least joint harm of each option with every other group: valid as a part of any choice."""
        if not len(self.own):
            return np.zeros(0)
        least = np.minimum.reduceat(self.joint, self.start[:-1], axis=1)
        half: Floats = least.sum(axis=1) / 2
        return half


def search(problem: Quadratic, first: Ints, seed: int, deadline: float) -> Ints:
    """The best local optimum from `first`, from random feasible choices, and from kicks of the best one so far.

    Args:
        problem: what to minimise.
        first: a feasible choice as columns (n,).
        seed: of the random starts; the same seed gives the same answer unless the deadline cuts it.
        deadline: `time.perf_counter()` at which to stop.
    """
    random = np.random.default_rng(seed)
    descent = _Descent(problem, deadline)
    best = descent.run(first)
    value = problem.value(best)
    for round_ in range(min(_MOST_ROUNDS, _ROUNDS_PER_OPTION * len(problem.own))):
        if time.perf_counter() > deadline or (round_ >= _FEWEST_ROUNDS and descent.work > _WORK):
            break
        start = _walked(problem, first, random) if round_ % 2 else _kicked(problem, best, random)
        found = descent.run(start)
        reached = problem.value(found)
        if reached < value - descent.least_gain:
            best, value = found, reached
    return best


def _walked(problem: Quadratic, first: Ints, random: np.random.Generator) -> Ints:
    """A random feasible choice: many random changes, of which those that stay within all limits are made."""
    chosen, used = first.copy(), problem.costs[:, first].sum(axis=1)
    count = len(problem.own)
    for column in random.integers(0, count, 4 * count).tolist():
        group = problem.group[column]
        after = used + problem.costs[:, column] - problem.costs[:, chosen[group]]
        if (after <= problem.limits).all():
            chosen[group], used = column, after
    return chosen


def _kicked(problem: Quadratic, best: Ints, random: np.random.Generator) -> Ints:
    """The best choice with a few groups at random options, others taken along only where the limits ask for it."""
    chosen, used = best.copy(), problem.costs[:, best].sum(axis=1)
    kicked: set[int] = set()
    most = int(random.integers(_FEWEST_KICKED, max(2 * _FEWEST_KICKED, len(best) // 4) + 1))
    for column in random.permutation(len(problem.own)).tolist():
        group = int(problem.group[column])
        after = used + problem.costs[:, column] - problem.costs[:, chosen[group]]
        if group not in kicked and column != chosen[group] and (after <= problem.limits).all():
            chosen[group], used = column, after
            kicked.add(group)
        if len(kicked) == most:
            break
    return chosen


class _Descent:
    """Steepest descent: the best single change as long as one helps, else the best double change."""

    def __init__(self, problem: Quadratic, deadline: float) -> None:
        self.problem = problem
        self.deadline = deadline
        self.work = 0
        """Entries of double-change tables looked at."""
        size = np.abs(problem.own).sum() + np.abs(problem.joint).sum()
        self.least_gain = _GAIN * float(size)
        self.apart = problem.group[:, None] < problem.group[None, :]

    def run(self, chosen: Ints) -> Ints:
        """A choice that no single and no double change betters within the limits."""
        problem, chosen = self.problem, chosen.copy()
        field = problem.own + problem.joint[:, chosen].sum(axis=1)
        while time.perf_counter() < self.deadline:
            gain = field - field[chosen[problem.group]]
            moved = problem.costs - problem.costs[:, chosen[problem.group]]
            left = problem.limits - problem.costs[:, chosen].sum(axis=1)
            columns = self._single(gain, moved, left) or self._double(chosen, gain, moved, left)
            if not columns:
                break
            for column in columns:
                group = problem.group[column]
                field += problem.joint[:, column] - problem.joint[:, chosen[group]]
                chosen[group] = column
        return chosen

    def _single(self, gain: Floats, moved: Ints, left: Ints) -> tuple[int, ...]:
        fits: Bools = np.all(moved <= left[:, None], axis=0)
        best = int(np.where(fits, gain, np.inf).argmin())
        return (best,) if fits[best] and gain[best] < -self.least_gain else ()

    def _double(self, chosen: Ints, gain: Floats, moved: Ints, left: Ints) -> tuple[int, ...]:
        """Two groups at once: their changes, and the joint harms between the new and the old options of both."""
        problem = self.problem
        now = chosen[problem.group]
        joint = problem.joint - problem.joint[:, now]
        joint -= joint[now]
        joint += gain[:, None]
        joint += gain[None, :]
        fits: Bools = self.apart & (joint < -self.least_gain)
        for row, room in zip(moved, left, strict=True):
            fits &= row[:, None] <= room - row[None, :]
        self.work += joint.size
        joint[~fits] = np.inf
        one, other = divmod(int(joint.argmin()), len(gain))
        return (one, other) if fits[one, other] else ()
