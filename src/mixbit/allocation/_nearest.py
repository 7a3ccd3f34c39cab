"""The least that each limit can be, alone or beside the others: what an infeasible budget is answered with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TypeAlias

import numpy as np

from mixbit.allocation._dp import exact_by_rows
from mixbit.allocation._groups import Group, LayerOptions
from mixbit.allocation._ordered import Chain, any_ordered
from mixbit.allocation._problem import Instance, Ints, build
from mixbit.allocation._rows import Row
from mixbit.allocation._search import Effort
from mixbit.allocation._widths import only_widths
from mixbit.cost import MemoryTable

__all__ = ["Reach", "Reached", "Tables"]

Tables: TypeAlias = Callable[
    [Mapping[str, LayerOptions], "MemoryTable | None", Mapping[str, int]], tuple[Sequence[Group], list[Row]]
]
"""Options, a memory table and limits -> groups, and the rows of just these limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The least value of a limit, and where it was found."""

    value: int
    groups: Sequence[Group]
    row: Row
    """The row that is largest then; of flash with the code of the widths in use."""


@dataclass(kw_only=True)
class Reach:
    """Least values by exact search, without scores.

    A limit of one row (BitOps, weight bytes, latency) is minimised under the rows of the others. A peak is the largest
    of many rows, so the smallest bound that all of them can keep is found by bisection. Flash is minimised for every
    set of widths whose code is paid for.

    With `order`, which makes the chains of groups, only choices that keep them count.
    """

    options: Mapping[str, LayerOptions]
    memory: MemoryTable | None
    tables: Tables
    order: Callable[[Sequence[Group]], Sequence[Chain]] | None = None
    deadline: float = field(default_factory=lambda: time.perf_counter() + 60.0)

    def least(self, key: str, others: Mapping[str, int]) -> Reached | None:
        """The smallest value of `key` (an attribute of `Costs`) within `others`; None where nothing is within those."""
        best: Reached | None = None
        for options, memory in self._settings(key, others):
            groups, rows = self.tables(options, memory, {**others, key: 0})  # at 0 no row is left out as not binding
            mine, rest = ([row for row in rows if (row.key == key) is own] for own in (True, False))
            if best is not None and max(row.least for row in mine) >= best.value:
                continue
            choice = None if any(row.least > row.limit for row in rest) else self._choice(groups, mine, rest)
            if choice is not None:
                value, row = max(((_used(row, choice), row) for row in mine), key=lambda found: found[0])
                if best is None or value < best.value:
                    best = Reached(value=value, groups=groups, row=row)
        return best

    def _settings(
        self, key: str, others: Mapping[str, int]
    ) -> Iterator[tuple[Mapping[str, LayerOptions], MemoryTable | None]]:
        """Options and table for every set of widths, where flash counts; all of them otherwise."""
        memory = self.memory
        if memory is None or "flash_bytes" not in {key, *others}:
            yield self.options, memory
            return
        coded = [one for name, one in self.options.items() if memory.needs_code(name)]
        pinned = {bits for one in coded if one.pinned for bits, _ in one.weight}
        free = sorted({bits for one in coded for bits, _ in one.weight} - pinned)
        for number in range(len(free) + 1):
            for some in combinations(free, number):
                kept = only_widths(self.options, pinned.union(some), memory)
                if kept is not None and time.perf_counter() < self.deadline:
                    yield kept, replace(memory, rest=memory.rest + memory.code_bytes(pinned.union(some)))

    def _choice(self, groups: Sequence[Group], mine: Sequence[Row], rest: Sequence[Row]) -> Ints | None:
        """The choice with the smallest largest row of `mine` within `rest`."""
        if len(mine) == 1:
            return self._solved(groups, [*mine, *rest], minimised=True)
        high = self._solved(groups, [*mine, *rest], minimised=True)
        if high is None:
            return None
        low, top = max(row.least for row in mine), max(_used(row, high) for row in mine)
        best = high
        while low < top:
            middle = (low + top) // 2
            found = self._solved(groups, [*(replace(row, limit=middle) for row in mine), *rest], minimised=False)
            if found is None:
                low = middle + 1
            else:
                best, top = found, max(_used(row, found) for row in mine)
        return best

    def _solved(self, groups: Sequence[Group], rows: Sequence[Row], *, minimised: bool) -> Ints | None:
        """Any choice within all rows; `minimised`, that with least of the first row, whose limit is then none."""
        if minimised:
            rows = [rows[0], *(row for row in rows if row.key != rows[0].key)]
        names = [f"{at}" for at in range(len(rows))]
        costs = {name: row.costs for name, row in zip(names, rows, strict=True)}
        limits = {name: row.limit for name, row in zip(names, rows, strict=True)}
        if self.order is not None:
            return any_ordered(costs, limits, self.order(groups), minimised=minimised, deadline=self.deadline)
        scores = [np.zeros(len(group.score)) for group in groups]
        instance: Instance = build(scores, costs, limits, None).instance()[0]
        if minimised:
            instance = instance.minimising(0)
        return exact_by_rows(instance, Effort(deadline=self.deadline))[0].choice


def _used(row: Row, choice: Ints) -> int:
    return sum(int(costs[option]) for costs, option in zip(row.costs, choice.tolist(), strict=True))
