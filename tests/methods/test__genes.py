"""Genes of sub-networks: costs in all units, and hard limits that every repaired genome keeps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation import project
from mixbit.cost import Budget, LatencyTable, LayerBits, MemoryTable
from mixbit.errors import BudgetError, InfeasibleBudget, MixbitError
from mixbit.methods._genes import COSTS, Genes
from mixbit.network import Network
from mixbit.policy import Terms
from mixbit.search import Evolution
from mixbit.supernet import SupernetConfig
from tests.support import chain, latency_table, layer, network, random_latency, random_memory, random_network
from tests.tasks import tiny_task

BITS = (2, 3, 8)
CONFIG = SupernetConfig(bits=BITS)


def counted(net: Network, layers: dict[str, LayerBits], latency: LatencyTable, memory: MemoryTable) -> dict[str, int]:
    """What a policy uses, by kind of limit, counted here."""
    weights = {one.name: layers[one.name].weight_bits or 32 for one in net.layers}
    inputs = {one.name: layers[one.name].activation_bits or 32 for one in net.layers}
    used = {
        "bitops": sum(one.macs * weights[one.name] * inputs[one.name] for one in net.layers),
        "weight-bytes": -(-sum(one.weights * weights[one.name] for one in net.layers) // 8),
        "flash": memory.flash(layers),
        "ram": memory.ram(net, layers),
    }
    used["instructions" if latency.unit == "instructions" else "latency"] = latency.cost(layers)
    peak = 0
    for step, _ in enumerate(net.steps):
        alive = [one for one in net.tensors if one.first_step <= step <= one.last_step]
        peak = max(peak, sum(_bytes(one, inputs) for one in alive))
    return {**used, "activation-bytes": peak}


def _bytes(tensor: Any, inputs: dict[str, int]) -> int:
    alone = len(tensor.readers) == 1 and not tensor.read_elsewhere
    return -(-tensor.shape[0] * (inputs[tensor.readers[0]] if alone else 8) // 8)


KINDS = ("bitops", "weight-bytes", "activation-bytes", "latency", "flash", "ram")


@st.composite
def limited(draw: Callable[..., Any]) -> tuple[int, tuple[str, ...]]:
    """The seed of a network with its tables, and one to three limits, each that of a uniform network."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True))
    pair = st.tuples(*[st.sampled_from((2, 3, 4, 5, 8))] * 2)
    return draw(st.integers(0, 20)), tuple(f"{kind}={w}x{a}" for kind in kinds for w, a in [draw(pair)])


@given(limited())
@settings(max_examples=12, derandomize=True)
def test_every_member_of_a_front_keeps_limits_of_all_units(case: tuple[int, tuple[str, ...]]) -> None:
    """As all that is evaluated, from a start that does not; or there is no policy at all, by a look at each."""
    seed, limits = case
    net, every = random_network(seed, layers=4), tuple(range(2, 9))
    terms = Terms(latency=random_latency(net, every, seed), memory=random_memory(net, every, seed=seed))
    genes = Genes(net, SupernetConfig(bits=BITS, first_last=bool(seed % 2)), limits, terms)
    allowed = {
        kind: counted(net, {one.name: genes.pins.get(one.name, LayerBits(*pair)) for one in net.layers},
                      terms.latency, terms.memory)[kind]  # type: ignore[arg-type]
        for kind, _, value in (text.partition("=") for text in limits)
        for pair in [tuple(int(bits) for bits in value.split("x"))]
    }  # fmt: skip
    try:
        genes.check()
    except InfeasibleBudget:
        assert not any(_within(genes, np.array(one), allowed) for one in product(range(3), repeat=len(genes.options)))
        return
    evolution = Evolution(options=genes.options, objectives=("min", "max"), population=6, generations=3, seed=seed)
    start = np.array([np.full(len(genes.options), 2), np.zeros(len(genes.options), dtype=np.int64)])
    found = evolution.run(
        lambda genomes: np.stack([genomes.sum(axis=1), genomes @ np.arange(1, genomes.shape[1] + 1)], axis=1),
        start=start, repair=genes.repair,
    )  # fmt: skip
    assert len(found.front) and all(_within(genes, genome, allowed) for genome in found.genomes)


def _within(genes: Genes, genome: Any, allowed: dict[str, int]) -> bool:
    used = counted(genes.network, genes.layers(genome), genes.terms.latency, genes.terms.memory)  # type: ignore[arg-type]
    return all(used[kind] <= limit for kind, limit in allowed.items())


def test_costs_are_those_of_the_tables() -> None:
    net = random_network(1, layers=4)
    memory, every = random_memory(net, tuple(range(2, 9)), seed=1), tuple(range(2, 9))
    for unit, name in (("ns", "latency"), ("instructions", "instructions")):
        times = {one.name: {f"W{w}A{a}": 10 * w + a for w in every for a in every} for one in net.layers}
        latency = latency_table(net, times, rest=5, unit=unit)  # type: ignore[arg-type]
        genes = Genes(net, CONFIG, terms=Terms(latency=latency, memory=memory))
        genes.check([name, "flash_bytes", "ram_bytes"])
        genome = np.arange(len(genes.options)) % 3
        used, mine = genes.costs(genome), counted(net, genes.layers(genome), latency, memory)
        assert {how.kind: getattr(used, how.attribute) for how in COSTS.values() if how.kind in mine} == mine


def test_what_cannot_be_counted_is_told_before_anything_is_trained() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    few = latency_table(net, {one.name: {"W8A8": 9, "W2A2": 4} for one in net.layers})
    for costs, limits, terms, told in (
        (["latency"], (), Terms(), "costs='latency' needs a latency table in ns, and there is none.*--latency TABLE"),
        (["instructions"], (), Terms(latency=random_latency(net, BITS)), "the table of by hand is in ns"),
        (["ram_bytes"], (), Terms(), "costs='ram_bytes' needs a memory table"),
        ([], ("latency=1ms",), Terms(), "latency=1ms needs a latency table"),
        ([], ("flash=9kB",), Terms(), "flash=9kB needs a memory table"),
        (["latency"], (), Terms(latency=few), "no measurement of 'l1' at W2A3"),
        (["flash_bytes"], (), Terms(memory=random_memory(net, (2, 8))), "t1 at 3 bits has no form on the device"),
        (["latency"], (), Terms(latency=random_latency(chain((1, 1)))), "of another network|another network"),
    ):
        with pytest.raises(BudgetError, match=told):
            Genes(net, CONFIG, limits, terms).check(costs)
    with pytest.raises(InfeasibleBudget, match="cannot be met"):
        Genes(net, CONFIG, ("bitops=1",)).check()


def test_pins_and_ties_are_the_supernets() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    for terms in (Terms(ties=False), Terms(pins={}), Terms(first_last=LayerBits(4, 4))):
        with pytest.raises(BudgetError, match="pins and ties of a supernet's sub-networks"):
            Genes(net, CONFIG, (), terms)
    assert Genes(net, CONFIG, (), Terms(pins=Terms().pinned(net))).pins == Terms().pinned(net)
    assert Genes(net, CONFIG, (), Terms(macs="limpq")).terms.macs == "limpq"
    ends = Genes(net, SupernetConfig(bits=BITS, first_last=True))
    assert ends.pins == {} and [one.name for one in ends.free] == [one.name for one in net.layers]
    assert [one.name for one in Genes(net, CONFIG).free] == [net.layers[1].name]


def test_a_policy_that_is_no_sub_network_has_no_genes() -> None:
    net = network([layer("a", "x", "t"), layer("b", "t", "u"), layer("c", "t", "v"), layer("d", "v", "w")])
    genes, two = Genes(net, CONFIG), LayerBits(2, 2)
    own = {**genes.pins, "b": two, "c": two}
    for changed, told in (
        ({"b": LayerBits(4, 2)}, "b W4A2 is no sub-network's: the supernet was trained at 2, 3, 8 bits"),
        ({"b": LayerBits(2, None)}, "b W2A32 is no sub-network's"),
        ({"c": LayerBits(2, 3)}, "c W2A3: another layer reads the same tensor at 2 bits"),
        ({"a": LayerBits(2, 8)}, "a W2A8 is no sub-network's: the supernet has it at W8A8 alone"),
    ):
        with pytest.raises(MixbitError, match=told):
            genes.genome({**own, **changed})
    assert genes.genome(own).tolist() == [0, 0, 0]


def test_genes_are_weights_of_layers_and_tensors_and_come_back() -> None:
    net = tiny_task().network
    genes = Genes(net, SupernetConfig(bits=(8, 2, 4)))
    tensors = {one.input_tensor for one in genes.free}
    assert genes.options == (3,) * (len(genes.free) + len(tensors)) and genes.bits == [2, 4, 8]
    random = np.random.default_rng(0)
    for _ in range(20):
        genome = random.integers(0, 3, len(genes.options))
        layers = genes.layers(genome)
        assert list(layers) == [one.name for one in net.layers]
        assert np.array_equal(genes.genome(layers), genome)
        assert all(layers[name] == bits for name, bits in genes.pins.items())
    start = [genes.layers(row) for row in genes.uniform()]
    free = [one.name for one in genes.free]
    assert [start[at][free[0]] for at in (0, 1, 8)] == [LayerBits(2, 2), LayerBits(2, 4), LayerBits(8, 8)]
    assert len(start) == 9 and all(len({one[name] for name in free}) == 1 for one in start)


def test_a_genome_beyond_the_limits_becomes_the_nearest_within_and_others_stay() -> None:
    net = tiny_task().network
    genes = Genes(net, SupernetConfig(bits=(8, 4, 2)), ("bitops=4x4",))
    budget = Budget.parse(["bitops=4x4"])
    limit = Terms().limits(net, budget)["bitops"]
    most, least = np.full(len(genes.options), 2), np.zeros(len(genes.options), dtype=np.int64)
    assert genes.repair(least) is least
    level = np.ones(len(genes.options), dtype=np.int64)
    assert Terms().costs(net, genes.layers(level)).bitops == limit and genes.repair(level) is level
    repaired = genes.layers(genes.repair(most))
    assert Terms().costs(net, repaired).bitops <= limit < Terms().costs(net, genes.layers(most)).bitops
    wished = {one.name: (8.0, 8.0) for one in genes.free}
    assert repaired == project(net, wished, budget, bits=[2, 4, 8]).layers
    assert Genes(net, SupernetConfig(bits=(8, 4, 2))).repair(most) is most
