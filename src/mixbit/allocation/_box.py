"""OMPQ's relaxation: bits as real numbers in a box; that they are then rounded down is ours.

The harms are linear in the bits, weight bytes too; BitOps are a product of two bits (a square where they are coupled:
the problem is then convex). Solved by SLSQP as in OMPQ's paper and code; the start, the rounding to the options on
offer and the repair of limits that the relaxation does not know are our completion.

Rounding down leaves budget unused, and real bits know nothing of the options: the answer is not the optimum of the
integer programme, and is never called proven. Its bound is that of the integer programme's relaxation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixbit.allocation._groups import Group, Ints
from mixbit.allocation._ordered import Chain, keeps
from mixbit.allocation._rows import Row
from mixbit.allocation.solver import Allocation, solve
from mixbit.errors import PolicyError

__all__ = ["solve_box"]

Floats = npt.NDArray[np.float64]

# Largest distance of a harm from its straight line, relative to the range of the group's harms.
_STRAIGHT = 1e-6
# Real bits this little below an option are that option: the solver stops at its tolerance.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class _Unit:
    """Bits that are one number in all options of a group: of a layer's side, or of several that are tied or coupled."""

    group: int
    columns: tuple[int, ...]
    """Of the group's bits as (options, 2 * layers)."""
    bits: Ints
    """On offer, rising."""


def solve_box(
    groups: Sequence[Group], rows: Sequence[Row], counts: Mapping[str, Mapping[str, int]], chains: Sequence[Chain] = ()
) -> Allocation:
    """Real bits in the box between the fewest and the most on offer, rounded down to options.

    Args:
        groups: with all their options, harms linear in the bits.
        rows: limits. BitOps and weight bytes are in the relaxation; activation bytes jump with the bits, so they are
            kept after rounding, by taking down the bits that cost least harm for what they free.
        counts: "bitops" and "weight_bits" -> layer -> MACs and weights.
        chains: orders to keep.

    Raises:
        PolicyError: harms that are not linear in the bits, or rounding ends outside a limit or an order.
        InfeasibleBudget: no choice at all is within the limits.
    """
    started = time.perf_counter()
    costs = {row.name: row.costs for row in rows}
    limits = {row.name: row.limit for row in rows}
    scores, names = [group.score for group in groups], [group.name for group in groups]
    relaxed = solve(scores, costs, limits, names=names, solver="relax")
    units = [unit for index, group in enumerate(groups) for unit in _units(index, group)]
    slope = np.array([part for index, group in enumerate(groups) for part in _slopes(index, group, units)])
    smooth = [_limit(groups, row, units, counts[row.key]) for row in rows if row.key in counts]
    bits = _real_bits(units, slope, smooth, _falls(groups, units, chains))
    choice = _within(groups, rows, chains, _rounded(groups, units, bits))
    objective = float(sum(score[option] for score, option in zip(scores, choice, strict=True)))
    used = {row.name: _used(row, choice) for row in rows}
    bound = min(relaxed.bound, objective)
    return Allocation(
        choice=tuple(choice),
        objective=objective,
        bound=bound,
        gap=(objective - bound) / (abs(objective) or 1.0),
        slack={row.name: row.limit - used[row.name] for row in rows},
        used=used,
        solver="box",
        proven=False,
        seconds=time.perf_counter() - started,
    )


def _units(index: int, group: Group) -> Iterator[_Unit]:
    table = group.bits.reshape(len(group.score), -1)
    seen: dict[bytes, list[int]] = {}
    for column in range(table.shape[1]):
        if np.ptp(table[:, column]):
            seen.setdefault(table[:, column].tobytes(), []).append(column)
    for columns in seen.values():
        yield _Unit(index, tuple(columns), np.unique(table[:, columns[0]]))


def _slopes(index: int, group: Group, units: Sequence[_Unit]) -> list[float]:
    """Harm of one bit more, for each unit of a group."""
    mine = [unit for unit in units if unit.group == index]
    table = group.bits.reshape(len(group.score), -1)[:, [unit.columns[0] for unit in mine]]
    design = np.concatenate([table.astype(np.float64), np.ones((len(table), 1))], axis=1)
    slopes = np.linalg.lstsq(design, group.score)[0]
    if np.abs(design @ slopes - group.score).max() > _STRAIGHT * np.ptp(group.score):
        raise PolicyError(
            f"box: the harms of {group.name} are not linear in the bits, which solving in real bits needs. Leave the "
            "box out (the exact solver takes any harms), or give harms on a straight line."
        )
    return [float(slope) for slope in slopes[:-1]]


# ------------------------------------------------------------------------------------------------- relaxation


@dataclass(frozen=True, slots=True)
class _Smooth:
    """A limit as a function of the units' real bits."""

    value: Callable[[Floats], float]
    """What is left, in parts of the limit."""
    gradient: Callable[[Floats], Floats]


def _real_bits(units: Sequence[_Unit], slope: Floats, limits: Sequence[_Smooth], falls: Floats) -> Floats:
    from scipy import optimize

    minimize: Any = optimize.minimize  # its stubs know neither lists of constraints nor arrays of any shape
    if not units:
        return np.zeros(0)
    low, high = (np.array([float(unit.bits[end]) for unit in units]) for end in (0, -1))
    constraints: list[dict[str, Any]] = [{"type": "ineq", "fun": one.value, "jac": one.gradient} for one in limits]
    if len(falls):
        constraints.append({"type": "ineq", "fun": lambda x: falls @ x, "jac": lambda _: falls})
    scale = float(np.abs(slope * (high - low)).max()) or 1.0
    found = minimize(
        lambda x: float(slope @ x) / scale,
        _start(low, high, limits),
        jac=lambda _: slope / scale,
        bounds=list(zip(low, high, strict=True)),
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    bits: Floats = np.clip(np.where(np.isfinite(found.x), found.x, low), low, high)
    return bits


def _limit(groups: Sequence[Group], row: Row, units: Sequence[_Unit], counts: Mapping[str, int]) -> _Smooth:
    """A row as the sum over layers of count * weight bits * activation bits (of weight bytes: * 1)."""
    place = {(unit.group, column): number for number, unit in enumerate(units) for column in unit.columns}
    terms = []
    for index, group in enumerate(groups):
        for at, name in enumerate(group.layers):
            w, a = (place.get((index, 2 * at + side), -1) for side in range(2))
            w_bits, a_bits = group.bits[0, at].tolist()
            if row.key == "weight_bits":
                a, a_bits = -1, 1
            terms.append((counts[name], w, w_bits, a, a_bits))
    table = np.array(terms, dtype=np.int64)
    room = row.limit - row.constant
    count, fixed, place_of = table[:, 0] / max(1, room), table[:, [2, 4]], table[:, [1, 3]]

    def sides(x: Floats) -> Floats:
        sides: Floats = np.where(place_of >= 0, x[place_of], fixed)
        return sides

    def value(x: Floats) -> float:
        return float(1.0 - count @ sides(x).prod(axis=1))

    def gradient(x: Floats) -> Floats:
        found = np.zeros_like(x)
        both = sides(x)
        for side in range(2):
            free = place_of[:, side] >= 0
            np.subtract.at(found, place_of[free, side], (count * both[:, 1 - side])[free])
        return found

    return _Smooth(value, gradient)


def _falls(groups: Sequence[Group], units: Sequence[_Unit], chains: Sequence[Chain]) -> Floats:
    """Rows of differences of two units that must not be negative."""
    tables = [group.bits.reshape(len(group.score), -1) for group in groups]
    rows = []
    for chain in chains:
        found = [_unit_of(units, tables, *link) for link in zip(chain.groups, chain.values, strict=True)]
        links = [unit for unit in found if unit is not None]
        for before, after in itertools.pairwise(links):
            row = np.zeros(len(units))
            row[before] += 1.0
            row[after] -= 1.0
            rows.append(row)
    return np.array(rows).reshape(len(rows), len(units))


def _unit_of(units: Sequence[_Unit], tables: Sequence[Ints], group: int, values: Ints) -> int | None:
    for number, unit in enumerate(units):
        if unit.group == group and np.array_equal(tables[group][:, unit.columns[0]], values):
            return number
    return None


def _start(low: Floats, high: Floats, limits: Sequence[_Smooth]) -> Floats:
    """The most bits on the way from all at their fewest to all at their most that the limits allow."""
    part, step = 0.0, 0.5
    while step > 1e-3:
        bits = low + (part + step) * (high - low)
        part += step if all(one.value(bits) >= 0 for one in limits) else 0.0
        step /= 2
    start: Floats = low + part * (high - low)
    return start


# --------------------------------------------------------------------------------------------------- rounding


def _rounded(groups: Sequence[Group], units: Sequence[_Unit], bits: Floats) -> list[int]:
    """The option of each group with the most bits that are on offer and not above the real ones."""
    choice = []
    for index, group in enumerate(groups):
        table = group.bits.reshape(len(group.score), -1)
        fits = np.ones(len(table), dtype=np.bool_)
        for unit, real in zip(units, bits, strict=True):
            if unit.group == index:
                below = unit.bits[unit.bits <= real + _ROUNDING]
                fits &= table[:, unit.columns[0]] == (below[-1] if len(below) else unit.bits[0])
        choice.append(int(fits.argmax()))
    return choice


def _within(groups: Sequence[Group], rows: Sequence[Row], chains: Sequence[Chain], choice: list[int]) -> list[int]:
    """The choice, taken down group by group until every limit is kept: least harm for what it frees first."""
    for _ in range(sum(len(group.score) for group in groups)):
        over = _excess(rows, choice)
        if not over and all(keeps(chain, choice) for chain in chains):
            return choice
        moves = [
            ((groups[index].score[option] - groups[index].score[choice[index]]) / (over - left), index, option)
            for index, option in _lower(groups, choice)
            if (left := _excess(rows, moved := [*choice[:index], option, *choice[index + 1 :]])) < over
            and all(keeps(chain, moved) for chain in chains)
        ]
        if not moves:
            break
        _, index, option = min(moves)
        choice = [*choice[:index], option, *choice[index + 1 :]]
    raise PolicyError(
        "box: real bits rounded down are not within all limits and orders. Leave the box out: the exact solver tells "
        "whether anything is."
    )


def _lower(groups: Sequence[Group], choice: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Options with no more bits anywhere than the chosen one."""
    for index, group in enumerate(groups):
        below = (group.bits <= group.bits[choice[index]]).all(axis=(1, 2))
        yield from ((index, int(option)) for option in np.flatnonzero(below) if option != choice[index])


def _excess(rows: Sequence[Row], choice: Sequence[int]) -> float:
    return sum(max(0, _used(row, choice) - row.limit) / max(1, row.limit) for row in rows)


def _used(row: Row, choice: Sequence[int]) -> int:
    return sum(int(costs[option]) for costs, option in zip(row.costs, choice, strict=True))
