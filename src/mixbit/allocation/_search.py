"""Exact search for the best choice within a score target: a list of partial choices that grows group by group.

Every entry of the list is a complete choice: the groups treated so far as decided, all others at the relaxation's base.
So each entry that is within all rows is a feasible choice, and lowers the target at once. An entry is dropped when

* a lower bound on all its completions is above the target. For any prices p at which no group still to come has an
  option cheaper than its base, `score + p . excess` is such a bound. Along each of a few directions from the best
  prices the farthest such p is taken; the fewer groups remain, the farther it is.
* another entry is at most as large in score and in every row (Pareto dominance; complete for one row, between
  neighbours in sorted order for several).

For one row this is close to Pisinger's minimal-core algorithm (A minimal algorithm for the multiple-choice knapsack
problem, EJOR 1995), in array operations; the directional bounds for several rows are our completion.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mixbit.allocation._dual import Frame, weighted
from mixbit.allocation._problem import Bools, Floats, Instance, Ints

__all__ = ["Effort", "Found", "search"]

# Multiplications of one matrix product: large enough that Python does not count, and small enough for the cache and
# for the BLAS to stay in one thread (waking others costs milliseconds on a busy machine).
_PRODUCT = 1 << 18
_CHUNK = 1 << 14
# Longest step along a direction, in units of the best prices: infinity would be rounding noise.
_FARTHEST = 100.0
_NEIGHBOURS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """When to stop, or what to leave out."""

    entries: int = 2_000_000
    """Entries of the longest list that may be held."""
    work: int = 40_000_000
    """Entries made in all."""
    deadline: float = float("inf")
    """`time.perf_counter()` at which to stop."""
    beam: bool = False
    """At the longest list, keep the most promising entries instead of giving up; the search is then not exact."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search brought."""

    choice: Ints | None
    """The best choice found within the target, or None."""
    score: int
    """Its score; where there is no choice, one more than the target."""
    complete: bool
    """True: no choice has a smaller score. False: the search gave up or was a beam."""
    work: int
    """Entries that were made on the way."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One group of the core: its options as differences to its base, the base first."""

    group: int
    options: Ints
    scores: Ints
    costs: Ints
    prices: Floats
    """(d, k) prices that bound all completions once this group is decided."""


@dataclass(slots=True)
class _List:
    score: Ints
    """Score above the base's."""
    excess: Ints
    """(k, entries) use above the room."""
    bound: Floats
    parent: Ints
    option: Ints

    def take(self, keep: Ints | Bools) -> _List:
        return _List(self.score[keep], self.excess[:, keep], self.bound[keep], self.parent[keep], self.option[keep])


@dataclass(slots=True)
class _Walk:
    """The state of one search."""

    target: int
    """Largest score above the base's that is still of interest."""
    noise: float
    trail: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]] = field(default_factory=list)
    """Per step: parent and option of each entry, to read a choice back."""
    best: tuple[int, int, int] | None = None
    """Steps before the best choice, the entry there, and the option that completes it."""
    work: int = 0


def search(instance: Instance, frame: Frame, target: int, effort: Effort, *, first: bool = False) -> Found:
    """The best choice with a score of at most `target`.

    Args:
        instance: what to choose.
        frame: any relaxation of it.
        target: only choices with at most this score are of interest; the smaller, the faster.
        effort: when to give up.
        first: stop at the first choice within the target; it is then not proven best.
    """
    base_score = instance.score(frame.base)
    steps = _plan(instance, frame, target)
    walk = _Walk(target - base_score, _noise(instance, frame))
    entries = _root(instance, frame)
    _record(walk, entries)
    complete = True
    for step in steps:
        if (first and walk.best is not None) or not len(entries.score):
            break
        if walk.work > effort.work or time.perf_counter() > effort.deadline:
            complete = False
            break
        entries = _advance(entries, step, walk, effort.entries)
        if len(entries.score) > effort.entries:
            complete = False
            if not effort.beam:
                break
            entries = entries.take(np.argpartition(entries.bound, effort.entries)[: effort.entries])
        walk.trail.append((entries.parent.astype(np.int32), entries.option.astype(np.int32)))
    choice = _read_back(walk, steps, frame)
    if choice is None:
        return Found(None, target + 1, complete, walk.work)
    return Found(choice, instance.score(choice), complete and not first, walk.work)


def _root(instance: Instance, frame: Frame) -> _List:
    zero = np.zeros(1, dtype=np.int64)
    excess = (instance.used(frame.base) - instance.room)[:, None]
    return _List(zero, excess, np.zeros(1), zero, zero)


def _noise(instance: Instance, frame: Frame) -> float:
    """Rounding of the float bounds: an entry is dropped only beyond it."""
    farthest = (1.0 + _FARTHEST) * _price_units(instance, frame)
    use = np.abs(instance.room.astype(np.float64)) + instance.costs.max(axis=2, initial=0).sum(axis=1)
    score = float(instance.scores.max(axis=1, initial=0).sum())
    return 1.0 + (score + float(farthest @ use)) * 2.0**-50


# ------------------------------------------------------------------------------------------------------- plan


def _plan(instance: Instance, frame: Frame, target: int) -> list[_Step]:
    """The groups that have more than one useful option, most undecided first, and the prices after each."""
    groups = np.arange(len(frame.base))
    useful = frame.reduced <= target - frame.bound + frame.noise
    useful[groups, frame.base] = False
    second = np.where(useful, frame.reduced, np.inf).min(axis=1)
    core = np.flatnonzero(np.isfinite(second))
    core = core[np.argsort(second[core], kind="stable")]
    scores = instance.scores - instance.scores[groups, frame.base][:, None]
    costs = instance.costs - instance.costs[:, groups, frame.base][:, :, None]
    prices = _prices_after(instance, frame, useful[core], costs[:, core], frame.reduced[core])
    steps = []
    for position, group in enumerate(core):
        options = np.concatenate([frame.base[group : group + 1], np.flatnonzero(useful[group])])
        steps.append(_Step(int(group), options, scores[group, options], costs[:, group, options], prices[position]))
    return steps


def _prices_after(instance: Instance, frame: Frame, useful: Bools, costs: Ints, reduced: Floats) -> Floats:
    """(steps, d, k): the farthest prices along each direction at which all groups after the step prefer their base."""
    directions = _directions(len(instance.room)) * _price_units(instance, frame)
    farthest = np.full((len(directions), len(useful) + 1), _FARTHEST)
    for number, direction in enumerate(directions):
        fall = -weighted(direction, costs)
        cheaper = useful & (fall > 0)
        step = np.where(cheaper, reduced / np.where(cheaper, fall, 1.0), np.inf).min(axis=1, initial=np.inf)
        farthest[number, :-1] = np.minimum(step, _FARTHEST)
        # Prices must not fall below zero.
        down = direction < 0
        farthest[number, -1] = min([_FARTHEST, *(frame.price[down] / -direction[down])])
    after = np.minimum.accumulate(farthest[:, ::-1], axis=1)[:, ::-1][:, 1:]
    prices: Floats = np.maximum(0.0, frame.price + after.T[:, :, None] * directions)
    return prices


def _directions(rows: int) -> Floats:
    """All sign vectors for few rows; single rows and all together for many. Some direction fits every excess."""
    if rows <= 3:
        directions: Floats = np.array([sign for sign in itertools.product((-1.0, 0.0, 1.0), repeat=rows) if any(sign)])
        return directions
    single = np.eye(rows)
    return np.concatenate([single, -single, np.ones((1, rows)), -np.ones((1, rows))])


def _price_units(instance: Instance, frame: Frame) -> Floats:
    """(k,) how far to go in each price: its own size, or for a row without a price a small typical one."""
    scores = float(instance.scores.max(axis=1, initial=0).sum())
    costs = instance.costs.max(axis=2, initial=0).sum(axis=1).astype(np.float64)
    units: Floats = np.maximum(frame.price, 1e-3 * scores / np.maximum(costs, 1.0))
    return units


# ---------------------------------------------------------------------------------------------------- advance


def _advance(entries: _List, step: _Step, walk: _Walk, most: int) -> _List:
    """All useful entries after deciding one more group; some more than `most` where there are that many."""
    parts: list[_List] = []
    made = 0
    for part in _children(entries, step, walk):
        _record(walk, part)
        parts.append(part)
        made += len(part.score)
        if made > max(4 * most, 1_000_000):
            break
    joined = _List(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in _List.__slots__))
    walk.work += len(joined.score)
    # The target may have fallen since the first chunks were made.
    joined = joined.take(joined.bound <= walk.target + walk.noise)
    return _undominated(joined)


def _children(entries: _List, step: _Step, walk: _Walk) -> Iterator[_List]:
    width = max(1, min(_CHUNK, _PRODUCT // step.prices.size) // len(step.options))
    for start in range(0, len(entries.score), width):
        score = (step.scores[:, None] + entries.score[start : start + width]).ravel()
        excess = step.costs[:, :, None] + entries.excess[:, None, start : start + width]
        count = excess.shape[2]
        excess = excess.reshape(len(excess), -1)
        bound = score + (step.prices @ excess.astype(np.float64)).max(axis=0)
        keep = np.flatnonzero(bound <= walk.target + walk.noise)
        yield _List(score[keep], excess[:, keep], bound[keep], keep % count + start, keep // count)


def _record(walk: _Walk, entries: _List) -> None:
    """Note the best feasible entry, and ask for a better one from now on."""
    score = np.where((entries.excess <= 0).all(axis=0), entries.score, np.iinfo(np.int64).max)
    if not len(score):
        return
    at = int(score.argmin())
    if score[at] <= walk.target:
        walk.target = int(score[at]) - 1
        walk.best = (len(walk.trail), int(entries.parent[at]), int(entries.option[at]))


def _undominated(entries: _List) -> _List:
    order = np.argsort(_sort_key(entries.excess))
    entries = entries.take(order)
    if len(entries.excess) == 1:
        least = np.minimum.accumulate(entries.score)
        keep = np.ones(len(order), dtype=np.bool_)
        keep[1:] = least[1:] < least[:-1]
        return entries.take(keep)
    values = np.concatenate([entries.score[None], entries.excess[1:]])
    keep = np.ones(len(order), dtype=np.bool_)
    for back in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        # Sorted by the first row, so an earlier entry is at most as large there.
        keep[back:] &= ~(values[:, :-back] <= values[:, back:]).all(axis=0)
    return entries.take(keep)


def _sort_key(excess: Ints) -> Ints:
    """The first row; then the second one where both fit into one integer."""
    key: Ints = excess[0]
    if len(excess) == 1 or not excess.size:
        return key
    first, second = (row - row.min() for row in excess[:2])
    span = int(second.max()) + 1
    if int(first.max()) * span + span < 2**62:
        key = first * span + second
    return key


# -------------------------------------------------------------------------------------------------- read back


def _read_back(walk: _Walk, steps: list[_Step], frame: Frame) -> Ints | None:
    if walk.best is None:
        return None
    choice = frame.base.copy()
    done, entry, option = walk.best
    if done < len(steps):
        choice[steps[done].group] = steps[done].options[option]
    for step, (parents, options) in zip(steps[:done][::-1], walk.trail[:done][::-1], strict=True):
        choice[step.group] = step.options[options[entry]]
        entry = int(parents[entry])
    return choice
