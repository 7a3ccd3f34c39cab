"""A random policy that uses its budget up: the baseline that every search must beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from mixbit.allocation.projection import project
from mixbit.cost import Budget, LatencyTable, LayerBits, Macs, MemoryTable, Pins
from mixbit.policy import Policy, Terms

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["random_policy"]


def random_policy(
    network: Network,
    budget: Budget,
    *,
    bits: Sequence[int] = (2, 3, 4, 5, 6),
    pins: Pins | None = None,
    ties: bool = True,
    macs: Macs = "exact",
    seed: int = 0,
    latency: LatencyTable | None = None,
    memory: MemoryTable | None = None,
) -> Policy:
    """Start every free layer at the fewest bits, then raise random ones by one option until nothing fits any more.

    Where the fewest bits are over the budget, as may be with measured times, the nearest policy within it is the start.

    Args:
        network: the captured network.
        budget: hard limits, met exactly.
        bits: options of weights and activations.
        pins: as in `allocate`.
        ties: layers that read one tensor share its activation bits.
        macs: how MACs are counted.
        seed: of the draws.
        latency: measured times, where the budget limits them.
        memory: a device's flash and RAM, where the budget limits them.

    Raises:
        InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and the layers that block them.
        BudgetError: a pin is no layer of the network.
    """
    terms = Terms(pins=pins, ties=ties, macs=macs, latency=latency, memory=memory)
    pins, limits, ladder = terms.pinned(network), terms.limits(network, budget), sorted(bits)
    layers = {la.name: pins.get(la.name, LayerBits(ladder[0], ladder[0])) for la in network.layers}
    if min(budget.slack(terms.costs(network, layers), limits).values()) < 0:  # of measured times fewer may be slower
        fewest = dict.fromkeys(layers, (float(ladder[0]), float(ladder[0])))
        layers = project(network, fewest, budget, bits=ladder, terms=terms).layers
    knobs = list(_knobs(network, pins, ties))
    random = Random(seed)
    while knobs:
        names, side = knobs[random.randrange(len(knobs))]
        raised = layers | {n: _raised(layers[n], side, ladder) for n in names}
        if raised == layers or min(budget.slack(terms.costs(network, raised), limits).values()) < 0:
            knobs.remove((names, side))
        else:
            layers = raised
    return Policy(
        fingerprint=network.fingerprint,
        layers=layers,
        method="random",
        seed=seed,
        macs=macs,
        budget=budget.texts,
        costs=terms.cost_table(network, layers),
    )


def _knobs(network: Network, pins: Pins, ties: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """What can be raised by itself: each free layer's weights, and the activations of each tie group."""
    groups = network.ties() if ties else [(layer.name,) for layer in network.layers]
    for group in groups:
        free = tuple(name for name in group if name not in pins)
        yield from (((name,), "weight_bits") for name in free)
        if free:
            yield free, "activation_bits"


def _raised(bits: LayerBits, side: str, ladder: Sequence[int]) -> LayerBits:
    higher = [b for b in ladder if b > getattr(bits, side)]
    return replace(bits, **{side: higher[0]}) if higher else bits
