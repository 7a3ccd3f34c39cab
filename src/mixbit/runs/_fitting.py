"""Policies under limits of a device: chosen by a table, then laid out as C, which has the last word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from mixbit.allocation import Allocation
from mixbit.cost import Budget, LayerBits, Limit, MemoryTable, Pins, RamStep, uniform_bits
from mixbit.errors import BudgetError, InfeasibleBudget, PolicyError
from mixbit.export.c import COptions, Footprint, memory_table, predict
from mixbit.integer import GraphRounding, IntegerGraph, lower_at
from mixbit.network import Network
from mixbit.policy import Policy
from mixbit.runs.inspecting import OpenedModel

__all__ = ["ON_DEVICE", "choose_to_fit"]

ON_DEVICE = ("flash", "ram")
"""Limits that depend on how a network is written."""
_TRIES = 12
"""Policies that are laid out one by one, each charged for itself."""
_WIDER = 6
"""Policies after these, with a margin on all others."""

Choose: TypeAlias = Callable[..., tuple[Policy, Allocation]]
"""`choose(memory)`: the best policy by a table; `choose(memory, layers)`: just these bits, if they meet the budget."""


def choose_to_fit(
    opened: OpenedModel,
    network: Network,
    budget: Budget,
    options: COptions,
    choose: Choose,
    pins: Pins,
    rounding: GraphRounding = "single",
    candidates: Sequence[Mapping[str, LayerBits]] = (),
) -> tuple[Policy, Allocation, MemoryTable, Footprint]:
    """A policy whose C was laid out and found to fit.

    The table is a sum of parts. Where tensors cannot be placed without gaps, or readers of one tensor want different
    bits, the layout takes more; that is counted to the activation bits that were laid out, and the next best policy is
    chosen. If a dozen of them do not fit, a margin on all that were not laid out leads on faster. Before a limit is
    said to be out of reach, the `candidates` are laid out.

    Args:
        opened: the model that the scores are of; its weights do not matter.
        network: as the scores know it.
        budget: limits on flash, RAM or both, among others. `3x4` is what the layout of that uniform network takes.
        options: how the network will be written.
        choose: the best policy by a table.
        pins: under which a limit such as `3x4` is meant.
        rounding: of the export; some roundings take more code.
        candidates: bits of all layers, as the lowest and uniform ones.

    Returns:
        The policy, how the solver came to it, the table by which it was found, and what its C takes.

    Raises:
        BudgetError: the model is not that of the scores.
        InfeasibleBudget: no policy was found that fits.
    """
    if opened.network.fingerprint != network.fingerprint:
        raise BudgetError("The model that the scores' folder names is another one now. Search again, then allocate.")
    fitting = _Fitting(
        network, lower_at(opened.model, opened.network, opened.example, rounding=rounding, apart=True), options, choose
    )
    for limit in _on_device(budget):
        if limit.uniform is not None:
            fitting.lay_out(uniform_bits(network, LayerBits(*limit.uniform), pins))
    fitting.limits = {
        one.kind: one.resolve(network, pins, "exact", memory=fitting.memory) for one in _on_device(budget)
    }
    try:
        found = fitting.one_by_one() or fitting.with_margin()
    except InfeasibleBudget as error:
        found = fitting.among(candidates)
        if found is None:
            raise fitting.out_of_reach(error) from error
    found = found or fitting.among(candidates)
    if found is None:
        raise fitting.out_of_reach(None)
    return found


_Found: TypeAlias = tuple[Policy, Allocation, MemoryTable, Footprint]


class _Fitting:
    """Layouts that were made, and the table with what they take."""

    def __init__(
        self,
        network: Network,
        lower: Callable[[Mapping[str, LayerBits]], IntegerGraph],
        options: COptions,
        choose: Choose,
    ) -> None:
        self._network, self._lower, self._options, self._choose = network, lower, options, choose
        self.memory = memory_table(network, lower, options=options)
        self.limits: dict[str, int] = {}
        self._seen: dict[str, Footprint] = {}

    def lay_out(self, layers: Mapping[str, LayerBits]) -> Footprint:
        """Flash and RAM of a policy, put down in the table."""
        key = repr(sorted((name, str(bits)) for name, bits in layers.items()))
        if key not in self._seen:
            found = self._seen[key] = predict(self._lower(layers), options=self._options)
            self.memory = self.memory.laid_out(self._network, layers, found.flash_bytes, found.ram_bytes)
        return self._seen[key]

    def fits(self, found: Footprint) -> bool:
        """Whether a layout is within the limits."""
        used = {"flash": found.flash_bytes, "ram": found.ram_bytes}
        return all(used[kind] <= limit for kind, limit in self.limits.items())

    def one_by_one(self) -> _Found | None:
        """The best policy that fits: every layout that does not is charged to its own bits alone.

        Raises:
            InfeasibleBudget: no policy is left.
        """
        for _ in range(_TRIES):
            policy, allocation = self._choose(self.memory)
            found = self.lay_out(policy.layers)
            if self.fits(found):
                return policy, allocation, self.memory, found
        return None

    def with_margin(self) -> _Found | None:
        """A policy that fits, where many in a row do not: what the last one took too much is taken off for all."""
        for _ in range(_WIDER):
            try:
                policy, allocation = self._choose(self.memory)
            except InfeasibleBudget:
                return None
            bare = replace(self.memory, layouts={})
            found = self.lay_out(policy.layers)
            if self.fits(found):
                return policy, allocation, self.memory, found
            over = found.ram_bytes - bare.ram(self._network, policy.layers)
            self.memory = replace(self.memory, ram_margin=self.memory.ram_margin + max(0, over))
        return None

    def among(self, candidates: Sequence[Mapping[str, LayerBits]]) -> _Found | None:
        """The least harmful of some policies that fit, whatever the sums of their parts are."""
        best: _Found | None = None
        for layers in candidates:
            found = self.lay_out(layers)
            if not self.fits(found):
                continue
            try:
                policy, allocation = self._choose(self._just(layers, found), layers)
            except (InfeasibleBudget, PolicyError):  # another limit, or bits that the scores do not offer
                continue
            if best is None or allocation.objective < best[1].objective:
                best = _told(policy), replace(allocation, proven=False), self.memory, found
        return best

    def _just(self, layers: Mapping[str, LayerBits], found: Footprint) -> MemoryTable:
        """A table that says of one policy what its layout takes, and of the uniform networks what theirs do."""
        flash = min(0, found.flash_bytes - self.memory.flash(layers))
        steps = (RamStep(name="the layout", constant=found.ram_bytes, tensors={}),)
        return replace(self.memory, rest=self.memory.rest + flash, steps=steps, ram_margin=0, layouts={})

    def out_of_reach(self, error: InfeasibleBudget | None) -> InfeasibleBudget:
        """The error, with what the smallest layout takes."""
        least = {
            "flash": min(one.flash_bytes for one in self._seen.values()) if self._seen else 0,
            "ram": min(one.ram_bytes for one in self._seen.values()) if self._seen else 0,
        }
        if error is not None and any(self.fits(one) for one in self._seen.values()):
            return error  # it is another limit that cannot be met
        shown = " and ".join(f"{least[kind]} bytes of {kind}" for kind in self.limits)
        text = f"{len(self._seen)} policies were laid out as C, and none is within all limits: the least are {shown}."
        if error is None:
            return InfeasibleBudget(f"{text} Raise the limits.", nearest=dict(least), blocking=[])
        nearest = {**error.nearest, **{kind: least[kind] for kind in self.limits if self._seen}}
        return InfeasibleBudget(f"{error} {text}", nearest=nearest, blocking=list(error.blocking))


def _told(policy: Policy) -> Policy:
    note = (
        "no policy that the solver chose could be laid out within the limits: the best of the lowest and uniform bits"
    )
    return replace(policy, notes=[*policy.notes, note], allocation={**policy.allocation, "proven": False})


def _on_device(budget: Budget) -> list[Limit]:
    return [limit for limit in budget.limits if limit.kind in ON_DEVICE]
