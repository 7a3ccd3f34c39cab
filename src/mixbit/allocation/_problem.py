"""The caller's tables, checked once, and the exact integer instance that the solvers work on.

Scores become integers on a grid of 2^-40 of the widest useful difference, so that scores of order 1e-7 and 1e7 are
the same problem, sums have no rounding, and ties between equal layers are ties. Costs stay the caller's integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mixbit.errors import BudgetError, did_you_mean

__all__ = ["GRID_BITS", "Bools", "Floats", "Instance", "Ints", "Problem", "build"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Finer, and rounding noise of the scaling would decide real ties; coarser, and small layers would vanish beside large.
GRID_BITS = 40
# Sums stay below this, which leaves int64 room for one addition.
_LARGEST_SUM = 2**62


@dataclass(frozen=True, slots=True)
class Instance:
    """Pick one open option of each of n groups: least total score, every cost row within its room. All exact integers.

    Costs and scores are measured from the cheapest open option of each group, so nothing is negative.
    """

    scores: Ints
    """Harm of every option of every group `(n, m)`."""
    costs: Ints
    """Costs of every option in every row `(k, n, m)`."""
    room: Ints
    """What every row has left for them `(k,)`."""
    open: Bools
    """(n, m); False for padding and for options that no feasible choice takes."""
    rows: tuple[int, ...]
    """Which limits of the caller the k rows are."""

    def only(self, rows: Sequence[int]) -> Instance:
        """An instance of the same groups under some of the rows (positions in this instance)."""
        keep = list(rows)
        return replace(self, costs=self.costs[keep], room=self.room[keep], rows=tuple(self.rows[row] for row in keep))

    def minimising(self, row: int) -> Instance:
        """An instance of the same groups with one row as the score, under all other rows."""
        others = self.only([other for other in range(len(self.room)) if other != row])
        return replace(others, scores=np.where(self.open, self.costs[row], 0))

    def score(self, choice: Ints) -> int:
        """Total score of a choice (n,) of option numbers."""
        return int(self.scores[np.arange(len(choice)), choice].sum())

    def used(self, choice: Ints) -> Ints:
        """What a choice uses of every row (k,)."""
        used: Ints = self.costs[:, np.arange(len(choice)), choice].sum(axis=1)
        return used

    def feasible(self, choice: Ints) -> bool:
        """Whether a choice is within every row."""
        return bool((self.used(choice) <= self.room).all())

    def cheapest_scores(self) -> Ints:
        """The best choice without any limit; of equal scores the one that uses least of the first row."""
        best = np.where(self.open, self.scores, np.iinfo(np.int64).max)
        tied = best == best.min(axis=1, keepdims=True)
        cost = self.costs[0] if len(self.costs) else np.zeros_like(self.scores)
        choice: Ints = np.where(tied, cost, np.iinfo(np.int64).max).argmin(axis=1)
        return choice


@dataclass(frozen=True, slots=True)
class Problem:
    """The caller's tables as padded arrays."""

    scores: Floats
    """(n, m), inf where forbidden or padding."""
    costs: Ints
    """(k, n, m), 0 where padding."""
    limits: tuple[int, ...]
    limit_names: tuple[str, ...]
    names: tuple[str, ...]

    def objective(self, choice: Ints) -> float:
        """Sum of the caller's scores, correctly rounded."""
        return math.fsum(self.scores[np.arange(len(choice)), choice].tolist())

    def used(self, choice: Ints) -> dict[str, int]:
        """What a choice uses of each limit, in the unlimited integers of Python."""
        groups = np.arange(len(choice))
        return {name: sum(row[groups, choice].tolist()) for name, row in zip(self.limit_names, self.costs, strict=True)}

    def smallest(self) -> list[int]:
        """The least that any choice can use of each limit, one limit at a time."""
        return [sum(row.tolist()) for row in self._group_minima()]

    def instance(self, usable: Bools | None = None) -> tuple[Instance, float]:
        """The integer instance and the caller's score of one grid unit.

        `usable` leaves options out of the instance and of the scaling: a huge score (a hand-made "forbidden") must
        not make the grid coarse.
        """
        usable = np.isfinite(self.scores) if usable is None else usable
        scores, unit = _to_grid(self.scores, usable)
        floor = self._group_minima()
        costs = np.where(usable, self.costs - floor[:, :, None], 0)
        free = [limit - sum(row.tolist()) for limit, row in zip(self.limits, floor, strict=True)]
        room = [max(-_LARGEST_SUM, min(left, _LARGEST_SUM)) for left in free]
        rows = tuple(range(len(room)))
        return Instance(scores, costs, np.array(room, dtype=np.int64), usable, rows), unit

    def _group_minima(self) -> Ints:
        huge = np.iinfo(np.int64).max
        minima: Ints = np.where(np.isfinite(self.scores), self.costs, huge).min(axis=2, initial=huge)
        return minima


def _to_grid(scores: Floats, usable: Bools) -> tuple[Ints, float]:
    low = np.where(usable, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    with np.errstate(over="ignore"):
        above = np.where(usable, scores - np.where(usable, low, 0.0), 0.0)
    span = float(above.max(initial=0.0))
    if not math.isfinite(span):
        raise BudgetError("scores: differences within a group overflow float64. Divide all scores by a constant.")
    steps = 2 ** min(GRID_BITS, 61 - len(scores).bit_length())
    unit = span / steps if span > 0 else 1.0
    # Divide by the span first: span / steps may be subnormal for the tiniest scores.
    grid = np.rint(above / (span or 1.0) * steps).astype(np.int64)
    return grid, unit


def build(
    scores: Sequence[Any],
    costs: Mapping[str, Sequence[Any]],
    limits: Mapping[str, int],
    names: Sequence[str] | None,
) -> Problem:
    """Check everything the caller gave and pad it.

    Raises:
        BudgetError: what was received, which group, what is legal.
    """
    labels = _labels(names, len(scores))
    rows = [_score_row(row, label) for row, label in zip(scores, labels, strict=True)]
    _check_limits(costs, limits)
    width = max((len(row) for row in rows), default=1)
    padded = np.full((len(rows), width), np.inf)
    for group, row in enumerate(rows):
        padded[group, : len(row)] = row
    table = np.zeros((len(limits), len(rows), width), dtype=np.int64)
    for number, name in enumerate(limits):
        _fill_costs(table[number], name, costs[name], rows, labels)
    return Problem(padded, table, tuple(int(limit) for limit in limits.values()), tuple(limits), labels)


def _labels(names: Sequence[str] | None, groups: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"group {number}" for number in range(groups))
    if len(names) != groups:
        raise BudgetError(f"names: got {len(names)} for {groups} groups of scores. Give one name a group, or none.")
    return tuple(names)


def _score_row(row: Any, label: str) -> Floats:
    try:
        array = np.asarray(row, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BudgetError(f"scores of {label}: {error}. Give one 1-D row of numbers a group.") from error
    if array.ndim != 1 or not len(array):
        raise BudgetError(f"scores of {label}: got shape {array.shape}. Give one 1-D row with at least one option.")
    if np.isnan(array).any() or np.isneginf(array).any():
        where = int(np.flatnonzero(~(array > -np.inf))[0])
        raise BudgetError(
            f"scores of {label}: option {where} is {array[where]}. Legal are finite numbers, and inf for a "
            "forbidden option."
        )
    if np.isposinf(array).all():
        raise BudgetError(f"scores of {label}: all {len(array)} options are forbidden (inf). Allow at least one.")
    return array


def _check_limits(costs: Mapping[str, Sequence[Any]], limits: Mapping[str, int]) -> None:
    for name, limit in limits.items():
        if name not in costs:
            raise BudgetError(
                f"limit {name!r} has no costs; costs are given for {sorted(costs)}.{did_you_mean(name, costs)}"
            )
        if isinstance(limit, bool) or not isinstance(limit, int | np.integer):
            raise BudgetError(
                f"limit {name!r}: got {limit!r}. Limits are exact integers; round down and use a finer unit if needed."
            )


def _fill_costs(table: Ints, name: str, rows: Sequence[Any], scores: Sequence[Floats], labels: Sequence[str]) -> None:
    if len(rows) != len(scores):
        raise BudgetError(f"costs[{name!r}]: got {len(rows)} rows for {len(scores)} groups of scores.")
    largest = 0
    for group, (row, score) in enumerate(zip(rows, scores, strict=True)):
        array = _cost_row(row, len(score), f"costs[{name!r}] of {labels[group]}")
        table[group, : len(array)] = array
        largest += int(array.max())
    if largest > _LARGEST_SUM:
        raise BudgetError(
            f"costs[{name!r}]: the largest options add up to {largest}, more than 2^62. Use a coarser unit."
        )


def _cost_row(row: Any, options: int, label: str) -> npt.NDArray[np.integer[Any]]:
    array = np.asarray(row)
    if array.shape != (options,):
        raise BudgetError(f"{label}: got shape {array.shape}, but the group has {options} scores, shape ({options},).")
    if array.dtype.kind not in "iu" and not _whole(row):
        raise BudgetError(
            f"{label}: got dtype {array.dtype}. Costs are exact 64-bit integers: round them in a fine enough unit "
            "(nanoseconds for a latency in ms)."
        )
    if array.min() < 0:
        raise BudgetError(f"{label}: got {array.min()}. Costs must not be negative; shift the limit instead.")
    if array.max() > _LARGEST_SUM:
        raise BudgetError(f"{label}: got {array.max()}, more than 2^62. Use a coarser unit.")
    return array


def _whole(row: Any) -> bool:
    """Whether a row is whole numbers of Python, which NumPy makes floats or objects of where they exceed 64 bits."""
    return not isinstance(row, np.ndarray) and all(isinstance(cost, int) and not isinstance(cost, bool) for cost in row)
