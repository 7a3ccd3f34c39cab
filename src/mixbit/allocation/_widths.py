"""Code that a device needs once for every width of weights in use: a fixed charge, beside what each layer costs."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from typing import TypeAlias

from mixbit.allocation._groups import Group, LayerOptions
from mixbit.allocation.solver import Allocation
from mixbit.cost import LayerBits, MemoryTable
from mixbit.errors import InfeasibleBudget, PolicyError

__all__ = ["Solve", "Solved", "only_widths", "solve_with_code"]

Solved: TypeAlias = tuple[Sequence[Group], Allocation]
Solve: TypeAlias = Callable[[Mapping[str, LayerOptions], MemoryTable], Solved]
"""The best choice among options, under all limits; flash by the table given."""


@dataclass(order=True)
class _Node:
    """Some widths paid for, some forbidden; what is left open costs nothing, so the score is a lower bound."""

    score: float
    number: int
    paid: frozenset[int] = field(compare=False)
    open: frozenset[int] = field(compare=False)
    solved: Solved = field(compare=False)

    @property
    def layers(self) -> dict[str, LayerBits]:
        """Bits of every layer."""
        groups, allocation = self.solved
        return {
            name: bits
            for group, option in zip(groups, allocation.choice, strict=True)
            for name, bits in group.chosen(option).items()
        }

    def unpaid(self, memory: MemoryTable) -> frozenset[int]:
        """Widths that the choice uses without having paid for their code."""
        return memory.widths(self.layers) - self.paid


def solve_with_code(
    options: Mapping[str, LayerOptions], memory: MemoryTable, limit: int, solve: Solve
) -> tuple[Sequence[Group], Allocation]:
    """The best choice whose weights and whose code fit the flash together.

    Branch and bound over sets of widths. A node lets some widths be used without paying; where the choice that it
    finds fits with all that it owes, no choice below the node is better. Otherwise one unpaid width is paid for in one
    branch and forbidden in the other. Nodes are taken by their score, so the first that fits is the best of all.

    Args:
        options: of every layer.
        memory: flash of weights, of each width's code, and of the rest.
        limit: bytes of flash.
        solve: finds the best choice where code is no matter.

    Raises:
        InfeasibleBudget: no choice fits.
    """
    coded = [one for name, one in options.items() if memory.needs_code(name)]
    pinned = frozenset(bits for one in coded if one.pinned for bits, _ in one.weight)
    widths = frozenset(bits for one in coded for bits, _ in one.weight)
    errors: list[InfeasibleBudget] = []
    numbers, nodes = count(), list[_Node]()

    def enter(paid: frozenset[int], allowed: frozenset[int]) -> None:
        kept = only_widths(options, paid | allowed, memory)
        if kept is None:
            return
        try:
            solved = solve(kept, replace(memory, rest=memory.rest + memory.code_bytes(paid)))
        except InfeasibleBudget as error:
            errors.append(error)
            return
        except PolicyError:
            if widths <= paid | allowed:
                raise
            return  # an order that all widths can keep, and these cannot: another branch has it
        heapq.heappush(nodes, _Node(solved[1].objective, next(numbers), paid, allowed, solved))

    smallest, least = _smallest(options, memory, pinned, widths - pinned)
    if least > limit:
        enter(smallest, frozenset())  # its error tells the bytes
    if not errors:
        enter(pinned, widths - pinned)
    while nodes:
        node = heapq.heappop(nodes)
        unpaid = node.unpaid(memory)
        if not unpaid or memory.flash(node.layers) <= limit:
            return node.solved
        width = max(unpaid, key=lambda bits: (memory.code_bytes([bits]), bits))
        enter(node.paid | {width}, node.open - {width})
        enter(node.paid, node.open - {width})
    raise next((error for error in errors if error.nearest), errors[0])


def _smallest(
    options: Mapping[str, LayerOptions], memory: MemoryTable, pinned: frozenset[int], free: frozenset[int]
) -> tuple[frozenset[int], float]:
    """The set of widths with which the network can take least flash, and that flash."""

    def flash(widths: frozenset[int]) -> float:
        kept = only_widths(options, widths, memory)
        if kept is None:
            return math.inf
        least = (min(memory.weight_bytes(name, bits) for bits, _ in one.weight) for name, one in kept.items())
        return memory.rest + memory.code_bytes(widths) + sum(least)

    sets = (pinned.union(some) for number in range(len(free) + 1) for some in combinations(sorted(free), number))
    sizes = {widths: flash(widths) for widths in sets}
    smallest = min(sizes, key=sizes.__getitem__)
    return smallest, sizes[smallest]


def only_widths(
    options: Mapping[str, LayerOptions], widths: Collection[int], memory: MemoryTable
) -> dict[str, LayerOptions] | None:
    """Options of these widths, None where a layer has none left; pinned layers and those without code keep theirs."""
    kept = {
        name: replace(one, weight=[choice for choice in one.weight if choice[0] in widths])
        if memory.needs_code(name) and not one.pinned
        else one
        for name, one in options.items()
    }
    return kept if all(one.weight for one in kept.values()) else None
