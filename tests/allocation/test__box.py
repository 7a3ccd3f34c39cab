"""Bits in a box, rounded down: the real optimum by hand, limits always kept, and harms that are no line."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation import AllocationSettings, allocate
from mixbit.allocation._box import _Smooth, _start
from mixbit.cost import Budget, LayerBits, costs
from mixbit.errors import InfeasibleBudget, PolicyError
from mixbit.network import FloatParameter, Network
from mixbit.policy import LayerScores, Program, Scores
from tests.support import chain, random_network, random_scores


def linear(net: Network, slopes: list[float], bits: tuple[int, ...], **program: bool | tuple[str, ...]) -> Scores:
    """Harm falls by the slope with every bit, half of it on each side."""
    layers = {}
    for one, slope in zip(net.layers, slopes, strict=True):
        curve = {b: -slope * b / 2 for b in bits}
        layers[one.name] = LayerScores(curve, dict(curve))
    program_ = Program(box=True, **program)  # type: ignore[arg-type]
    return Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=program_)


def test_bitops_by_the_condition_of_lagrange() -> None:
    """With harm -s * b and cost m * b^2 the real optimum inside the box has b proportional to s / m."""
    net = chain((10, 100), (10, 100), (10, 100))
    scores = linear(net, [2.0, 3.0, 4.0], tuple(range(2, 9)), coupled=True)
    limit = 100 * (2.0**2 + 3.0**2 + 4.0**2) * 1.5**2  # real bits 3, 4.5 and 6
    policy, found = allocate(net, scores, Budget.parse([f"bitops={limit:.0f}"]), AllocationSettings(pins={}))
    assert [bits.weight_bits for bits in policy.layers.values()] == [3, 4, 6]
    assert found.objective == pytest.approx(-2.0 * 3 - 3.0 * 4 - 4.0 * 6)
    assert (found.solver, found.proven) == ("box", False)
    assert found.slack["bitops"] == limit - 100 * (9 + 16 + 36)
    assert any(note.startswith("box:") for note in policy.notes)


def test_an_order_by_the_condition_of_lagrange() -> None:
    """The second layer may have no more bits than the first: both get those of their mean slope."""
    net = chain((10, 100), (10, 100), (10, 100))
    scores = linear(net, [4.0, 8.0, 3.0], tuple(range(2, 9)), coupled=True, order=("l0", "l1", "l2"))
    limit = 100 * (6.0**2 + 6.0**2 + 3.0**2) * 1.05**2  # real bits 6.3, 6.3 and 3.15
    policy, _ = allocate(net, scores, Budget.parse([f"bitops={limit:.0f}"]), AllocationSettings(pins={}))
    assert [bits.weight_bits for bits in policy.layers.values()] == [6, 6, 3]


def test_weight_bytes_are_all_or_nothing_but_for_one_layer() -> None:
    net = chain((80, 100), (80, 100), (80, 100))
    scores = linear(net, [3.0, 2.0, 1.0], tuple(range(2, 9)), coupled=True)
    policy, _ = allocate(
        net, scores, Budget.parse(["weight-bytes=155B"]), AllocationSettings(pins={})
    )  # 15.5 bits: 8, 5.5 and 2
    assert [bits.weight_bits for bits in policy.layers.values()] == [8, 5, 2]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    coupled=st.booleans(),
    ordered=st.booleans(),
    ties=st.booleans(),
    texts=st.sampled_from(
        [
            ["bitops=3x3"],
            ["weight-bytes=3x3"],
            ["bitops=4x4", "weight-bytes=3x3"],
            ["bitops=5x5", "activation-bytes=40%"],
        ]
    ),
)
def test_limits_are_kept_and_the_integer_optimum_is_never_worse(
    seed: int, coupled: bool, ordered: bool, ties: bool, texts: list[str]
) -> None:
    random = np.random.default_rng(seed)
    net = random_network(seed, layers=5)
    if seed % 2:
        net = replace(net, float_parameters=(FloatParameter(name="w", size=40, macs=30, reason="no layer"),))
    order = tuple(random.permutation([one.name for one in net.layers]).tolist()) if ordered else ()
    scores = linear(net, random.uniform(0.1, 2, 5).tolist(), (2, 3, 4, 6), coupled=coupled, order=order)
    budget = Budget.parse(texts)
    exact = replace(scores, program=replace(scores.program, box=False))
    try:
        best = allocate(net, exact, budget, AllocationSettings(pins={}, ties=ties))[1]
    except InfeasibleBudget:
        with pytest.raises((InfeasibleBudget, PolicyError)):
            allocate(net, scores, budget, AllocationSettings(pins={}, ties=ties))
        return
    policy, found = allocate(net, scores, budget, AllocationSettings(pins={}, ties=ties))
    assert min(budget.slack(costs(net, policy.layers), budget.resolve(net, {})).values()) >= 0
    assert found.bound <= best.objective + 1e-9
    assert best.objective <= found.objective + 1e-9
    assert not found.proven
    ranked = [policy.layers[name] for name in order]
    for earlier, later in pairwise(ranked):
        assert (later.weight_bits or 0) <= (earlier.weight_bits or 0)
        assert (later.activation_bits or 0) <= (earlier.activation_bits or 0)


def test_what_stays_in_float32_is_no_room_for_bits() -> None:
    net = random_network(3, layers=5)
    kept = FloatParameter(name="w", size=1000, reason="no layer")
    scores = linear(net, [1.0, 0.5, 2.0, 1.5, 0.7], (2, 4, 6, 8), coupled=False)
    bare = allocate(net, scores, Budget.parse(["weight-bytes=5x5"]), AllocationSettings(pins={}))[0]
    full = allocate(
        replace(net, float_parameters=(kept,)), scores, Budget.parse(["weight-bytes=5x5"]), AllocationSettings(pins={})
    )[0]
    assert full.layers == bare.layers


def test_a_budget_for_everything_gives_the_most_bits() -> None:
    net = random_network(0, layers=5)
    scores = linear(net, [1.0] * 5, (2, 4, 8), coupled=False)
    policy, found = allocate(net, scores, Budget.parse(["bitops=8x8"]), AllocationSettings(pins={}))
    assert set(policy.layers.values()) == {LayerBits(8, 8)}
    assert found.gap == 0


def test_all_layers_pinned() -> None:
    net = chain((10, 100))
    scores = linear(net, [1.0], (2, 4))
    policy, _ = allocate(net, scores, Budget.parse(["bitops=6.4k"]), AllocationSettings(pins={"l0": LayerBits(8, 8)}))
    assert policy.layers == {"l0": LayerBits(8, 8)}


def test_harms_that_are_no_line() -> None:
    net = chain((10, 100))
    scores = replace(random_scores(net, (2, 4, 8)), program=Program(box=True))
    with pytest.raises(PolicyError, match="box: the harms of l0 are not linear in the bits"):
        allocate(net, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}))


def test_infeasible_as_anywhere() -> None:
    net = chain((10, 100))
    with pytest.raises(InfeasibleBudget, match="the smallest is 400"):
        allocate(
            net, linear(net, [1.0], (2, 4), coupled=True), Budget.parse(["bitops=300"]), AllocationSettings(pins={})
        )


def test_the_search_starts_at_the_most_bits_on_the_way_up_that_fit() -> None:
    """From 2 and 3 bits to 8 and 5 under a sum of 9: half the way, to a few thousandths of it."""
    low, high = np.array([2.0, 3.0]), np.array([8.0, 5.0])
    limit = _Smooth(lambda x: 9.0 - float(x.sum()), lambda x: -np.ones_like(x))
    assert _start(low, high, [limit]) == pytest.approx([5.0, 4.0], abs=2e-2)
    assert _start(low, high, []) == pytest.approx([8.0, 5.0], abs=2e-2)
    assert _start(low, high, [_Smooth(lambda x: -1.0, lambda x: x)]) == pytest.approx([2.0, 3.0])
