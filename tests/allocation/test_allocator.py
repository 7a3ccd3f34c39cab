"""`allocate` finds the least harm under every kind of budget: an enumeration of all policies is the oracle."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation import AllocationSettings, allocate, decide
from mixbit.allocation._assignment import Assignment
from mixbit.cost import Budget, LayerBits, MemoryTable, _costs, costs
from mixbit.errors import BudgetError, InfeasibleBudget, PolicyError
from mixbit.network import FloatParameter, Network
from mixbit.policy import LayerScores, Pairs, Policy, Program, Scores, resolve_pins
from tests.support import (
    best_by_enumeration,
    chain,
    latency_table,
    layer,
    network,
    random_latency,
    random_memory,
    random_network,
    random_scores,
)

EIGHT = LayerBits(8, 8)


BUDGETS = [
    ["bitops=3x3"],
    ["weight-bytes=3x3"],
    ["activation-bytes=3x3"],
    ["bitops=3x4", "weight-bytes=3x3"],
    ["bitops=4x4", "weight-bytes=3x3", "activation-bytes=3x3"],
    ["bitops=1.2%", "activation-bytes=20%"],
]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("texts", BUDGETS, ids=" ".join)
@pytest.mark.parametrize("seed", range(4))
def test_equals_enumeration(seed: int, texts: list[str], ties: bool) -> None:
    net = random_network(seed, layers=5)
    if seed == 2:
        net = replace(net, float_parameters=(FloatParameter(name="w", size=40, macs=30, reason="no layer"),))
    scores = random_scores(net, (2, 5), seed)
    budget = Budget.parse(texts)
    pins = resolve_pins(net) if seed % 2 else {}
    expected = best_by_enumeration(net, scores, budget, pins, ties=ties)
    if math.isinf(expected):
        with pytest.raises(InfeasibleBudget):
            allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties))
        return
    policy, allocation = allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties))
    assert allocation.objective == pytest.approx(expected, rel=1e-9)
    assert allocation.proven
    assert policy.check(net) is policy
    limits = budget.resolve(net, pins)
    assert min(budget.slack(costs(net, policy.layers), limits).values()) >= 0
    harm = sum(scores.harm(name, bits) for name, bits in policy.layers.items() if name not in pins)
    assert harm == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100), factor=st.sampled_from([1e-6, 1e6]))
def test_scaled_scores_give_the_same_policy_and_more_budget_never_hurts(seed: int, factor: float) -> None:
    net = random_network(seed, layers=6)
    scores = random_scores(net, (2, 3, 4, 6), seed)
    scaled = replace(
        scores,
        layers={
            name: LayerScores(
                {b: h * factor for b, h in one.weight.items()}, {b: h * factor for b, h in one.activation.items()}
            )
            for name, one in scores.layers.items()
        },
    )
    small, large = (Budget.parse([f"bitops={text}"]) for text in ("3x3", "4x4"))
    policy, found = allocate(net, scores, small)
    assert allocate(net, scaled, small)[0].layers == policy.layers
    assert allocate(net, scores, large)[1].objective <= found.objective


def test_ties_share_activation_bits_and_are_noted() -> None:
    net = network([layer("stem", "x", "y"), layer("conv", "y", "z"), layer("down", "y", "w"), layer("fc", "z", "out")])
    curve = {4: 0.0, 2: 1.0}
    table = {"conv": LayerScores(curve, {4: 0.0, 2: 0.1}), "down": LayerScores(curve, {4: 0.0, 2: 5.0})}
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=table)
    budget = Budget.parse(["bitops=3x4"])
    tied, _ = allocate(net, scores, budget)
    assert tied.layers["conv"].activation_bits == tied.layers["down"].activation_bits
    assert any(note.startswith("tied (read one tensor): conv, down at A") for note in tied.notes)
    free, _ = allocate(net, scores, budget, AllocationSettings(ties=False))
    assert free.layers["conv"].activation_bits == 2
    assert free.layers["down"].activation_bits == 4
    assert any("ties off" in note for note in free.notes)


def test_a_pin_that_breaks_a_tie_is_noted() -> None:
    net = network([layer("stem", "x", "y"), layer("side", "x", "z"), layer("fc", "z", "out")])
    scores = random_scores(net, (2, 4))
    policy, _ = allocate(net, scores, Budget.parse(["bitops=4x4"]))
    assert policy.layers["stem"].activation_bits == 8 != policy.layers["side"].activation_bits
    bits = policy.layers["side"].activation_bits
    (note,) = (note for note in policy.notes if "broken" in note)
    assert note.startswith(f"tie broken by a pin: side at A{bits} read the tensor that stem A8 (pinned) reads")
    alike, _ = allocate(
        net, scores, Budget.parse(["bitops=4x4"]), AllocationSettings(pins={"stem": LayerBits(8, bits)})
    )
    assert not any("broken" in note for note in alike.notes)
    untied, _ = allocate(net, scores, Budget.parse(["bitops=4x4"]), AllocationSettings(ties=False))
    assert not any("broken" in note for note in untied.notes)


def test_first_and_last_are_pinned_by_default_and_counted() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    policy, _ = allocate(net, random_scores(net), Budget.parse(["bitops=3x3"]))
    assert policy.layers["l0"] == policy.layers["l2"] == EIGHT
    assert policy.costs["bitops"] == 2 * 6400 + 100 * math.prod(
        (policy.layers["l1"].weight_bits or 0, policy.layers["l1"].activation_bits or 0)
    )
    assert policy.notes[0] == "pinned: l0 W8A8, l2 W8A8"
    unpinned, _ = allocate(net, random_scores(net), Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}))
    assert EIGHT not in unpinned.layers.values()
    assert unpinned.notes[0] == "pinned: none"


def test_pinned_layers_need_no_scores_and_do_no_harm() -> None:
    net = chain((10, 100), (10, 100))
    full = random_scores(net)
    scores = replace(full, layers={"l1": full.layers["l1"]})
    policy, found = allocate(
        net, scores, Budget.parse(["bitops=4x4"]), AllocationSettings(pins={"l0": LayerBits(8, None)})
    )
    assert policy.layers["l0"] == LayerBits(8, None)
    assert found.objective == pytest.approx(scores.harm("l1", policy.layers["l1"]))
    with pytest.raises(PolicyError, match=r"no scores for 1 layers that are not pinned: l0"):
        allocate(net, scores, Budget.parse(["bitops=4x4"]), AllocationSettings(pins={}))


def test_all_layers_pinned_is_a_policy_like_any_other() -> None:
    net = chain((10, 100), (10, 100))
    policy, found = allocate(net, random_scores(net), Budget.parse(["bitops=12.8k"]))
    assert set(policy.layers.values()) == {EIGHT}
    assert found.objective == 0
    with pytest.raises(InfeasibleBudget, match=r"smallest is 12\.8k"):
        allocate(net, random_scores(net), Budget.parse(["bitops=12.7k"]))


def test_policy_tells_where_it_comes_from(tmp_path: object) -> None:
    net = replace(random_network(1), other_macs=5000)
    scores = random_scores(net, seed=3)
    policy, found = allocate(
        net, scores, Budget.parse(["bitops=3x4", "weight-bytes=8x"]), AllocationSettings(alpha=0.5)
    )
    assert (policy.method, policy.seed, policy.macs) == ("random", 3, "exact")
    assert policy.budget == {"bitops": "3x4", "weight-bytes": "8x"}
    assert {key: policy.allocation[key] for key in ("objective", "bound", "gap", "proven", "alpha", "ties")} == {
        "objective": found.objective,
        "bound": found.bound,
        "gap": 0.0,
        "proven": True,
        "alpha": 0.5,
        "ties": True,
    }
    used = costs(net, policy.layers)
    limits = Budget.parse(["bitops=3x4", "weight-bytes=8x"]).resolve(net, resolve_pins(net))
    assert policy.allocation["slack"] == {
        "bitops": limits["bitops"] - used.bitops,
        "weight-bytes": (limits["weight_bits"] - used.weight_bits) / 8,
    }
    assert policy.costs["bitops"] == used.bitops
    assert policy.costs["float_bitops"] == 1024 * sum(one.macs for one in net.layers)
    assert any("5000 MACs outside the layers" in note for note in policy.notes)
    assert Policy.load(_saved(policy, tmp_path)) == policy


def _saved(policy: Policy, folder: object) -> str:
    path = f"{folder}/policy.json"
    policy.save(path)
    return path


def test_alpha_weighs_the_weight_terms() -> None:
    net = chain((10, 100), (10, 100))
    curve = {6: 0.0, 2: 1.0}
    scores = Scores(
        fingerprint=net.fingerprint, method="m", layers={name: LayerScores(curve, curve) for name in ("l0", "l1")}
    )
    budget = Budget.parse(["bitops=2.4k"])  # each layer can have 6 bits on one side only
    heavy, found = allocate(net, scores, budget, AllocationSettings(pins={}, alpha=3.0))
    assert set(heavy.layers.values()) == {LayerBits(6, 2)}
    assert found.objective == 2.0
    light, found = allocate(net, scores, budget, AllocationSettings(pins={}, alpha=0.5))
    assert set(light.layers.values()) == {LayerBits(2, 6)}
    assert found.objective == 1.0


@pytest.mark.parametrize(("how", "bits"), [("forbid", 6), ("none", 4), ("isotonic", 6)])
def test_repair_of_scores_that_fall_with_fewer_bits(how: str, bits: int) -> None:
    """4 bits look better than 6; 2 bits are worst. Room for 6 bits."""
    net = chain((10, 100))
    odd = LayerScores(weight={6: 0.3, 4: 0.1, 2: 0.9}, activation={8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={"l0": odd})
    policy, _ = allocate(net, scores, Budget.parse(["bitops=1M"]), AllocationSettings(pins={}, repair=how))  # type: ignore[arg-type]
    if how == "isotonic":  # both cost the same harm then: either is right
        assert policy.layers["l0"].weight_bits in (4, 6)
    else:
        assert policy.layers["l0"].weight_bits == bits
    forbidden = [note for note in policy.notes if "forbidden" in note]
    assert forbidden == (["l0: weight bits 4 forbidden, they score better than more bits"] if how == "forbid" else [])


def test_curves_that_joint_harms_go_with_are_not_repaired() -> None:
    """4 bits look better than 6 by themselves; what they do beside the other layer is told by the pairs."""
    net = chain((10, 100), (10, 100))
    odd = LayerScores(weight={6: 0.3, 4: 0.1}, activation={8: 0.0})
    pairs = Pairs((("l0", "weight", 4), ("l1", "weight", 4)), ((0.0, 0.5), (0.5, 0.0)))
    layers = dict.fromkeys(("l0", "l1"), odd)
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=Program(pairs=pairs))
    policy, found = allocate(net, scores, Budget.parse(["bitops=1M"]), AllocationSettings(pins={}, exact=True))
    assert sorted(bits.weight_bits or 0 for bits in policy.layers.values()) == [4, 6]
    assert found.objective == pytest.approx(0.1 + 0.3) and policy.allocation["repair"] == "none"


def falling() -> tuple[Network, Scores]:
    """Three layers whose scores call 3 bits better than 4: the repair takes them away."""
    net = chain((10, 100), (10, 100), (10, 100))
    noisy = LayerScores(weight={4: 1.0, 3: 0.5}, activation={4: 1.0, 3: 0.5})
    layers = dict.fromkeys((one.name for one in net.layers), noisy)
    return net, Scores(fingerprint=net.fingerprint, method="m", layers=layers)


def test_bits_that_the_repair_took_away_are_named_with_the_remedy() -> None:
    net, scores = falling()
    budget = Budget.parse(["bitops=3x3"])
    with pytest.raises(InfeasibleBudget, match=r"took away l0: weight bits 3; l0: activation bits 3;") as caught:
        allocate(net, scores, budget, AllocationSettings(pins={}))
    assert "and 1 more, which score better" in str(caught.value) and "--repair isotonic" in str(caught.value)
    assert allocate(net, scores, budget, AllocationSettings(pins={}, repair="isotonic"))[0].layers["l0"] == LayerBits(
        3, 3
    )


def test_the_uniform_network_takes_the_place_of_nothing() -> None:
    net, scores = falling()
    policy, found = allocate(net, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}, or_uniform=True))
    assert set(policy.layers.values()) == {LayerBits(3, 3)}
    assert (found.objective, found.solver, found.proven) == (pytest.approx(3.0), "uniform", False)
    assert found.bound <= found.objective
    assert "the uniform W3A3 is taken instead" in policy.notes[-1]
    kept, _ = allocate(net, scores, Budget.parse(["bitops=4x4"]), AllocationSettings(pins={}, or_uniform=True))
    assert set(kept.layers.values()) == {LayerBits(4, 4)}, "what the repair leaves comes first"
    with pytest.raises(InfeasibleBudget, match="took away"):
        allocate(net, scores, Budget.parse(["bitops=2x2"]), AllocationSettings(pins={}, or_uniform=True))


def test_of_several_uniform_networks_the_least_harmful_is_taken() -> None:
    """The repair leaves 4 bits; within the budget are 2 and 3 on either side, of which 2 and 2 harm least."""
    net = chain((10, 100), (10, 100), (10, 100))
    curve = {4: 1.0, 3: 0.75, 2: 0.5}
    layers = {one.name: LayerScores(dict(curve), dict(curve)) for one in net.layers}
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers)
    policy, found = allocate(net, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}, or_uniform=True))
    assert set(policy.layers.values()) == {LayerBits(2, 2)}
    assert (found.solver, found.objective) == ("uniform", pytest.approx(3.0))


@pytest.mark.parametrize("side", ["weights", "inputs"])
def test_a_uniform_network_has_the_same_bits_everywhere(side: str) -> None:
    """Room for two layers with 4 bits on one side beside 3 on the other: less harm, and not uniform."""
    net = chain((10, 100), (10, 100), (10, 100))
    rising, odd = {4: 0.0, 3: 0.2}, {4: 1.0, 3: 0.5}
    curve = LayerScores(rising, odd) if side == "weights" else LayerScores(odd, rising)
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={one.name: curve for one in net.layers})
    policy, found = allocate(net, scores, Budget.parse(["bitops=3300"]), AllocationSettings(pins={}, or_uniform=True))
    assert set(policy.layers.values()) == {LayerBits(3, 3)} and found.objective == pytest.approx(3 * 0.7)
    best = 2 * 0.5 + 0.7  # of the bits as they are scored
    assert found.bound == pytest.approx(best) and found.gap == pytest.approx((3 * 0.7 - best) / (3 * 0.7))


@pytest.mark.parametrize("ties", [True, False])
def test_layouts_are_charged_with_ties_and_without(ties: bool) -> None:
    """The best choice takes a byte too much when it is laid out; what comes next is that of an enumeration."""
    net = network([layer("a", "x", "y"), layer("b", "x", "z"), layer("c", "z", "out")])
    scores, memory, budget = random_scores(net, (2, 3, 5), 1), random_memory(net, seed=1), Budget.parse(["ram=3x3"])
    first, _ = allocate(net, scores, budget, AllocationSettings(pins={}, ties=ties, memory=memory))
    limit = budget.resolve(net, {}, memory=memory)["ram_bytes"]
    memory = memory.laid_out(net, first.layers, 0, limit + 1)
    budget = Budget.parse([f"ram={limit}B"])
    policy, found = allocate(net, scores, budget, AllocationSettings(pins={}, ties=ties, memory=memory))
    assert {n: b.activation_bits for n, b in policy.layers.items()} != {
        n: b.activation_bits for n, b in first.layers.items()
    }
    assert found.objective == pytest.approx(best_by_enumeration(net, scores, budget, {}, ties=ties, memory=memory))


def test_a_choice_beyond_the_budget_is_never_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a solver says, its choice is counted once more."""
    net, solved = chain((10, 100), (10, 100)), Assignment.best

    def least_harm(self: Assignment) -> Any:
        groups, found, texts = solved(self)
        return groups, replace(found, choice=tuple(int(group.score.argmin()) for group in groups)), texts

    monkeypatch.setattr(Assignment, "best", least_harm)
    with pytest.raises(BudgetError, match=r"The budget is exceeded: bitops=3x3 allows 1.8k and 3.2k is used"):
        allocate(net, random_scores(net), Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}))


def test_limpq_counting_is_used_on_both_sides() -> None:
    net = network([layer("a", "x", "y", macs=100, limpq=110), layer("b", "y", "z", macs=100, limpq=100)])
    scores = random_scores(net, (2, 3, 4))
    policy, _ = allocate(net, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}, macs="limpq"))
    assert policy.macs == "limpq"
    assert policy.costs["float_bitops"] == 210 * 1024
    used = costs(net, policy.layers, macs="limpq").bitops
    assert policy.costs["bitops"] == used
    assert policy.allocation["slack"] == {"bitops": 210 * 9 - used}
    assert policy.check(net) is policy


# ------------------------------------------------------------------------------------------ measured limits


LATENCIES = [
    ["latency=9us"],
    ["latency=12us"],
    ["latency=8x8"],
    ["latency=12us", "bitops=4x4"],
    ["latency=13us", "weight-bytes=4x4", "activation-bytes=5x5"],
]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("texts", LATENCIES, ids=" ".join)
@pytest.mark.parametrize("seed", range(4))
def test_latency_equals_enumeration(seed: int, texts: list[str], ties: bool) -> None:
    """With any times: fewer bits may take longer, and options of one layer may take the same."""
    net = random_network(seed, layers=5)
    scores, table = random_scores(net, (2, 5), seed), random_latency(net, (2, 5, 8), seed)
    budget = Budget.parse(texts)
    pins = resolve_pins(net) if seed % 2 else {}
    expected = best_by_enumeration(net, scores, budget, pins, ties=ties, latency=table)
    if math.isinf(expected):
        with pytest.raises(InfeasibleBudget):
            allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties, latency=table))
        return
    policy, allocation = allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties, latency=table))
    assert allocation.objective == pytest.approx(expected, rel=1e-9)
    assert allocation.proven
    limits = budget.resolve(net, pins, latency=table)
    assert policy.costs["latency_ns"] == table.cost(policy.layers) <= limits["latency"]
    assert policy.allocation["slack"]["latency"] == limits["latency"] - policy.costs["latency_ns"]  # type: ignore[call-overload, index]


def test_latency_is_a_limit_by_hand() -> None:
    """4 bits are the fastest of l1, 2 bits the slowest; the rest of the network takes 1 us of the budget."""
    net = chain((10, 100), (10, 100))
    times = {"l0": {"W8A8": 2_000}, "l1": {"W2A8": 9_000, "W4A8": 3_000, "W6A8": 5_000}}
    table = latency_table(net, times, rest=1_000)
    curve = LayerScores(weight={2: 1.0, 4: 0.5, 6: 0.1}, activation={8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={"l1": curve})
    chosen = {
        text: allocate(
            net, scores, Budget.parse([f"latency={text}"]), AllocationSettings(pins={"l0": EIGHT}, latency=table)
        )[0]
        for text in ("8us", "7999ns", "6us")
    }
    bits = [policy.layers["l1"].weight_bits for policy in chosen.values()]
    assert bits == [6, 4, 4]
    assert [policy.costs["latency_ns"] for policy in chosen.values()] == [8_000, 6_000, 6_000]
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, scores, Budget.parse(["latency=5.9us"]), AllocationSettings(pins={"l0": EIGHT}, latency=table))
    text = str(caught.value)
    assert "latency=5.9us cannot be met: the smallest is 6us (every free layer at its fastest bits)" in text
    assert "layers that block it: l1 3us, l0 (pinned W8A8) 2us, all that is no layer 1us" in text
    assert caught.value.nearest == {"latency": 6_000}
    assert caught.value.blocking == ["l1", "l0"]


def test_latency_and_another_limit_that_clash_only_together() -> None:
    """Few bits are slow here, so time asks for many bits and bytes for few."""
    net = chain((100, 1000))
    table = latency_table(net, {"l0": {f"W{b}A8": 1_000 * (10 - b) for b in (2, 4, 8)}}, rest=500)
    curve = LayerScores(weight={2: 1.0, 4: 0.5, 8: 0.0}, activation={8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={"l0": curve})
    budget = Budget.parse(["latency=3us", "weight-bytes=50B"])
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, scores, budget, AllocationSettings(pins={}, latency=table))
    assert caught.value.nearest == {"latency": 6_500, "weight-bytes": 100.0}
    assert "latency=6.5us or weight-bytes=100B can" in str(caught.value)


def test_a_table_without_a_limit_on_it_is_told() -> None:
    net = chain((10, 100), (10, 100))
    table = random_latency(net)
    policy, _ = allocate(net, random_scores(net), Budget.parse(["bitops=3x3"]), AllocationSettings(latency=table))
    plain, _ = allocate(net, random_scores(net), Budget.parse(["bitops=3x3"]))
    assert policy.layers == plain.layers
    assert policy.costs == {**plain.costs, "latency_ns": table.cost(policy.layers)}
    assert policy.notes == [*plain.notes, "latency: measured with paper 1.0 on a CPU, batch 1, threads 1"]


def test_the_policy_says_for_which_processors_the_times_are() -> None:
    net = chain((10, 100))
    table = replace(latency_table(net, {"l0": {"W8A8": 5}}), cpu="vnni")
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={})
    policy, _ = allocate(net, scores, Budget.parse(["latency=1us"]), AllocationSettings(latency=table))
    assert policy.allocation["latency_cpu"] == "vnni"
    assert policy.notes[-1].endswith("threads 1, files of mixbit export --cpu vnni")
    assert "latency_cpu" not in allocate(net, scores, Budget.parse(["bitops=8x8"]))[0].allocation


def test_what_the_table_says_of_its_times_stands_in_the_policy() -> None:
    net = chain((10, 100))
    table = latency_table(net, {"l0": {"W8A8": 5}}, notes=["fewer bits bring no speed"])
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={})
    policy, _ = allocate(net, scores, Budget.parse(["latency=1us"]), AllocationSettings(latency=table))
    assert policy.notes[-1] == "fewer bits bring no speed"


def test_options_that_the_table_lacks_are_named() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    scores, table = random_scores(net, (2, 3, 5)), random_latency(net, (2, 3, 8))
    with pytest.raises(BudgetError, match=r"no measurement of 'l1' at W2A5"):
        allocate(net, scores, Budget.parse(["latency=1s"]), AllocationSettings(latency=table))
    pins = {"l0": LayerBits(8, None), "l2": EIGHT}
    with pytest.raises(BudgetError, match=r"no measurement of 'l0' at W8A32"):
        allocate(
            net, random_scores(net, (2, 3)), Budget.parse(["latency=1s"]), AllocationSettings(pins=pins, latency=table)
        )


def test_a_latency_budget_needs_its_table() -> None:
    net = chain((10, 100), (10, 100))
    with pytest.raises(BudgetError, match=r"latency=1ms needs a latency table.*--latency TABLE"):
        allocate(net, random_scores(net), Budget.parse(["latency=1ms"]))
    table = random_latency(chain((11, 100), (10, 100)))
    with pytest.raises(BudgetError, match="another network"):
        allocate(net, random_scores(net), Budget.parse(["latency=1ms"]), AllocationSettings(latency=table))


@pytest.mark.parametrize(
    "program",
    [
        Program(coupled=True),
        Program(order=("l1", "l3", "l2")),
        Program(box=True, coupled=True),
        Program(pairs=Pairs((("l1", "weight", 2), ("l2", "weight", 2)), ((0.0, 0.4), (0.4, 0.0)))),
    ],
    ids=["coupled", "order", "box", "pairs"],
)
def test_every_program_keeps_within_the_time(program: Program) -> None:
    net = chain(*[(10, 100)] * 5)
    names = [one.name for one in net.layers[1:-1]]
    straight = LayerScores(weight={2: 6.0, 4: 4.0, 8: 0.0}, activation={2: 6.0, 4: 4.0, 8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=dict.fromkeys(names, straight), program=program)
    times = {f"W{w}A{a}": 100 * w + 10 * a for w in (2, 4, 8) for a in (2, 4, 8)}
    table = latency_table(net, dict.fromkeys([one.name for one in net.layers], times), rest=50)
    policy, _ = allocate(net, scores, Budget.parse(["latency=3300ns"]), AllocationSettings(latency=table))
    assert policy.costs["latency_ns"] <= 3_300
    assert any(policy.layers[name] != LayerBits(2, 2) for name in names)


# ---------------------------------------------------------------------------------------------- infeasible


def test_infeasible_says_what_is_possible_and_who_blocks_it() -> None:
    net = chain((10, 100), (10, 1000), (10, 100))
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, random_scores(net), Budget.parse(["bitops=10k"]))
    text = str(caught.value)
    assert "bitops=10k cannot be met: the smallest is 16.8k (every free layer at its lowest bits)" in text
    assert "layers that block it: l0 (pinned W8A8) 6.4k, l2 (pinned W8A8) 6.4k, l1 4k" in text
    assert caught.value.nearest == {"bitops": 16_800}
    assert caught.value.blocking == ["l0", "l2", "l1"]
    allocate(net, random_scores(net), Budget.parse(["bitops=16.8k"]))


def test_shares_of_float32_in_the_message_are_in_the_counting_of_the_limit() -> None:
    """By LIMPQ's counting of 12 MACs where there are 10, W2A2 takes 4 of 1024 as by any other."""
    net = network([layer("a", "x", "y", macs=100, limpq=120)])
    with pytest.raises(InfeasibleBudget, match=r"the smallest is 0\.3907% \(480, every"):
        allocate(net, random_scores(net), Budget.parse(["bitops=0.1%"]), AllocationSettings(pins={}, macs="limpq"))


def test_parameters_in_float32_are_in_the_limit_the_message_and_the_notes() -> None:
    kept = FloatParameter(name="gru.weight", size=1000, macs=500, reason="gru is not supported")
    net = replace(chain((100, 1000), (100, 1000)), float_parameters=(kept,), other_macs=520)
    least = 100 * 2 * 2 + 32_000
    with pytest.raises(InfeasibleBudget, match=r"parameters that stay in float32 3\.907kiB") as caught:
        allocate(net, random_scores(net), Budget.parse(["weight-bytes=1kB"]), AllocationSettings(pins={}))
    assert caught.value.nearest == {"weight-bytes": least / 8}
    policy, _ = allocate(
        net, random_scores(net), Budget.parse([f"weight-bytes={least // 8}B"]), AllocationSettings(pins={})
    )
    assert policy.costs["weight_bytes"] == least // 8
    assert policy.costs["float_weight_bytes"] == 4 * 1200
    assert any("1000 elements stay in float32" in note and "gru.weight (gru is" in note for note in policy.notes)
    assert any(note.startswith("20 MACs outside the layers") for note in policy.notes)


def test_infeasible_compression_gives_the_largest() -> None:
    net = chain((10, 100), (100, 1000), (10, 100))
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, random_scores(net), Budget.parse(["weight-bytes=12.2x", "bitops=1T"]))
    # 120 * 32 / (2 * 80 + 200) = 10.667
    assert "weight-bytes=12.2x cannot be met: the largest is 10.66x (45B, every free layer" in str(caught.value)
    assert caught.value.nearest == {"weight-bytes": 45.0, "bitops": 16_800.0}
    allocate(net, random_scores(net), Budget.parse(["weight-bytes=10.66x"]))


def test_infeasible_activations_name_the_step() -> None:
    net = network([layer("a", "x", "y"), layer("b", "y", "z")], sizes={"x": 80, "y": 400, "z": 8})
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(
            net, random_scores(net), Budget.parse(["activation-bytes=100B"]), AllocationSettings(pins={"a": EIGHT})
        )
    text = str(caught.value)
    assert (
        "activation-bytes=100B cannot be met: the smallest is 180B (every free layer at its lowest bits at step a)"
        in text
    )
    assert "b 100B, tensors that no choice changes 80B" in text
    assert caught.value.nearest == {"activation-bytes": 180.0}


def test_every_broken_limit_is_named() -> None:
    net = chain((10, 100), (10, 100))
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, random_scores(net), Budget.parse(["bitops=1", "weight-bytes=1B", "activation-bytes=1B"]))
    for kind in ("bitops=1 cannot", "weight-bytes=1B cannot", "activation-bytes=1B cannot"):
        assert kind in str(caught.value)


def test_limits_that_clash_only_together() -> None:
    """Fewer bits save BitOps, but the code of their width takes more flash than they free."""
    net = chain((10, 100), (10, 100))
    weights = {one.name: {2: 25, 8: 100} for one in net.layers}
    memory = MemoryTable(
        fingerprint=net.fingerprint, target="t", weights=weights, code={2: 400, 8: 0}, rest=10, steps=()
    )
    curve = LayerScores({2: 1.0, 8: 0.0}, {8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={one.name: curve for one in net.layers})
    limits = ["bitops=8000", "flash=450B"]
    for alone in limits:
        allocate(net, scores, Budget.parse([alone]), AllocationSettings(pins={}, memory=memory))
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, scores, Budget.parse(limits), AllocationSettings(pins={}, memory=memory))
    assert "each limit can be met, but not all together" in str(caught.value)
    assert "With the others as they are, bitops=12.8k or flash=460B can." in str(caught.value)
    assert caught.value.nearest == {"bitops": 12_800, "flash": 460}
    for raised, other in (("bitops=12.8k", limits[1]), ("flash=460B", limits[0])):
        allocate(net, scores, Budget.parse([raised, other]), AllocationSettings(pins={}, memory=memory))


# ---------------------------------------------------------------------------------------------- once


def test_a_budget_is_resolved_and_a_policy_costed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks at the float32 network beside them, one for the limit in % and one for the policy's table."""
    net, resolved, costed = random_network(3), [], []
    resolve, peak = Budget.resolve, _costs._peak
    monkeypatch.setattr(Budget, "resolve", lambda *given: (resolved.append(given), resolve(*given))[1])
    monkeypatch.setattr(_costs, "_peak", lambda found, layers: (costed.append(dict(layers)), peak(found, layers))[1])
    found = decide(net, random_scores(net), Budget.parse(["bitops=4%", "weight-bytes=4x"]))
    assert len(resolved) == 1 and costed.count(dict(found.policy.layers)) == 1
    assert len(costed) <= 4 and found.costs == costs(net, found.policy.layers)
    assert found.limits == Budget.parse(["bitops=4%", "weight-bytes=4x"]).resolve(net, resolve_pins(net))


# ---------------------------------------------------------------------------------------------- bad input


def test_scores_of_another_model() -> None:
    net, other = chain((10, 100)), chain((11, 100))
    with pytest.raises(PolicyError, match=r"score table was made for another model: the layers have the same names"):
        allocate(net, random_scores(other), Budget.parse(["bitops=3x4"]))


def test_scores_with_an_unknown_layer() -> None:
    net = network([layer("conv1", "x", "y")])
    scores = random_scores(net)
    scores = replace(scores, layers={**scores.layers, "conv2": scores.layers["conv1"]})
    with pytest.raises(PolicyError, match=r"'conv2', which this network does not have. Did you mean 'conv1'"):
        allocate(net, scores, Budget.parse(["bitops=3x4"]))


def test_unknown_pin() -> None:
    net = network([layer("conv1", "x", "y")])
    with pytest.raises(BudgetError, match=r"pin 'conv2' matches no layer. Did you mean 'conv1'"):
        allocate(net, random_scores(net), Budget.parse(["bitops=3x4"]), AllocationSettings(pins={"conv2": EIGHT}))


def test_bits_that_only_some_tied_layers_offer_are_noted() -> None:
    net = network([layer("a", "x", "y"), layer("b", "x", "z")])
    table = {"a": LayerScores({4: 0.0}, {6: 0.0, 4: 1.0}), "b": LayerScores({4: 0.0}, {4: 0.0, 3: 1.0})}
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=table)
    policy, found = allocate(net, scores, Budget.parse(["bitops=8x8"]), AllocationSettings(pins={}))
    assert {bits.activation_bits for bits in policy.layers.values()} == {4}
    assert found.objective == 1.0
    assert "a, b: activation bits 3, 6 are not open to all" in policy.notes


def test_tied_layers_without_common_bits() -> None:
    net = network([layer("a", "x", "y"), layer("b", "x", "z")])
    table = {"a": LayerScores({4: 0.0}, {4: 0.0}), "b": LayerScores({4: 0.0}, {3: 0.0})}
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=table)
    with pytest.raises(PolicyError, match="none in common"):
        allocate(net, scores, Budget.parse(["bitops=8x8"]), AllocationSettings(pins={}))
    policy, _ = allocate(net, scores, Budget.parse(["bitops=8x8"]), AllocationSettings(pins={}, ties=False))
    assert policy.layers == {"a": LayerBits(4, 4), "b": LayerBits(4, 3)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("texts", [["bitops=1x9"], ["bitops=4x9", "weight-bytes=3x3"]], ids=" ".join)
def test_weights_of_one_bit_and_inputs_of_sixteen_are_options_like_others(texts: list[str], seed: int) -> None:
    net = random_network(seed, layers=3)
    found = random_scores(net, (1, 3, 8), seed=seed)
    layers = {
        name: LayerScores(weight=one.weight, activation=dict(zip((2, 9, 16), one.activation.values(), strict=True)))
        for name, one in found.layers.items()
    }
    scores = replace(found, layers=layers)
    policy, allocation = allocate(net, scores, Budget.parse(texts), AllocationSettings(pins={}))
    best = best_by_enumeration(net, scores, Budget.parse(texts), {}, ties=True)
    assert allocation.objective == pytest.approx(best)
    assert all(bits.weight_bits in (1, 3, 8) and bits.activation_bits in (2, 9, 16) for bits in policy.layers.values())


@pytest.mark.parametrize("seed", range(4))
def test_a_limit_on_activations_is_kept_where_inputs_of_sixteen_bits_are_free_to_be_chosen(seed: int) -> None:
    """Tensors that are kept once are counted at 16 bits then, whatever is chosen: never more than the limit."""
    net, budget = random_network(seed, layers=4), Budget.parse(["activation-bytes=8x12"])
    scores = random_scores(net, (3, 8), seed=seed)
    curves = {name: LayerScores(weight=one.weight, activation={4: 1.0, 16: 0.0}) for name, one in scores.layers.items()}
    policy, _ = allocate(net, replace(scores, layers=curves), budget, AllocationSettings(pins={}))
    assert costs(net, policy.layers).activation_bytes <= budget.resolve(net, {})["activation_bytes"]
