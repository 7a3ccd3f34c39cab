"""What a budget is counted under, beside its limits: pinned layers, ties, and the tables of what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixbit.cost import Budget, Costs, LatencyTable, LayerBits, Macs, MemoryTable, Pins, costs, float_costs, tabulated
from mixbit.policy._pins import resolve_pins

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["Terms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is fixed and how costs are counted while a policy is searched under a budget, or picked within one.

    Attributes:
        pins: layer name or pattern -> bits, see `mixbit.policy.resolve_pins`; None pins the first and the last layer
            at 8 bits, `{}` pins nothing.
        first_last: bits of the first and the last layer beside these, unless `pins` say otherwise.
        ties: layers that read one tensor share its activation bits; the harm of sharing is the sum of their harms, over
            the bits that all of them offer. Pinned layers keep their own bits, with a note where that breaks a tie. Off
            reproduces papers that give each layer its own.
        macs: "exact", or "limpq" for the counting of LIMPQ's released code.
        latency: measured times, which limits on `latency` and `instructions` need.
        memory: a device's flash and RAM, which limits on `flash` and `ram` need.
    """

    pins: Pins | None = None
    first_last: LayerBits | None = None
    ties: bool = True
    macs: Macs = "exact"
    latency: LatencyTable | None = None
    memory: MemoryTable | None = None

    def pinned(self, network: Network) -> dict[str, LayerBits]:
        """Pins of this network, in execution order.

        Raises:
            BudgetError: a pin matches no layer of it.

        >>> from types import SimpleNamespace
        >>> net = SimpleNamespace(layers=[SimpleNamespace(name=name) for name in ("stem", "conv", "fc")])
        >>> list(Terms().pinned(net)), Terms(pins={"conv": LayerBits(4, 8)}).pinned(net)
        (['stem', 'fc'], {'conv': LayerBits(weight_bits=4, activation_bits=8)})
        """
        if self.pins is None and self.first_last is None:
            return resolve_pins(network)
        return resolve_pins(network, self.pins, self.first_last)

    @property
    def facts(self) -> dict[str, str]:
        """What a policy has to remember of the tables: the processor that its times hold for."""
        return {} if self.latency is None or self.latency.cpu is None else {"latency_cpu": self.latency.cpu}

    def limits(self, network: Network, budget: Budget) -> dict[str, int]:
        """The budget in whole numbers, see `mixbit.cost.Budget.resolve`.

        Raises:
            BudgetError: a limit whose table is not there, or is of another network.
        """
        return budget.resolve(network, self.pinned(network), self.macs, self.latency, self.memory)

    def costs(self, network: Network, layers: Mapping[str, LayerBits]) -> Costs:
        """What these bits cost, in exact integers."""
        return costs(network, layers, macs=self.macs, latency=self.latency, memory=self.memory)

    def cost_table(
        self, network: Network, layers: Mapping[str, LayerBits], found: Costs | None = None
    ) -> dict[str, int | float]:
        """The costs as a policy carries them; `found` is what `costs` said of these bits, if it was asked already."""
        found = self.costs(network, layers) if found is None else found
        return tabulated(found, float_costs(network, macs=self.macs, latency=self.latency), self.latency)
