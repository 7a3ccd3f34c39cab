"""One allocation: options after repair, groups and rows, the solver that the program asks for, and why nothing fits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from mixbit.allocation._box import solve_box
from mixbit.allocation._explain import dropped, infeasible, jointly_infeasible
from mixbit.allocation._groups import Group, LayerOptions, build_groups
from mixbit.allocation._layouts import solve_with_layouts
from mixbit.allocation._nearest import Reach
from mixbit.allocation._ordered import solve_ordered
from mixbit.allocation._programs import chains, joint_harms
from mixbit.allocation._rows import Row, build_rows
from mixbit.allocation._widths import Solved, solve_with_code
from mixbit.allocation.quadratic import solve_pairs
from mixbit.allocation.repair import RepairHow, repair_monotone
from mixbit.allocation.settings import AllocationSettings
from mixbit.allocation.solver import Allocation, solve
from mixbit.cost import Budget, LatencyTable, LayerBits, MemoryTable, Pins, layer_macs, width
from mixbit.errors import InfeasibleBudget, PolicyError
from mixbit.policy import LayerScores, Scores

if TYPE_CHECKING:
    from mixbit.network import Layer, Network

__all__ = ["Assignment", "layer_options"]

_ON_DEVICE = ("flash_bytes", "ram_bytes")


@dataclass(kw_only=True)
class Assignment:
    """What `mixbit.allocation.allocate` was asked for, checked, with the limits as numbers."""

    network: Network
    scores: Scores
    budget: Budget
    limits: Mapping[str, int]
    pins: Pins
    alpha: float
    repair: RepairHow
    """None where a program has pairs, whatever was asked for."""
    settings: AllocationSettings

    @cached_property
    def options(self) -> dict[str, LayerOptions]:
        """What every layer may choose from, after repair."""
        return self._options(self.repair)

    def _options(self, repair: RepairHow) -> dict[str, LayerOptions]:
        return layer_options(self.network, self.scores, self.pins, alpha=self.alpha, repair=repair)

    @property
    def _device(self) -> MemoryTable | None:
        return None if self.limits.keys().isdisjoint(_ON_DEVICE) else self.settings.memory

    def best(self) -> tuple[Sequence[Group], Allocation, list[str]]:
        """The best choice; and notes, where it is a uniform network since the repair left nothing else.

        Raises:
            InfeasibleBudget: nothing is within the limits; with the nearest limits, and what the repair took away.
        """
        try:
            return *self._solved(self.options), []
        except InfeasibleBudget as error:
            lost = dropped(self.options, self.scores)
            instead = self._uniform() if lost and self.settings.or_uniform else None
            if instead is not None:
                return instead
            raise self._explained(error, lost) from error

    def _explained(self, error: InfeasibleBudget, lost: Sequence[str]) -> InfeasibleBudget:
        reach = Reach(options=self.options, memory=self._bare, tables=self._tables)
        found = infeasible(self.network, self.budget, self.limits, reach, self.pins, self.settings.macs, self._times)
        if found is None:
            if self.scores.program.ordered:
                reach = replace(reach, order=lambda groups: chains(groups, self.options, self.scores.program))
            found = jointly_infeasible(self.budget, self.limits, reach, error)
        if not lost:
            return found
        text = (
            f"{found} The repair {self.repair!r} took away {'; '.join(lost[:_NAMED])}"
            f"{f' and {len(lost) - _NAMED} more' if len(lost) > _NAMED else ''}, which score better than more bits: "
            "repair='isotonic' (--repair isotonic) keeps all bits."
        )
        return InfeasibleBudget(text, nearest=found.nearest, blocking=found.blocking)

    # -- solving

    @property
    def _times(self) -> LatencyTable | None:
        return self.settings.latency if "latency" in self.limits else None

    @property
    def _bare(self) -> MemoryTable | None:
        return None if self._device is None else replace(self._device, layouts={})

    def _tables(
        self, options: Mapping[str, LayerOptions], memory: MemoryTable | None, limits: Mapping[str, int]
    ) -> tuple[Sequence[Group], list[Row]]:
        program, times = self.scores.program, self._times if "latency" in limits else None
        memory = None if set(_ON_DEVICE).isdisjoint(limits) else memory
        groups = build_groups(
            self.network,
            options,
            tied=self.settings.ties,
            macs=self.settings.macs,
            limited=limits,
            keep_all=bool(program.ordered or program.box or program.pairs),
            latency=times,
            memory=memory,
        )
        return groups, build_rows(self.network, groups, limits, 0 if times is None else times.rest, memory)

    def _solved(self, options: Mapping[str, LayerOptions]) -> Solved:
        """The best choice, code of widths and layouts that were made among the limits."""
        device = self._device
        if device is not None and device.layouts:
            return solve_with_layouts(self.network, options, device, self.limits, self._sums, tied=self.settings.ties)
        return self._sums(options, device)

    def _sums(self, options: Mapping[str, LayerOptions], device: MemoryTable | None) -> Solved:
        if device is not None and "flash_bytes" in self.limits:
            return solve_with_code(options, device, self.limits["flash_bytes"], self._rows)
        return self._rows(options, device)

    def _rows(self, options: Mapping[str, LayerOptions], device: MemoryTable | None) -> Solved:
        groups, rows = self._tables(options, device, self.limits)
        if any(row.least > row.limit for row in rows):
            raise InfeasibleBudget("A limit is below the cheapest options.", nearest={}, blocking=[])
        return groups, self._by_program(groups, rows, options)

    def _by_program(
        self, groups: Sequence[Group], rows: Sequence[Row], options: Mapping[str, LayerOptions]
    ) -> Allocation:
        """By the solver that the program asks for."""
        program, settings = self.scores.program, self.settings
        if program.box:
            counts: dict[str, dict[str, int]] = {
                "bitops": {layer.name: layer_macs(layer, settings.macs) for layer in self.network.layers},
                "weight_bits": {layer.name: layer.weights for layer in self.network.layers},
            }
            return solve_box(groups, rows, counts, chains(groups, options, program))
        costs = {row.name: row.costs for row in rows}
        limits = {row.name: row.limit for row in rows}
        names, scores = [group.name for group in groups], [group.score for group in groups]
        if program.pairs:
            own, joint = joint_harms(groups, program.pairs)
            return solve_pairs(own, joint, costs, limits, names=names, exact=settings.exact)
        if program.ordered:
            return solve_ordered(scores, costs, limits, chains(groups, options, program), names=names)
        return solve(scores, costs, limits, names=names, solver=settings.solver)

    # -- uniform networks

    def _uniform(self) -> tuple[Sequence[Group], Allocation, list[str]] | None:
        """The best uniform network within the limits, by the scores as they are."""
        found: tuple[LayerBits, Solved] | None = None
        raw = self._options("none")
        for bits, options in _uniform_options(raw):
            try:
                solved = self._solved(options)
            except InfeasibleBudget:
                continue
            if found is None or solved[1].objective < found[1][1].objective:
                found = bits, solved
        if found is None:
            return None
        bits, (groups, allocation) = found
        bound = min(self._solved(raw)[1].bound, allocation.objective)
        gap = (allocation.objective - bound) / (abs(allocation.objective) or 1.0)
        note = (
            f"the repair {self.repair!r} took away so many bits that nothing is left within the budget: the uniform "
            f"{bits} is taken instead; repair='isotonic' (--repair isotonic) keeps all bits"
        )
        return groups, replace(allocation, bound=bound, gap=gap, proven=False, solver="uniform"), [note]


_NAMED = 5
"""Layers whose lost bits a message names."""


def _uniform_options(options: Mapping[str, LayerOptions]) -> Iterator[tuple[LayerBits, dict[str, LayerOptions]]]:
    """Every pair of bits that all free layers offer, with the options of just these."""
    free = [one for one in options.values() if not one.pinned]
    sides = [[{bits for bits, _ in side} for side in (one.weight, one.activation)] for one in free]
    shared = [set.intersection(*side) if side else set[int]() for side in zip(*sides, strict=True)] or [set(), set()]
    for w, a in product(*map(sorted, shared)):
        if w != a and any(one.coupled for one in free):
            continue
        kept = {
            name: one
            if one.pinned
            else replace(
                one,
                weight=[choice for choice in one.weight if choice[0] == w],
                activation=[choice for choice in one.activation if choice[0] == a],
            )
            for name, one in options.items()
        }
        yield LayerBits(w, a), kept


def layer_options(
    network: Network, scores: Scores, pins: Pins, *, alpha: float, repair: RepairHow
) -> dict[str, LayerOptions]:
    """What every layer may choose from, after repair: harm of weights times alpha, and harm of activations.

    Raises:
        PolicyError: a layer is neither pinned nor in the table.
    """
    missing = [layer.name for layer in network.layers if layer.name not in pins and layer.name not in scores.layers]
    if missing:
        raise PolicyError(
            f"There are no scores for {len(missing)} layers that are not pinned: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Score them, or pin them."
        )
    free = _coupled if scores.program.coupled else _free
    return {
        layer.name: _pinned(layer, pins[layer.name])
        if layer.name in pins
        else free(layer, scores.layers[layer.name], alpha, repair)
        for layer in network.layers
    }


def _pinned(layer: Layer, bits: LayerBits) -> LayerOptions:
    weight, activation = [(width(bits.weight_bits), 0.0)], [(width(bits.activation_bits), 0.0)]
    return LayerOptions(layer=layer, weight=weight, activation=activation, pinned=True)


def _free(layer: Layer, table: LayerScores, alpha: float, repair: RepairHow) -> LayerOptions:
    weight = [(bits, alpha * harm) for bits, harm in _repaired(table.weight, repair)]
    return LayerOptions(layer=layer, weight=weight, activation=_repaired(table.activation, repair))


def _coupled(layer: Layer, table: LayerScores, alpha: float, repair: RepairHow) -> LayerOptions:
    """One decision for both sides: the bits that both offer, at the sum of their harms.

    The sum stands on the side of the weights alone: a choice of equal bits never takes one side without the other.
    """
    curve = {bits: harm + alpha * table.weight[bits] for bits, harm in table.activation.items() if bits in table.weight}
    if not curve:
        raise PolicyError(
            f"{layer.name}: weight and activation must have the same bits, but are scored at {sorted(table.weight)} "
            f"and {sorted(table.activation)}. Score both sides at the same bits, or pin the layer."
        )
    weight = _repaired(curve, repair)
    activation = [(bits, 0.0) for bits, _ in weight]
    return LayerOptions(layer=layer, weight=weight, activation=activation, coupled=True)


def _repaired(curve: Mapping[int, float], repair: RepairHow) -> list[tuple[int, float]]:
    """The curve after repair, without forbidden options."""
    harms = repair_monotone(list(curve), list(curve.values()), repair)
    return [(bits, float(harm)) for bits, harm in zip(curve, harms, strict=True) if math.isfinite(harm)]
