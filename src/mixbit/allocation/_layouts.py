"""Activation bits whose layout takes more than the sum of its parts: that choice is charged, and no other."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from mixbit.allocation._groups import Group, LayerOptions
from mixbit.allocation.solver import Allocation
from mixbit.cost import LayerBits, MemoryTable, width
from mixbit.errors import InfeasibleBudget

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["solve_with_layouts"]

Solved: TypeAlias = tuple[Sequence[Group], Allocation]
_MOST = 200
"""Choices that are looked at before giving up: each of them has a layout of its own."""


@dataclass(order=True)
class _Node:
    """Some layers' activation bits given, some forbidden; the best choice within, where no layout is charged."""

    score: float
    number: int
    options: Mapping[str, LayerOptions] = field(compare=False)
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


def solve_with_layouts(
    network: Network,
    options: Mapping[str, LayerOptions],
    memory: MemoryTable,
    limits: Mapping[str, int],
    solve: Callable[[Mapping[str, LayerOptions], MemoryTable], Solved],
    *,
    tied: bool,
) -> Solved:
    """The best choice within the limits, where some activation bits take more than the sum of their parts.

    The best choice without the charges is found first. If it is too much with the charge of its activation bits,
    all choices are split into disjoint parts: those that differ in the first tensor's bits, those that agree there and
    differ in the second's, and so on (Lawler 1972, for the K best solutions of a discrete problem), and those with the
    same bits, which are solved again with the charge. Parts are taken by their score, so the first choice that fits is
    the best of all.

    Args:
        network: the captured network.
        options: of every layer.
        memory: with the layouts that were made.
        limits: attribute of `Costs` -> limit.
        solve: finds the best choice by a table without layouts.
        tied: whether layers that read one tensor share its activation bits.

    Raises:
        InfeasibleBudget: no choice fits.
    """
    numbers, bare = count(), replace(memory, layouts={})

    def node(kept: Mapping[str, LayerOptions], table: MemoryTable) -> _Node:
        solved = solve(kept, table)
        return _Node(solved[1].objective, next(numbers), kept, solved)

    nodes, seen = [node(options, bare)], list[dict[str, int]]()
    while nodes and len(seen) < _MOST:
        best = heapq.heappop(nodes)
        used = {"flash_bytes": memory.flash(best.layers), "ram_bytes": memory.ram(network, best.layers)}
        if all(used[key] <= limit for key, limit in limits.items() if key in used):
            return best.solved
        seen.append(used)
        for part, same in _parts(network, best, tied=tied):
            try:
                heapq.heappush(nodes, node(part, memory.with_layout_of(best.layers) if same else bare))
            except InfeasibleBudget:
                continue
    least = {kind: min(one[f"{kind}_bytes"] for one in seen) for kind in ("flash", "ram") if f"{kind}_bytes" in limits}
    shown = ", ".join(f"{kind}: {size} bytes" for kind, size in least.items())
    raise InfeasibleBudget(
        f"All {len(seen)} choices of activation bits that fit by the sum of their parts take more when they are laid "
        f"out (the least {shown}). Raise the limit.",
        nearest=dict(least),
        blocking=[],
    )


def _parts(network: Network, node: _Node, *, tied: bool) -> Iterator[tuple[Mapping[str, LayerOptions], bool]]:
    """Disjoint sets of options that hold all choices of a node, the last with the activation bits that it found."""
    found, fixed = node.layers, dict(node.options)
    for unit in _units(network, node.options, tied=tied):
        bits = width(found[unit[0]].activation_bits)
        others = {choice for name in unit for choice, _ in fixed[name].activation} - {bits}
        other = _only(fixed, unit, others)
        if other is not None:
            yield other, False
        kept = _only(fixed, unit, {bits})
        if kept is None:
            return
        fixed = kept
    yield fixed, True


def _units(network: Network, options: Mapping[str, LayerOptions], *, tied: bool) -> Iterator[list[str]]:
    """Layers whose activation bits are one decision."""
    for names in network.ties() if tied else [(layer.name,) for layer in network.layers]:
        free = [name for name in names if not options[name].pinned]
        if free:
            yield free


def _only(
    options: Mapping[str, LayerOptions], unit: Sequence[str], bits: Collection[int]
) -> dict[str, LayerOptions] | None:
    """The options with a unit's activation bits among `bits`; None where some layer has none left."""
    kept = dict(options)
    for name in unit:
        one = options[name]
        activation = [choice for choice in one.activation if choice[0] in bits]
        weight = [choice for choice in one.weight if choice[0] in bits] if one.coupled else one.weight
        kept[name] = replace(one, activation=activation, weight=weight)
    shared = set(bits).intersection(*({choice for choice, _ in kept[name].activation} for name in unit))
    return kept if shared and all(kept[name].weight for name in unit) else None
