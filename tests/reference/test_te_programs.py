"""Topological entropies of a ResNet-20 and the policies of GMPQ-TE's linear programme with them.

One entropy a layer, bits 2 to 8, the same for weights and activations: most total entropy * bits within four bits a
weight (or a cost of MACs * bits within four bits a MAC). Harms are minus that, so objectives have the other sign.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixbit.allocation import Allocation, AllocationSettings, allocate
from mixbit.allocation._ordered import Chain, solve_ordered
from mixbit.allocation.solver import solve
from mixbit.cost import Budget
from mixbit.network import Network
from mixbit.policy import LayerScores, Policy, Program, Scores
from tests.support import chain

ENTROPIES = [
    *(3.370, 3.425, 3.176, 3.056, 2.988, 3.288, 2.999),
    *(2.546, 2.728, 2.822, 2.588, 2.716, 2.597),
    *(2.300, 2.276, 2.294, 2.176, 2.045, 2.262),
]
BITS = range(2, 9)
# The objectives belong to entropies with more digits than these: 0.0005 off times up to 8 bits, 19 times.
ROUNDING = 0.0005 * 8 * 19


def convolutions() -> list[tuple[int, int]]:
    """Weights and MACs of ResNet-20's 19 convolutions of 3 x 3 at 32 pixels."""
    widths = [(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5, (32, 64), *[(64, 64)] * 5]
    sides = [32] * 7 + [16] * 6 + [8] * 6
    weights = [9 * before * after for before, after in widths]
    return [(weight, weight * side * side) for weight, side in zip(weights, sides, strict=True)]


def table(net: Network, **program: bool | tuple[str, ...]) -> Scores:
    """The entropy counts once a layer: on the side of the weights."""
    flat = dict.fromkeys(BITS, 0.0)
    layers = {
        layer.name: LayerScores(weight={bits: -entropy * bits for bits in BITS}, activation=flat)
        for layer, entropy in zip(net.layers, ENTROPIES, strict=True)
    }
    return Scores(
        fingerprint=net.fingerprint,
        method="by hand",
        layers=layers,
        program=Program(coupled=True, **program),  # type: ignore[arg-type]
    )


def by_entropy(net: Network) -> tuple[str, ...]:
    """Layer names by falling entropy."""
    entropies = dict(zip((layer.name for layer in net.layers), ENTROPIES, strict=True))
    return tuple(sorted(entropies, key=lambda name: -entropies[name]))


def bits_of(policy: Policy) -> list[int | None]:
    assert all(bits.weight_bits == bits.activation_bits for bits in policy.layers.values())
    return [bits.weight_bits for bits in policy.layers.values()]


def test_size_budget() -> None:
    """The first 14 layers, which are small, at 8 bits, and the last five at 2."""
    net = chain(*convolutions())
    limit = Budget.parse([f"weight-bytes={sum(weights for weights, _ in convolutions()) * 4 // 8}"])
    policy, found = allocate(net, table(net), limit, AllocationSettings(pins={}))
    assert bits_of(policy) == [8] * 14 + [2] * 5
    assert found.objective == pytest.approx(-346.908, abs=ROUNDING)
    assert found.proven


def linear_cost(*, ordered: bool) -> Allocation:
    """A cost of MACs * bits."""
    net = chain(*convolutions())
    scores = [[-entropy * bits for bits in BITS] for entropy in ENTROPIES]
    costs = {"MACs * bits": [[layer.macs * bits for bits in BITS] for layer in net.layers]}
    limits = {"MACs * bits": 4 * sum(layer.macs for layer in net.layers)}
    order = [int(name[1:]) for name in by_entropy(net)]
    rule = Chain(tuple(order), tuple([np.array(BITS)] * len(order)))
    return solve_ordered(scores, costs, limits, [rule]) if ordered else solve(scores, costs, limits)


def test_a_cost_of_macs_times_bits_free_and_in_the_order_of_the_entropies() -> None:
    free, ordered = linear_cost(ordered=False), linear_cost(ordered=True)
    assert free.objective == pytest.approx(-239.273, abs=ROUNDING)
    assert ordered.objective == pytest.approx(-228.485, abs=ROUNDING)
    assert [BITS[option] for option in ordered.choice] == [8, 8, 8, 8, 3, 8, 4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    assert free.proven
    assert ordered.proven


def test_a_cost_of_macs_times_bits_as_a_budget_of_weight_bytes() -> None:
    """The same through `allocate`: of layers with as many weights as they have MACs, weight bytes are that cost."""
    net = chain(*[(macs, macs) for _, macs in convolutions()])
    limit = Budget.parse([f"weight-bytes={sum(macs for _, macs in convolutions()) * 4 // 8}"])
    policy, found = allocate(net, table(net, order=by_entropy(net)), limit, AllocationSettings(pins={}))
    assert bits_of(policy) == [8, 8, 8, 8, 3, 8, 4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    assert found.objective == pytest.approx(-228.485, abs=ROUNDING)
    free, _ = allocate(net, table(net), limit, AllocationSettings(pins={}))
    assert sum(e * (b or 0) for e, b in zip(ENTROPIES, bits_of(free), strict=True)) == pytest.approx(
        239.273, abs=ROUNDING
    )


def test_concave_harms() -> None:
    """Harms of entropy / 4^bits under the size budget give graded bits."""
    net = chain(*convolutions())
    scores = table(net)
    noise = {
        name: replace(one, weight={bits: entropy / 4**bits for bits in BITS})
        for (name, one), entropy in zip(scores.layers.items(), ENTROPIES, strict=True)
    }
    limit = Budget.parse([f"weight-bytes={sum(weights for weights, _ in convolutions()) * 4 // 8}"])
    policy, found = allocate(net, replace(scores, layers=noise), limit, AllocationSettings(pins={}))
    assert bits_of(policy) == [8, 6, 6, 5, 5, 6, 5, 5, 5, 5, 5, 5, 5, 4, 4, 4, 3, 3, 4]
    assert found.objective == pytest.approx(0.128541, abs=1e-5)
