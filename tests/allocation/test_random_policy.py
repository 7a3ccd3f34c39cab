"""Random policies: within every limit, and maximal in it."""

from __future__ import annotations

import pytest

from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget, LayerBits, costs
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.policy import resolve_pins
from tests.support import layer, random_latency, random_memory, random_network
from tests.support import network as of_layers

BITS = (2, 3, 4, 5, 6)


@pytest.mark.parametrize("texts", [["bitops=3x3"], ["bitops=4x4", "weight-bytes=7x"], ["activation-bytes=4x4"]])
@pytest.mark.parametrize("seed", range(4))
def test_meets_every_limit(texts: list[str], seed: int) -> None:
    network, budget = random_network(1, layers=8), Budget.parse(texts)
    policy = random_policy(network, budget, bits=BITS, seed=seed)
    budget.check(costs(network, policy.layers), budget.resolve(network, resolve_pins(network)))
    policy.check(network)
    assert {b.weight_bits for b in policy.layers.values()} <= {*BITS, 8}


def test_nothing_more_fits() -> None:
    network, budget = random_network(1, layers=8), Budget.parse(["bitops=3x3"])
    policy = random_policy(network, budget, bits=BITS, ties=False)
    pins = resolve_pins(network)
    limits = budget.resolve(network, pins)
    for name, bits in policy.layers.items():
        if name in pins or bits.weight_bits == 6:
            continue
        assert bits.weight_bits is not None
        more = policy.layers | {name: LayerBits(bits.weight_bits + 1, bits.activation_bits)}
        assert min(budget.slack(costs(network, more), limits).values()) < 0


def test_tied_layers_share_activation_bits() -> None:
    network = random_network(1, layers=8)
    shared = [group for group in network.ties() if len(group) > 1]
    assert shared
    for seed in range(5):
        policy = random_policy(network, Budget.parse(["bitops=4x4"]), seed=seed)
        for group in shared:
            assert len({policy.layers[name].activation_bits for name in group}) == 1


def test_seeds_differ_and_repeat() -> None:
    network, budget = random_network(1, layers=8), Budget.parse(["bitops=3x4"])
    draws = [random_policy(network, budget, seed=seed).layers for seed in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_budget_below_the_fewest_bits() -> None:
    network = random_network(1, layers=8)
    with pytest.raises(InfeasibleBudget, match="cannot be met") as caught:
        random_policy(network, Budget.parse(["bitops=0.1%"]))
    fewest = {one.name: LayerBits(2, 2) for one in network.layers} | resolve_pins(network)
    assert caught.value.nearest == {"bitops": costs(network, fewest).bitops} and caught.value.blocking


@pytest.mark.parametrize("seed", range(4))
def test_where_the_fewest_bits_are_slow_it_starts_at_others(seed: int) -> None:
    network = random_network(1, layers=6)
    table = random_latency(network, (*BITS, 8), seed=seed)
    fewest = table.cost({one.name: LayerBits(2, 2) for one in network.layers})
    policy = random_policy(network, Budget.parse([f"latency={fewest - 1}ns"]), pins={}, latency=table, seed=seed)
    assert policy.costs["latency_ns"] == table.cost(policy.layers) < fewest


def test_limits_of_a_device_hold_too() -> None:
    network = random_network(1, layers=6)
    memory = random_memory(network)
    fewest, most = ({one.name: LayerBits(bits, bits) for one in network.layers} for bits in (2, 5))
    limit = (memory.flash(fewest) + memory.flash(most)) // 2
    policy = random_policy(network, Budget.parse([f"flash={limit}B"]), bits=(2, 3, 5), pins={}, memory=memory)
    assert policy.costs["flash_bytes"] == memory.flash(policy.layers) <= limit


def test_measured_limits_hold_too() -> None:
    network = random_network(1, layers=6)
    table = random_latency(network, (*BITS, 8), rest=100)
    most = costs(network, {one.name: LayerBits(2, 2) for one in network.layers}, latency=table).latency
    budget = Budget.parse([f"latency={most}ns"])
    policy = random_policy(network, budget, bits=BITS, pins={}, latency=table)
    assert most is not None
    assert policy.costs["latency_ns"] == table.cost(policy.layers) <= most
    with pytest.raises(BudgetError, match="needs a latency table"):
        random_policy(network, budget, bits=BITS)


def test_bits_are_two_to_six_where_none_are_named() -> None:
    network, budget = random_network(1, layers=8), Budget.parse(["bitops=4x4"])
    pins = resolve_pins(network)
    drawn = [random_policy(network, budget, seed=seed).layers for seed in range(20)]
    assert {bits.weight_bits for layers in drawn for name, bits in layers.items() if name not in pins} == {*BITS}


def test_limits_and_raises_are_in_the_same_counting() -> None:
    """200 MACs by LIMPQ's counting and 100 exact ones: W2A2 takes 800, and whatever has more bits exceeds 2x2."""
    network = of_layers([layer("a", "x", "y", macs=100, limpq=200)])
    policy = random_policy(network, Budget.parse(["bitops=2x2"]), bits=BITS, pins={}, macs="limpq")
    assert policy.layers == {"a": LayerBits(2, 2)} and policy.macs == "limpq" and policy.costs["bitops"] == 800
