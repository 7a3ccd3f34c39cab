"""`allocate` under every program: an enumeration of all policies is the oracle."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits, costs
from mixbit.errors import InfeasibleBudget, PolicyError
from mixbit.network import Network
from mixbit.policy import LayerScores, Pairs, Policy, Program, Scores, Side, resolve_pins
from tests.support import chain, layer, network, random_network, random_scores

EIGHT = LayerBits(8, 8)
BUDGETS = [
    ["bitops=3x3"],
    ["weight-bytes=3x3"],
    ["bitops=4x4", "weight-bytes=3x3"],
    ["bitops=4x4", "activation-bytes=3x3"],
]


def with_program(seed: int, net: Network, bits: tuple[int, ...], *, coupled: bool, order: bool, pairs: bool) -> Scores:
    random = np.random.default_rng(seed)
    scores = random_scores(net, bits, seed)
    names = random.permutation(list(scores.layers)).tolist()
    joint = random_pairs(scores, random) if pairs else None
    program = Program(coupled=coupled, order=tuple(names[1:]) if order else (), pairs=joint)
    return replace(scores, program=program)


def random_pairs(scores: Scores, random: np.random.Generator) -> Pairs:
    sides: tuple[Side, Side] = ("weight", "activation")
    variables = [(name, side, bits) for name in scores.layers for side in sides for bits in scores.layers[name].weight]
    kept = [variables[index] for index in random.permutation(len(variables))[: 2 * len(variables) // 3]]
    matrix = random.normal(size=(len(kept), len(kept)))
    matrix += matrix.T
    np.fill_diagonal(matrix, 0)
    return Pairs(tuple(kept), tuple(map(tuple, matrix.tolist())))


def best_by_enumeration(
    net: Network, scores: Scores, budget: Budget, pins: dict[str, LayerBits], *, ties: bool
) -> float:
    """The smallest harm of all policies within the budget and the program, infinite if there is none."""
    limits, program = budget.resolve(net, pins), scores.program
    free = [one.name for one in net.layers if one.name not in pins]
    choices = [
        [
            LayerBits(w, a)
            for w, a in product(scores.layers[name].weight, scores.layers[name].activation)
            if w == a or not program.coupled
        ]
        for name in free
    ]
    tied = [[name for name in group if name in free] for group in net.ties()] if ties else []
    best = math.inf
    for picked in product(*choices):
        layers = {**pins, **dict(zip(free, picked, strict=True))}
        if any(len({layers[name].activation_bits for name in group}) > 1 for group in tied):
            continue
        if not all(
            falling([getattr(layers[name], f"{side}_bits") for name in names if name in free])
            for side, names in zip(("weight", "activation"), program.orders, strict=True)
        ):
            continue
        harm = sum(scores.harm(name, layers[name]) for name in free)
        harm += program.pairs.harm(layers) if program.pairs else 0.0
        if harm < best and min(budget.slack(costs(net, layers), limits).values()) >= 0:
            best = harm
    return best


def falling(found: list[int | None]) -> bool:
    return all((later or 0) <= (earlier or 0) for earlier, later in pairwise(found))


PROGRAMS = [
    {"coupled": True, "order": False, "pairs": False},
    {"coupled": False, "order": True, "pairs": False},
    {"coupled": True, "order": True, "pairs": False},
    {"coupled": False, "order": False, "pairs": True},
    {"coupled": True, "order": False, "pairs": True},
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: " ".join(key for key, on in one.items() if on))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), texts=st.sampled_from(BUDGETS), ties=st.booleans(), pinned=st.booleans())
def test_equals_enumeration(program: dict[str, bool], seed: int, texts: list[str], ties: bool, pinned: bool) -> None:
    coupled = program["coupled"]
    net = random_network(seed, layers=5 if coupled else 4)
    scores = with_program(seed, net, (2, 3, 5) if coupled else (2, 5), **program)
    budget = Budget.parse(texts)
    pins = {"l0": EIGHT, "l2": LayerBits(5, 5)} if pinned else {}
    expected = best_by_enumeration(net, scores, budget, pins, ties=ties)
    if math.isinf(expected):
        with pytest.raises(InfeasibleBudget):
            allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties))
        return
    policy, found = allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties, exact=True))
    assert found.objective == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.proven
    limits = budget.resolve(net, pins)
    assert min(budget.slack(costs(net, policy.layers), limits).values()) >= 0
    free = {name: bits for name, bits in policy.layers.items() if name not in pins}
    harm = sum(scores.harm(name, bits) for name, bits in free.items())
    harm += scores.program.pairs.harm(policy.layers) if scores.program.pairs else 0.0
    assert harm == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if not pinned:
        assert scores.total(policy.layers) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert policy.check(net) is policy


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), inputs=st.sampled_from([(), ("l3", "l1"), ("l0", "l1", "l2", "l3")]))
def test_inputs_have_an_order_of_their_own(seed: int, inputs: tuple[str, ...]) -> None:
    net = random_network(seed, layers=4)
    scores = with_program(seed, net, (2, 5), coupled=False, order=True, pairs=False)
    scores = replace(scores, program=replace(scores.program, activation_order=inputs))
    budget = Budget.parse(["bitops=4x4"])
    expected = best_by_enumeration(net, scores, budget, {}, ties=False)
    policy, found = allocate(net, scores, budget, AllocationSettings(pins={}, ties=False))
    assert found.objective == pytest.approx(expected, rel=1e-9, abs=1e-9) and found.proven
    assert policy.allocation["program"]["activation_order"] == list(inputs)  # type: ignore[index]
    said = [note.partition(":")[0] for note in policy.notes if note.startswith("order")]
    assert said == ["order of weights", *(["order of inputs"] if inputs else [])]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_zero_pairs_equal_the_additive_program(seed: int) -> None:
    net = random_network(seed, layers=6)
    scores = random_scores(net, (2, 3, 4), seed)
    variables = tuple((name, "weight", bits) for name, one in scores.layers.items() for bits in one.weight)
    zero = Pairs(variables, ((0.0,) * len(variables),) * len(variables))  # type: ignore[arg-type]
    budget = Budget.parse(["bitops=3x3"])
    expected = allocate(net, scores, budget)
    found = allocate(net, replace(scores, program=Program(pairs=zero)), budget)
    assert found[1].objective == pytest.approx(expected[1].objective, rel=1e-12)
    assert found[1].proven


def test_the_default_program_leaves_no_trace() -> None:
    net = chain((10, 100), (10, 100))
    policy, _ = allocate(net, random_scores(net), Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}))
    assert "program" not in policy.allocation
    assert "coupled" not in policy.allocation


# ------------------------------------------------------------------------------------------------- coupled


def siblings(weight: list[dict[int, float]], activation: list[dict[int, float]]) -> tuple[Network, Scores]:
    """Layers that read one tensor."""
    net = network([layer(f"l{index}", "x", f"y{index}") for index in range(len(weight))])
    layers = {one.name: LayerScores(w, a) for one, w, a in zip(net.layers, weight, activation, strict=True)}
    return net, Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=Program(coupled=True))


def test_tied_layers_share_all_bits() -> None:
    curve, flat = {4: 0.0, 2: 1.0}, {4: 0.0, 2: 0.0}
    net, scores = siblings([curve, {4: 0.0, 2: 0.1}], [flat, flat])
    budget = Budget.parse(["bitops=20k"])  # 2 layers of 1000 MACs: 16k each at 4 bits, 4k at 2
    policy, found = allocate(net, scores, budget, AllocationSettings(pins={}))
    assert set(policy.layers.values()) == {LayerBits(2, 2)}
    assert found.objective == pytest.approx(1.1)
    assert policy.allocation["coupled"] is True
    assert any(note.startswith("coupled:") for note in policy.notes)
    free, found = allocate(net, scores, budget, AllocationSettings(pins={}, ties=False))
    assert free.layers == {"l0": LayerBits(4, 4), "l1": LayerBits(2, 2)}


def test_pins_are_not_coupled() -> None:
    net, scores = siblings([{4: 0.0, 2: 1.0}] * 2, [{4: 0.0, 2: 1.0}] * 2)
    policy, _ = allocate(net, scores, Budget.parse(["bitops=4x4"]), AllocationSettings(pins={"l0": LayerBits(3, 8)}))
    assert policy.layers["l0"] == LayerBits(3, 8)
    assert policy.layers["l1"].weight_bits == policy.layers["l1"].activation_bits


def test_bits_of_one_side_are_left_out_and_noted() -> None:
    net, scores = siblings([{8: 0.0, 4: 1.0, 3: 2.0}], [{8: 0.0, 4: 1.0, 2: 3.0}])
    policy, found = allocate(net, scores, Budget.parse(["bitops=20k"]), AllocationSettings(pins={}))
    assert policy.layers["l0"] == LayerBits(4, 4)
    assert found.objective == 2.0
    assert "l0: bits 2, 3 left out, they are scored on one side only" in policy.notes


def test_sides_without_common_bits_and_tied_layers_without() -> None:
    net, scores = siblings([{8: 0.0, 4: 1.0}], [{6: 0.0, 2: 3.0}])
    with pytest.raises(PolicyError, match=r"l0: weight and activation must have the same bits.*\[4, 8\] and \[2, 6\]"):
        allocate(net, scores, Budget.parse(["bitops=8x8"]), AllocationSettings(pins={}))
    net, scores = siblings([{8: 0.0}, {4: 0.0}], [{8: 0.0}, {4: 0.0}])
    with pytest.raises(PolicyError, match="none in common"):
        allocate(net, scores, Budget.parse(["bitops=8x8"]), AllocationSettings(pins={}))


def test_repair_looks_at_the_sum_of_both_sides() -> None:
    """Weights are better at 4 bits than at 8, but not by what the activation loses."""
    net, scores = siblings([{8: 0.2, 4: 0.1, 2: 0.0}], [{8: 0.0, 4: 0.5, 2: 0.55}])
    policy, found = allocate(net, scores, Budget.parse(["bitops=20k"]), AllocationSettings(pins={}))
    assert policy.layers["l0"] == LayerBits(4, 4)
    assert found.objective == pytest.approx(0.6)
    assert "l0: bits 2 forbidden, they score better than more bits" in policy.notes


def test_infeasible_coupled_budgets_name_the_nearest() -> None:
    net, scores = siblings([{8: 0.0, 4: 1.0, 2: 2.0}], [{8: 0.0, 4: 1.0}])
    with pytest.raises(InfeasibleBudget, match=r"bitops=10k cannot be met: the smallest is 16k") as caught:
        allocate(net, scores, Budget.parse(["bitops=10k"]), AllocationSettings(pins={}))
    assert caught.value.nearest == {"bitops": 16_000}
    allocate(net, scores, Budget.parse(["bitops=16k"]), AllocationSettings(pins={}))


# --------------------------------------------------------------------------------------------------- order


def test_an_order_turns_a_policy_around_but_not_against_a_pin() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    harms = {"l0": 9.0, "l1": 1.0, "l2": 5.0}
    layers = {name: LayerScores({4: 0.0, 2: harm}, {4: 0.0, 2: harm}) for name, harm in harms.items()}
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers)
    budget = Budget.parse(["bitops=3600"])  # 4 bits on both sides of two layers, or less
    plain, _ = allocate(net, scores, budget, AllocationSettings(pins={}))
    assert (plain.layers["l1"], plain.layers["l2"]) == (LayerBits(2, 2), LayerBits(4, 4))
    ordered = replace(scores, program=Program(order=("l0", "l1", "l2")))
    policy, found = allocate(net, ordered, budget, AllocationSettings(pins={}))
    for side in ("weight_bits", "activation_bits"):
        assert falling([getattr(bits, side) for bits in policy.layers.values()])
    assert found.objective > 2.0
    assert any(note.startswith("order: of 3 layers none has fewer bits") for note in policy.notes)
    pinned, _ = allocate(net, ordered, budget, AllocationSettings(pins={"l1": LayerBits(2, 2)}))
    assert pinned.layers["l2"] == LayerBits(4, 4)
    assert any("pinned, so not part of it: l1" in note for note in pinned.notes)


def test_infeasible_under_the_order_names_the_nearest() -> None:
    """The second layer has no 2 bits, so the first, which is larger, has none either."""
    net = chain((10, 1000), (10, 100))
    layers = {"l0": LayerScores({4: 0.0, 2: 1.0}, {4: 0.0}), "l1": LayerScores({4: 0.0, 3: 1.0}, {4: 0.0})}
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=Program(order=("l0", "l1")))
    with pytest.raises(InfeasibleBudget, match="but not in the order of the layers that the scores ask for") as caught:
        allocate(net, scores, Budget.parse(["bitops=12k"]), AllocationSettings(pins={}))
    assert caught.value.nearest == {"bitops": 17_200}
    policy, _ = allocate(net, scores, Budget.parse(["bitops=17.2k"]), AllocationSettings(pins={}))
    assert policy.layers == {"l0": LayerBits(4, 4), "l1": LayerBits(3, 4)}


# --------------------------------------------------------------------------------------------------- pairs


def test_repair_is_skipped_where_harms_are_joint() -> None:
    """By itself 4 bits look worse than 2; with the other layer at 2 they are the better choice."""
    net = chain((10, 100), (10, 100))
    layers = {name: LayerScores({4: 0.5, 2: 0.4}, {8: 0.0}) for name in ("l0", "l1")}
    pairs = Pairs((("l0", "weight", 2), ("l1", "weight", 2)), ((0.0, 1.0), (1.0, 0.0)))
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=Program(pairs=pairs))
    policy, found = allocate(net, scores, Budget.parse(["bitops=1M"]), AllocationSettings(pins={}))
    assert found.objective == pytest.approx(0.9)
    assert {bits.weight_bits for bits in policy.layers.values()} == {2, 4}
    assert policy.allocation["repair"] == "none"
    assert any(note.startswith("repair skipped") for note in policy.notes)
    assert "pairs: joint harms of 2 single choices counted; the best that was found" in policy.notes
    proven, sure = allocate(net, scores, Budget.parse(["bitops=1M"]), AllocationSettings(pins={}, exact=True))
    assert (found.proven, sure.proven) == (False, True)
    assert "pairs: joint harms of 2 single choices counted; proven best" in proven.notes


def test_pairs_inside_a_tie_group_and_with_a_pinned_layer() -> None:
    net = network([layer("a", "x", "y"), layer("b", "x", "z"), layer("c", "z", "end")])
    curve = {4: 0.0, 2: 0.0}
    layers = {name: LayerScores(curve, {8: 0.0}) for name in ("a", "b", "c")}
    variables: tuple[tuple[str, Side, int], ...] = (("a", "weight", 4), ("b", "weight", 4), ("c", "weight", 2))
    pairs = Pairs(variables, ((0.0, -1.0, 0.0), (-1.0, 0.0, 3.0), (0.0, 3.0, 0.0)))
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=Program(pairs=pairs))
    policy, found = allocate(net, scores, Budget.parse(["bitops=1M"]), AllocationSettings(pins={}))
    assert [policy.layers[name].weight_bits for name in "abc"] == [4, 4, 4]
    assert found.objective == -1.0
    policy, found = allocate(
        net, scores, Budget.parse(["bitops=1M"]), AllocationSettings(pins={"c": LayerBits(2, 8)}, exact=True)
    )
    assert policy.layers["b"].weight_bits == 2
    assert found.objective == 0.0


def test_a_group_with_too_many_options_to_keep() -> None:
    net = network([layer(f"l{index}", "x", f"y{index}") for index in range(12)])
    scores = replace(random_scores(net, (2, 3, 4, 6)), program=Program(order=("l0", "l1")))
    with pytest.raises(PolicyError, match=r"The 12 layers l0, l1, l2, \.\.\. are decided together"):
        allocate(net, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}))
    policy, _ = allocate(net, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}, ties=False))
    assert isinstance(policy, Policy)


def test_default_pins_stand_beside_any_program() -> None:
    net = chain((10, 100), (10, 100), (10, 100), (10, 100))
    scores = random_scores(net, (2, 3, 4))
    for program in (Program(coupled=True), Program(order=tuple(scores.layers)), Program(coupled=True, box=False)):
        policy, _ = allocate(net, replace(scores, program=program), Budget.parse(["bitops=3x3"]))
        assert {name: policy.layers[name] for name in resolve_pins(net)} == {"l0": EIGHT, "l3": EIGHT}
