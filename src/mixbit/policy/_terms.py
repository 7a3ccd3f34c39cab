"""What a budget is counted under, beside its limits: pinned layers, ties, and the tables of what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixbit.cost import Budget, Costs, LatencyTable, LayerBits, Macs, MemoryTable, Pins, cost_table, costs
from mixbit.errors import BudgetError, did_you_mean
from mixbit.policy._pins import resolve_pins

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["Terms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is fixed and how costs are counted while a policy is searched under a budget, or picked within one.

    Attributes:
        pins: exact layer name -> bits; None pins the first and the last layer at 8 bits, `{}` pins nothing.
        ties: layers that read one tensor share its activation bits.
        macs: "exact", or "limpq" for the counting of LIMPQ's released code.
        latency: measured times, which limits on `latency` and `instructions` need.
        memory: a device's flash and RAM, which limits on `flash` and `ram` need.
    """

    pins: Pins | None = None
    ties: bool = True
    macs: Macs = "exact"
    latency: LatencyTable | None = None
    memory: MemoryTable | None = None

    def pinned(self, network: Network) -> dict[str, LayerBits]:
        """Pins of this network, in execution order.

        Raises:
            BudgetError: a pin is no layer of it.

        >>> from types import SimpleNamespace
        >>> net = SimpleNamespace(layers=[SimpleNamespace(name=name) for name in ("stem", "conv", "fc")])
        >>> list(Terms().pinned(net)), Terms(pins={"conv": LayerBits(4, 8)}).pinned(net)
        (['stem', 'fc'], {'conv': LayerBits(weight_bits=4, activation_bits=8)})
        """
        if self.pins is None:
            return resolve_pins(network)
        names = [layer.name for layer in network.layers]
        for name in self.pins:
            if name not in names:
                raise BudgetError(
                    f"The pin {name!r} is no layer of this network.{did_you_mean(name, names)} Give exact names; "
                    "`mixbit.policy.resolve_pins` makes them from patterns."
                )
        return {name: self.pins[name] for name in names if name in self.pins}

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

    def cost_table(self, network: Network, layers: Mapping[str, LayerBits]) -> dict[str, int | float]:
        """The costs as a policy carries them."""
        return cost_table(network, layers, macs=self.macs, latency=self.latency, memory=self.memory)
