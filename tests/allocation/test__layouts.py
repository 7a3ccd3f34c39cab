"""Layouts that take more than their parts are charged to their own activation bits: an enumeration is the oracle."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits, MemoryTable, RamStep
from mixbit.errors import InfeasibleBudget
from mixbit.network import Network
from mixbit.policy import LayerScores, Scores
from tests.support import best_by_enumeration, chain, random_memory, random_network, random_scores


def with_layouts(net: Network, memory: MemoryTable, bits: tuple[int, ...], seed: int) -> MemoryTable:
    """Half of all activation bits were laid out, and take up to 30 bytes more."""
    random = np.random.default_rng(seed)
    for chosen in product(bits, repeat=len(net.layers)):
        if random.random() < 0.5:
            layers = {one.name: LayerBits(2, a) for one, a in zip(net.layers, chosen, strict=True)}
            flash, ram = (int(random.integers(0, 30)) for _ in range(2))
            memory = memory.laid_out(net, layers, memory.flash(layers) + flash, memory.ram(net, layers) + ram)
    return memory


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("texts", [["ram=3x3"], ["flash=3x3"], ["flash=3x3", "ram=3x4"]], ids=" ".join)
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 7])  # in 4 and 7 a part that fits nowhere comes before the best
def test_equals_enumeration(seed: int, texts: list[str], ties: bool) -> None:
    net = random_network(seed, layers=4)
    scores = random_scores(net, (2, 3, 5), seed)
    memory = with_layouts(net, random_memory(net, seed=seed), (2, 3, 5), seed)
    budget = Budget.parse(texts)
    expected = best_by_enumeration(net, scores, budget, {}, ties=ties, memory=memory)
    if math.isinf(expected):
        with pytest.raises(InfeasibleBudget):
            allocate(net, scores, budget, AllocationSettings(pins={}, ties=ties, memory=memory))
        return
    policy, found = allocate(net, scores, budget, AllocationSettings(pins={}, ties=ties, memory=memory))
    assert found.objective == pytest.approx(expected, rel=1e-9)
    assert policy.costs["ram_bytes"] == memory.ram(net, policy.layers)


def test_a_gap_of_one_choice_is_not_put_on_the_others() -> None:
    net = chain((10, 10), (10, 10))
    curve = LayerScores({8: 0.0}, {8: 0.0, 4: 1.0, 2: 3.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={one.name: curve for one in net.layers})
    sizes = {"t0": {b: 10 * b for b in (2, 4, 8)}, "t1": {b: 11 * b for b in (2, 4, 8)}}
    memory = MemoryTable(
        fingerprint=net.fingerprint,
        target="t",
        weights={one.name: {8: 10} for one in net.layers},
        code={},
        rest=0,
        steps=(RamStep(name="both", constant=0, tensors=sizes),),
    )
    budget = Budget.parse(["ram=130"])
    best, _ = allocate(net, scores, budget, AllocationSettings(pins={}, memory=memory))
    assert {name: bits.activation_bits for name, bits in best.layers.items()} == {"l0": 8, "l1": 4}
    memory = memory.laid_out(net, best.layers, 20, 131)
    second, _ = allocate(net, scores, budget, AllocationSettings(pins={}, memory=memory))
    assert {name: bits.activation_bits for name, bits in second.layers.items()} == {"l0": 4, "l1": 8}
    assert second.costs["ram_bytes"] == 128
    for layers in product((8, 4, 2), repeat=2):
        bits = {f"l{at}": LayerBits(8, a) for at, a in enumerate(layers)}
        memory = memory.laid_out(net, bits, 20, 131 + sum(layers))
    with pytest.raises(InfeasibleBudget, match="take more when they are laid out .the least ram: 135 bytes") as caught:
        allocate(net, scores, budget, AllocationSettings(pins={}, memory=memory))
    assert caught.value.nearest == {"ram": 135}
