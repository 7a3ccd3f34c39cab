"""Bits of a supernet's sub-networks as genes: what they cost, and the nearest ones within hard limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixbit.allocation import project
from mixbit.cost import Budget, Costs, LayerBits
from mixbit.errors import BudgetError, MixbitError
from mixbit.network import Network
from mixbit.policy import Terms
from mixbit.supernet import SupernetConfig

__all__ = ["COSTS", "Cost", "Genes", "Genome"]

Cost: TypeAlias = Literal[
    "bitops", "weight_bytes", "activation_bytes", "latency", "instructions", "flash_bytes", "ram_bytes"
]
Genome: TypeAlias = NDArray[np.int64]
"""`(genes,)`: the number of a bit-width for each free layer's weights, then for each tensor that free layers read."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """How a cost is counted, and how it is limited."""

    attribute: str
    """Of `Costs`."""
    kind: str
    """Of a limit."""
    unit: str = ""
    """Behind a whole number in a limit's text."""
    measured: str | None = None
    """Unit of the latency table that it needs."""


COSTS: Mapping[str, _Counted] = {
    "bitops": _Counted("bitops", "bitops"),
    "weight_bytes": _Counted("weight_bytes", "weight-bytes"),
    "activation_bytes": _Counted("activation_bytes", "activation-bytes"),
    "latency": _Counted("latency", "latency", "ns", "ns"),
    "instructions": _Counted("latency", "instructions", "", "instructions"),
    "flash_bytes": _Counted("flash_bytes", "flash"),
    "ram_bytes": _Counted("ram_bytes", "ram"),
}
"""What a search may weigh against quality."""


class Genes:
    """One gene for each free layer's weights, and one for each tensor that free layers read; bits rise with a gene.

    Args:
        network: the captured network.
        supernet: what it was trained at.
        limits: budgets as text.
        terms: tables of times and memory, and how MACs are counted. Pins are the supernet's own: its ends have 8 bits,
            or with `first_last` a choice as all layers; and tensors that several layers read have one bit-width.

    Raises:
        BudgetError: a limit that cannot be read, or pins that are not the supernet's.
    """

    def __init__(
        self,
        network: Network,
        supernet: SupernetConfig,
        limits: Sequence[str] = (),
        terms: Terms = Terms(),  # noqa: B008 (frozen)
    ) -> None:
        self.network, self.bits = network, sorted(supernet.bits)
        self.terms = replace(terms, pins={} if supernet.first_last else None, first_last=None, ties=True)
        self.limits = tuple(limits)
        self.budget = Budget.parse(limits) if limits else None
        self.pins = self.terms.pinned(network)
        if ((terms.pins, terms.first_last) != (None, None) and terms.pinned(network) != self.pins) or not terms.ties:
            raise BudgetError(
                "pins and ties of a supernet's sub-networks are those that it was trained with. Leave pins, first_last "
                "and ties of the terms out."
            )
        self.free = [layer for layer in network.layers if layer.name not in self.pins]
        tensors = list(dict.fromkeys(layer.input_tensor for layer in self.free))
        self.tensors = [tensors.index(layer.input_tensor) for layer in self.free]

    @property
    def options(self) -> tuple[int, ...]:
        """Choices of each gene."""
        return (len(self.bits),) * (len(self.free) + len(set(self.tensors)))

    def check(self, costs: Sequence[str] = ()) -> None:
        """Find out before anything is trained whether all can be counted, and whether a policy keeps the limits.

        Args:
            costs: what the search will weigh, of `COSTS`.

        Raises:
            BudgetError: a cost or a limit without its table, with one of another network or unit, or without an option.
            InfeasibleBudget: no policy keeps the limits; with the nearest feasible ones and what blocks them.
        """
        for name in costs:
            self._check_table(name)
        if self.terms.latency is not None or self.terms.memory is not None:
            for genome in self.uniform():  # each layer at each pair of bits
                self.costs(genome)
        if self.budget is not None and self.free:
            self.terms.limits(self.network, self.budget)
            self.repair(np.zeros(len(self.options), dtype=np.int64))

    def _check_table(self, cost: str) -> None:
        wanted, latency = COSTS[cost], self.terms.latency
        if wanted.measured is not None and (latency is None or latency.unit != wanted.measured):
            has = "there is none" if latency is None else f"the table of {latency.target} is in {latency.unit}"
            raise BudgetError(
                f"costs={cost!r} needs a latency table in {wanted.measured}, and {has}. Build one with mixbit latency "
                "build, and give it: --latency TABLE, in Python terms=Terms(latency=...); "
                "latency is of tables in ns, instructions of those in instructions."
            )
        if wanted.attribute in ("flash_bytes", "ram_bytes") and self.terms.memory is None:
            raise BudgetError(
                f"costs={cost!r} needs a memory table: what a device holds depends on how the network is written. "
                "mixbit search makes one; in Python, give terms=Terms(memory=mixbit.export.c.memory_table(...))."
            )

    def costs(self, genome: Genome) -> Costs:
        """What a policy costs, in exact integers."""
        return self.terms.costs(self.network, self.layers(genome))

    def layers(self, genome: Genome) -> dict[str, LayerBits]:
        """Bits of all layers, in execution order."""
        weights, tensors = genome[: len(self.free)], genome[len(self.free) :]
        own = {
            layer.name: LayerBits(self.bits[weights[at]], self.bits[tensors[self.tensors[at]]])
            for at, layer in enumerate(self.free)
        }
        return {layer.name: self.pins.get(layer.name) or own[layer.name] for layer in self.network.layers}

    def genome(self, layers: Mapping[str, LayerBits]) -> Genome:
        """The genes of a policy.

        Raises:
            MixbitError: bits that the supernet was not trained at, or two bit-widths of one tensor.
        """
        found = np.full(len(self.options), -1, dtype=np.int64)
        for at, layer in enumerate(self.free):
            chosen, gene = layers[layer.name], len(self.free) + self.tensors[at]
            for side in (chosen.weight_bits, chosen.activation_bits):
                if side not in self.bits:
                    raise MixbitError(
                        f"{layer.name} {chosen} is no sub-network's: the supernet was trained at "
                        f"{', '.join(map(str, self.bits))} bits."
                    )
            tensor = self.bits.index(chosen.activation_bits)  # type: ignore[arg-type]
            if found[gene] not in (-1, tensor):
                raise MixbitError(
                    f"{layer.name} {chosen}: another layer reads the same tensor at {self.bits[found[gene]]} bits. "
                    "Legal: one bit-width for a tensor."
                )
            found[at], found[gene] = self.bits.index(chosen.weight_bits), tensor  # type: ignore[arg-type]
        for name, bits in self.pins.items():
            if layers[name] != bits:
                raise MixbitError(f"{name} {layers[name]} is no sub-network's: the supernet has it at {bits} alone.")
        return found

    def uniform(self) -> NDArray[np.int64]:
        """Every pair of weight and activation bits, for all layers."""
        rows = [
            [weight] * len(self.free) + [tensor] * len(set(self.tensors))
            for weight, tensor in product(range(len(self.bits)), repeat=2)
        ]
        return np.array(rows, dtype=np.int64)

    def repair(self, genome: Genome) -> Genome:
        """The nearest genome whose policy keeps the limits; one that does so already is itself.

        Raises:
            InfeasibleBudget: there is none.
        """
        if self.budget is None:
            return genome
        layers = self.layers(genome)
        used = self.terms.costs(self.network, layers)
        if min(self.budget.slack(used, self.terms.limits(self.network, self.budget)).values()) >= 0:
            return genome
        wished = {
            layer.name: (float(layers[layer.name].weight_bits or 0), float(layers[layer.name].activation_bits or 0))
            for layer in self.free
        }
        return self.genome(project(self.network, wished, self.budget, bits=self.bits, terms=self.terms).layers)
