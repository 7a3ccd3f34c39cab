"""Code of a width is paid once: the choice with it is the best of all, by an enumeration."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product
from random import Random

import pytest

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits, MemoryTable, costs
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.policy import LayerScores, Program, Scores, resolve_pins
from tests.support import best_by_enumeration, chain, random_memory, random_network, random_scores


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(
    "texts", [["flash=3x3"], ["ram=3x3"], ["flash=4x4", "ram=3x4"], ["flash=3x3", "bitops=4x4"]], ids=" ".join
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_enumeration(seed: int, texts: list[str], ties: bool) -> None:
    net = random_network(seed, layers=4)
    scores = random_scores(net, (2, 3, 5), seed)
    memory = random_memory(net, seed=seed)
    budget, pins = Budget.parse(texts), resolve_pins(net) if seed % 2 else {}
    expected = best_by_enumeration(net, scores, budget, pins, ties=ties, memory=memory)
    if math.isinf(expected):
        with pytest.raises(InfeasibleBudget):
            allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties, memory=memory))
        return
    policy, found = allocate(net, scores, budget, AllocationSettings(pins=pins, ties=ties, memory=memory))
    assert found.objective == pytest.approx(expected, rel=1e-9) and found.proven
    assert policy.costs["flash_bytes"] == memory.flash(policy.layers)
    assert policy.costs["ram_bytes"] == memory.ram(net, policy.layers)
    assert policy.check(net) is policy


def test_a_width_whose_code_is_dear_is_not_worth_one_small_layer() -> None:
    """Without code, the small layer would take 4 bits and leave the large one at 8."""
    net = chain((100, 10), (100, 10), (100, 10))
    curve = LayerScores({8: 0.0, 4: 1.0}, {8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={one.name: curve for one in net.layers})
    weights = {one.name: {b: one.weights * b // 8 for b in (4, 8)} for one in net.layers}
    cheap, dear = (
        MemoryTable(fingerprint=net.fingerprint, target="t", weights=weights, code={4: code, 8: 40}, rest=60, steps=())
        for code in (0, 51)
    )
    assert sum(row[8] for row in weights.values()) == 300
    budget = Budget.parse(["flash=350"])
    few, many = (
        allocate(net, scores, budget, AllocationSettings(pins={}, memory=memory))[0] for memory in (cheap, dear)
    )
    assert sorted(str(bits) for bits in few.layers.values()) == ["W4A8", "W8A8", "W8A8"]
    # 60 + 51 + 150 with all at 4 bits; with one at 8, its code and 50 bytes more: 351.
    assert {str(bits) for bits in many.layers.values()} == {"W4A8"}


def test_the_smallest_flash_counts_code() -> None:
    net = chain((100, 10), (100, 10))
    curve = LayerScores({8: 0.0, 4: 1.0}, {8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={one.name: curve for one in net.layers})
    weights = {one.name: {4: 50, 8: 100} for one in net.layers}
    memory = MemoryTable(fingerprint=net.fingerprint, target="t", weights=weights, code={4: 30, 8: 5}, rest=7, steps=())
    with pytest.raises(InfeasibleBudget, match=r"the smallest is 137B") as caught:
        allocate(net, scores, Budget.parse(["flash=136B"]), AllocationSettings(pins={}, memory=memory))
    assert caught.value.nearest == {"flash": 137}
    policy, _ = allocate(net, scores, Budget.parse(["flash=137B"]), AllocationSettings(pins={}, memory=memory))
    assert memory.flash(policy.layers) == 137


def test_a_limit_that_only_other_widths_than_the_pinned_ones_meet() -> None:
    """All at the width of the pin take 307 bytes, with the code of 4 bits one can take 4: 287, or two: 237."""
    net = chain((100, 10), (100, 10), (100, 10))
    curve = LayerScores({8: 0.0, 4: 1.0}, {8: 0.0})
    scores = Scores(fingerprint=net.fingerprint, method="m", layers={one.name: curve for one in net.layers})
    weights = {one.name: {4: 50, 8: 100} for one in net.layers}
    memory = MemoryTable(fingerprint=net.fingerprint, target="t", weights=weights, code={4: 30, 8: 0}, rest=7, steps=())
    pins = {net.layers[0].name: LayerBits(8, 8)}
    for limit, flash in ((307, 307), (306, 287), (286, 237)):
        policy, _ = allocate(
            net, scores, Budget.parse([f"flash={limit}B"]), AllocationSettings(pins=pins, memory=memory)
        )
        assert policy.costs["flash_bytes"] == flash


def test_joint_harms_and_orders_hold_under_flash() -> None:
    net = chain((100, 10), (100, 10), (100, 10))
    table = random_scores(net, (2, 3, 5), 1)
    names = [one.name for one in net.layers]
    scores = Scores(
        fingerprint=net.fingerprint, method="m", layers=table.layers, program=Program(order=tuple(reversed(names)))
    )
    memory = random_memory(net, seed=2)
    policy, _ = allocate(net, scores, Budget.parse(["flash=3x3"]), AllocationSettings(pins={}, memory=memory))
    bits = [policy.layers[name].weight_bits or 0 for name in names]
    assert bits == sorted(bits)


@pytest.mark.parametrize(
    ("sizes", "code", "offered"),
    [
        ((100, 50, 80), {2: 200, 4: 10, 8: 90}, [(2, 8), (2, 4), (4, 8)]),
        ((100, 50, 80), {2: 5, 4: 150, 8: 90}, [(2, 8), (2, 4), (4, 8)]),
        ((40, 200, 60), {2: 90, 4: 10, 8: 250}, [(2, 4), (4, 8), (2, 4)]),
        ((104, 328, 472), {2: 32, 4: 130, 8: 60}, [(4, 8), (4, 8), (2, 8)]),
        ((300, 40, 40), {2: 30, 4: 20, 8: 90}, [(4, 8), (4, 8), (2, 8)]),
    ],
)
def test_an_order_that_some_widths_cannot_keep_is_kept_by_others(
    sizes: tuple[int, ...], code: dict[int, int], offered: list[tuple[int, ...]]
) -> None:
    """The least flash in the order is that of an enumeration, also where a width that is left out breaks the order."""
    net = chain(*((size, 10) for size in sizes))
    names = [one.name for one in net.layers]
    layers = {n: LayerScores({b: 1 - b / 8 for b in bits}, {8: 0.0}) for n, bits in zip(names, offered, strict=True)}
    program = Program(order=tuple(reversed(names)))
    scores = Scores(fingerprint=net.fingerprint, method="m", layers=layers, program=program)
    weights = {one.name: {b: one.weights * b // 8 for b in code} for one in net.layers}
    memory = MemoryTable(fingerprint=net.fingerprint, target="t", weights=weights, code=code, rest=7, steps=())
    rising = [bits for bits in product(*offered) if sorted(bits) == list(bits)]
    least = min(memory.flash({n: LayerBits(b, 8) for n, b in zip(names, bits, strict=True)}) for bits in rising)
    policy, _ = allocate(net, scores, Budget.parse([f"flash={least}B"]), AllocationSettings(pins={}, memory=memory))
    assert policy.costs["flash_bytes"] == least
    with pytest.raises(InfeasibleBudget) as caught:
        allocate(net, scores, Budget.parse([f"flash={least - 1}B"]), AllocationSettings(pins={}, memory=memory))
    smallest = min(
        memory.flash({n: LayerBits(b, 8) for n, b in zip(names, bits, strict=True)}) for bits in product(*offered)
    )
    # Where no bits at all are within a limit, the least of all bits is told, in order or not.
    assert caught.value.nearest == {"flash": smallest if least - 1 < smallest else least}


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_limits_in_an_order_are_those_of_an_enumeration(seed: int) -> None:
    """Two limits that can be met one by one, also in the order, and not together: each with the other as it is."""
    random = Random(seed)
    net = chain(*((random.randrange(20, 400), random.randrange(5, 60)) for _ in range(4)))
    names, widths = [one.name for one in net.layers], (2, 4, 8)
    layers = {n: LayerScores({b: 1 - b / 8 for b in widths}, {8: 0.0}) for n in names}
    scores = Scores(
        fingerprint=net.fingerprint, method="m", layers=layers, program=Program(order=tuple(reversed(names)))
    )
    code = {b: random.randrange(10, 300) for b in widths}
    weights = {one.name: {b: one.weights * (11 - b) for b in widths} for one in net.layers}  # fewer bits, more bytes
    memory = MemoryTable(fingerprint=net.fingerprint, target="t", weights=weights, code=code, rest=7, steps=())
    found = []
    for bits in combinations_with_replacement(widths, 4):
        policy = {name: LayerBits(b, 8) for name, b in zip(names, bits, strict=True)}
        found.append((memory.flash(policy), costs(net, policy).bitops))
    flash, bitops = min(found)[0], min(found, key=lambda one: one[1])[1]
    nearest = {
        "flash": min(one[0] for one in found if one[1] <= bitops),
        "bitops": min(one[1] for one in found if one[0] <= flash),
    }
    assert nearest["flash"] > flash and nearest["bitops"] > bitops
    with pytest.raises(InfeasibleBudget, match="not in the order of the layers") as caught:
        allocate(
            net,
            scores,
            Budget.parse([f"flash={flash}B", f"bitops={bitops}"]),
            AllocationSettings(pins={}, memory=memory),
        )
    assert caught.value.nearest == nearest


@pytest.mark.parametrize("text", ["flash=50%", "ram=2x"])
def test_float32_has_no_form_on_the_device(text: str) -> None:
    net = chain((10, 100))
    with pytest.raises(BudgetError, match="no form on the device"):
        allocate(net, random_scores(net), Budget.parse([text]), AllocationSettings(pins={}, memory=random_memory(net)))


def test_limits_on_a_device_need_a_table() -> None:
    net = chain((10, 100))
    with pytest.raises(BudgetError, match=r"flash=1kB needs a memory table.*memory_table"):
        allocate(net, random_scores(net), Budget.parse(["flash=1kB"]), AllocationSettings(pins={}))
    with pytest.raises(BudgetError, match="of another network"):
        allocate(
            net,
            random_scores(net),
            Budget.parse(["ram=1kB"]),
            AllocationSettings(pins={}, memory=random_memory(chain((20, 100)))),
        )


def test_a_pin_in_float32_has_no_form() -> None:
    net = chain((10, 100), (10, 100))
    pins = {"l0": LayerBits(None, None)}
    with pytest.raises(BudgetError, match=r"l0 at 32 bits has no form.*Legal: 2, 3"):
        allocate(
            net,
            random_scores(net),
            Budget.parse(["flash=1MB"]),
            AllocationSettings(pins=pins, memory=random_memory(net)),
        )
