"""Policies under limits of a device: chosen by a table, then laid out as C, which has the last word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

from mixbit.allocation import AllocationSettings, Decision, decide
from mixbit.cost import ON_DEVICE, Budget, LayerBits, Limit, MemoryTable, Pins, RamStep, uniform_bits
from mixbit.errors import InfeasibleBudget, PolicyError
from mixbit.export.c._options import COptions
from mixbit.export.c.budgets import memory_table
from mixbit.export.c.sizes import Footprint, footprint
from mixbit.integer import IntegerGraph
from mixbit.network import Network
from mixbit.policy import LayerScores, Policy, Scores, Terms

__all__ = ["Fitted", "Layouts", "allocate_to_fit"]

_TRIES = 12
"""Policies that are laid out one by one, each charged for itself."""
_WIDER = 6
"""Policies after these, with a margin on all others."""
_APART = 3
"""Searches that are charged for their own policies alone; each costs more than a choice by scores."""

Lower: TypeAlias = Callable[[Mapping[str, LayerBits]], IntegerGraph]
_Found: TypeAlias = tuple[Decision, Footprint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A policy whose C was laid out and found to fit."""

    decision: Decision
    """Its limits and costs are those of the table with all layouts in it."""
    footprint: Footprint
    """What the C takes."""


def allocate_to_fit(
    network: Network,
    scores: Scores,
    budget: Budget,
    lower: Lower,
    settings: AllocationSettings = AllocationSettings(),  # noqa: B008 (frozen)
    *,
    options: COptions,
) -> Fitted:
    """The policy of least harm whose C was laid out and found to fit.

    The table is a sum of parts. Where tensors cannot be placed without gaps, or readers of one tensor want different
    bits, the layout takes more; that is counted to the activation bits that were laid out, and the next best policy is
    chosen. If a dozen of them do not fit, a margin on all that were not laid out leads on faster. Before a limit is
    said to be out of reach, the lowest bits and uniform networks are laid out.

    Args:
        network: as the scores know it.
        scores: as in `mixbit.allocation.allocate`.
        budget: limits on flash, RAM or both, among others. `3x4` is what the layout of that uniform network takes.
        lower: bits of every layer -> the integer graph, as `mixbit.integer.lower_at` makes it.
        settings: as in `mixbit.allocation.allocate`; the table of memory is made here.
        options: how the network will be written.

    Raises:
        InfeasibleBudget: no policy was found that fits.
        MixbitError: as `mixbit.allocation.allocate`.
    """
    pins = settings.pinned(network)
    fitting = _Fitting(network, scores, budget, lower, replace(settings, pins=pins, first_last=None), options)
    candidates = _candidates(network, scores, pins)
    try:
        found = fitting.one_by_one() or fitting.with_margin()
    except InfeasibleBudget as error:
        found = fitting.among(candidates)
        if found is None:
            raise fitting.out_of_reach(error) from error
    found = found or fitting.among(candidates)
    if found is None:
        raise fitting.out_of_reach(None)
    return Fitted(decision=fitting.counted(found[0]), footprint=found[1])


def _candidates(network: Network, scores: Scores, pins: Pins) -> list[dict[str, LayerBits]]:
    """What is laid out before a limit is said to be out of reach: the lowest bits, and uniform networks."""
    free = {name: one for name, one in scores.layers.items() if name not in pins}
    if not free:
        return []
    sides = [[set(one.weight) for one in free.values()], [set(one.activation) for one in free.values()]]
    both = [sorted(set.intersection(*side)) for side in sides]
    uniform = [
        uniform_bits(network, LayerBits(w, a), pins) for w, a in product(*both) if w == a or w == a == both[0][0]
    ]
    lowest = {name: LayerBits(min(one.weight), min(one.activation)) for name, one in free.items()}
    return [{layer.name: (dict(pins) | lowest)[layer.name] for layer in network.layers}, *uniform]


class Layouts:
    """Layouts as C that were made, and the table of flash and RAM with what they take.

    First come those of uniform networks that limits name: `ram=3x4` is what the layout of that network takes.

    Args:
        network: the captured network.
        budget: limits on flash, RAM or both, among others.
        lower: as in `allocate_to_fit`.
        terms: pins, ties and measured times.
        options: how the network will be written.

    Raises:
        BudgetError: a pin that matches no layer.
        ExportError: an operation that has no C.
    """

    def __init__(self, network: Network, budget: Budget, lower: Lower, terms: Terms, *, options: COptions) -> None:
        self._network, self._budget, self._lower, self._options = network, budget, lower, options
        self._terms = terms
        self.memory = memory_table(network, lower, options=options)
        self._seen: dict[str, Footprint] = {}
        pins = terms.pinned(network)
        for limit in _on_device(budget):
            if limit.uniform is not None:
                self.lay_out(uniform_bits(network, LayerBits(*limit.uniform), pins))
        self.limits = {
            one.kind: one.resolve(network, pins, terms.macs, memory=self.memory) for one in _on_device(budget)
        }

    def lay_out(self, layers: Mapping[str, LayerBits]) -> Footprint:
        """Flash and RAM of a policy, put down in the table."""
        key = repr(sorted((name, str(bits)) for name, bits in layers.items()))
        if key not in self._seen:
            found = self._seen[key] = footprint(self._lower(layers), options=self._options)
            self.memory = self.memory.laid_out(self._network, layers, found.flash_bytes, found.ram_bytes)
        return self._seen[key]

    def fits(self, found: Footprint) -> bool:
        """Whether a layout is within the limits."""
        used = {"flash": found.flash_bytes, "ram": found.ram_bytes}
        return all(used[kind] <= limit for kind, limit in self.limits.items())

    def widen(self, found: Footprint, bare: MemoryTable, layers: Mapping[str, LayerBits]) -> None:
        """Take what a layout took more than the table said off for all policies that were not laid out."""
        over = found.ram_bytes - bare.ram(self._network, layers)
        self.memory = replace(self.memory, ram_margin=self.memory.ram_margin + max(0, over))

    @property
    def terms(self) -> Terms:
        """What a policy is counted under, with the table as it is now."""
        return replace(self._terms, memory=self.memory)

    def search(self, search: Callable[[Terms], Policy]) -> Policy:
        """The policy that a search under the budget ends in, laid out and found to fit.

        The table, by which the search counts, is a sum of parts. Where the layout of what was found takes more, that is
        put down in the table, later with a margin on all other policies, and it searches again. With a ledger it need
        not measure a policy twice.

        Args:
            search: terms -> the best policy within the budget under them.

        Raises:
            InfeasibleBudget: no policy was found that fits.
        """
        for number in range(_TRIES):
            bare = replace(self.memory, layouts={})
            try:
                policy = search(self.terms)
            except InfeasibleBudget as error:
                raise self.out_of_reach(error) from error
            found = self.lay_out(policy.layers)
            if self.fits(found):
                return replace(policy, costs=self.terms.cost_table(self._network, policy.layers))
            if number + 1 >= _APART:
                self.widen(found, bare, policy.layers)
        raise self.out_of_reach(None)

    def out_of_reach(self, error: InfeasibleBudget | None) -> InfeasibleBudget:
        """The error, with what the smallest layout takes."""
        least = {
            "flash": min(one.flash_bytes for one in self._seen.values()) if self._seen else 0,
            "ram": min(one.ram_bytes for one in self._seen.values()) if self._seen else 0,
        }
        if error is not None and (not self._seen or any(self.fits(one) for one in self._seen.values())):
            return error  # nothing came as far, or it is another limit that cannot be met
        shown = " and ".join(f"{least[kind]} bytes of {kind}" for kind in self.limits)
        text = f"{len(self._seen)} policies were laid out as C, and none is within all limits: the least are {shown}."
        if error is None:
            return InfeasibleBudget(f"{text} Raise the limits.", nearest=dict(least), blocking=[])
        nearest = {**error.nearest, **{kind: least[kind] for kind in self.limits if self._seen}}
        return InfeasibleBudget(f"{error} {text}", nearest=nearest, blocking=list(error.blocking))


class _Fitting(Layouts):
    """Choices by scores, each laid out."""

    def __init__(
        self,
        network: Network,
        scores: Scores,
        budget: Budget,
        lower: Lower,
        settings: AllocationSettings,
        options: COptions,
    ) -> None:
        super().__init__(network, budget, lower, settings, options=options)
        self._scores, self._settings = scores, settings

    def _decide(self) -> Decision:
        """The best policy by the table."""
        return decide(self._network, self._scores, self._budget, replace(self._settings, memory=self.memory))

    def _just(self, layers: Mapping[str, LayerBits], found: Footprint) -> Decision:
        """These bits and no others, by a table that says of them what their layout takes."""
        flash = min(0, found.flash_bytes - self.memory.flash(layers))
        steps = (RamStep(name="the layout", constant=found.ram_bytes, tensors={}),)
        memory = replace(self.memory, rest=self.memory.rest + flash, steps=steps, ram_margin=0, layouts={})
        settings = replace(self._settings, memory=memory, repair="none", or_uniform=False)
        return decide(self._network, _at(self._scores, layers), self._budget, settings)

    def counted(self, found: Decision) -> Decision:
        """Limits and costs by the table as it is now, with what the layouts were found to take."""
        settings = replace(self._settings, memory=self.memory)
        return replace(
            found,
            limits=settings.limits(self._network, self._budget),
            costs=settings.costs(self._network, found.policy.layers),
        )

    def one_by_one(self) -> _Found | None:
        """The best policy that fits: every layout that does not is charged to its own bits alone.

        Raises:
            InfeasibleBudget: no policy is left.
        """
        for _ in range(_TRIES):
            decision = self._decide()
            found = self.lay_out(decision.policy.layers)
            if self.fits(found):
                return decision, found
        return None

    def with_margin(self) -> _Found | None:
        """A policy that fits, where many in a row do not: what the last one took too much is taken off for all."""
        for _ in range(_WIDER):
            try:
                decision = self._decide()
            except InfeasibleBudget:
                return None
            layers, bare = decision.policy.layers, replace(self.memory, layouts={})
            found = self.lay_out(layers)
            if self.fits(found):
                return decision, found
            self.widen(found, bare, layers)
        return None

    def among(self, candidates: Sequence[Mapping[str, LayerBits]]) -> _Found | None:
        """The least harmful of some policies that fit, whatever the sums of their parts are."""
        best: _Found | None = None
        for layers in candidates:
            found = self.lay_out(layers)
            if not self.fits(found):
                continue
            try:
                decision = self._just(layers, found)
            except (InfeasibleBudget, PolicyError):  # another limit, or bits that the scores do not offer
                continue
            if best is None or decision.allocation.objective < best[0].allocation.objective:
                best = _told(decision), found
        return best


def _at(scores: Scores, layers: Mapping[str, LayerBits]) -> Scores:
    """The scores of one choice alone."""
    found = {
        name: LayerScores(
            weight={bits: harm for bits, harm in one.weight.items() if bits == layers[name].weight_bits},
            activation={bits: harm for bits, harm in one.activation.items() if bits == layers[name].activation_bits},
        )
        for name, one in scores.layers.items()
    }
    return replace(scores, layers=found)


def _told(found: Decision) -> Decision:
    """The decision with a note of how it came about, and without a proof."""
    note = (
        "no policy that the solver chose could be laid out within the limits: the best of the lowest and uniform bits"
    )
    policy: Policy = replace(
        found.policy, notes=[*found.policy.notes, note], allocation={**found.policy.allocation, "proven": False}
    )
    return replace(found, policy=policy, allocation=replace(found.allocation, proven=False))


def _on_device(budget: Budget) -> list[Limit]:
    return [limit for limit in budget.limits if limit.kind in ON_DEVICE]
