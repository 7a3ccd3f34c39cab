"""Rows are exact, and the largest of them is the peak that `mixbit.cost` reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation._groups import Group, build_groups
from mixbit.allocation._rows import Row, build_rows, undominated_steps
from mixbit.allocation.allocator import layer_options
from mixbit.cost import LayerBits, Pins, costs
from mixbit.network import Network
from tests.support import chain, layer, network, random_memory, random_network, random_scores

EIGHT = LayerBits(8, 8)


def problem(net: Network, pins: Pins, limits: dict[str, int], *, tied: bool = True) -> tuple[list[Group], list[Row]]:
    options = layer_options(net, random_scores(net), pins, alpha=1.0, repair="none")
    groups = build_groups(net, options, tied=tied, macs="exact", limited=limits)
    return groups, build_rows(net, groups, limits)


def three_steps() -> Network:
    return network(
        [layer("a", "x", "y"), layer("b", "y", "z"), layer("c", "z", "out")],
        sizes={"x": 80, "y": 40, "z": 200, "out": 8},
    )


def test_sums_are_one_row_each() -> None:
    groups, rows = problem(three_steps(), {}, {"bitops": 10**9, "weight_bits": 10**9})
    assert [row.name for row in rows] == ["bitops", "weight_bits"]
    assert [row.costs for row in rows] == [[g.bitops for g in groups], [g.weight_bits for g in groups]]


def test_a_limit_of_any_size_fits_64_bits() -> None:
    _, rows = problem(three_steps(), {}, {"bitops": 10**40, "activation_bytes": 10**40})
    assert [row.limit for row in rows] == [row.most for row in rows]


def test_activation_rows_by_hand() -> None:
    # Bits 2, 3, 4. Step a: x + y, step b: y + z, step c: z + 8 constant bytes.
    _, rows = problem(three_steps(), {}, {"activation_bytes": 100})
    table = {row.name: (row.least, row.most, row.constant, row.limit) for row in rows}
    # Step a can use 60 bytes at most, so it needs no row.
    assert table == {
        "activation_bytes at b": (10 + 50, 20 + 100, 0, 100),
        "activation_bytes at c": (50 + 8, 100 + 8, 8, 100),
    }


def test_a_pin_of_16_bits_makes_what_is_kept_once_16_bits_wide() -> None:
    """As `test_activation_rows_by_hand`, with 80 elements of x at 16 bits and 8 of the output at 2 bytes each."""
    _, rows = problem(three_steps(), {"a": LayerBits(1, 16)}, {"activation_bytes": 100})
    table = {row.name: (row.least, row.most, row.constant) for row in rows}
    assert table == {
        "activation_bytes at a": (160 + 10, 160 + 20, 160),
        "activation_bytes at b": (10 + 50, 20 + 100, 0),
        "activation_bytes at c": (50 + 16, 100 + 16, 16),
    }


def test_a_limit_that_cannot_bind_keeps_the_nearest_row() -> None:
    _, rows = problem(three_steps(), {}, {"activation_bytes": 10_000})
    assert [row.name for row in rows] == ["activation_bytes at b"]


def test_pinned_tensors_are_constant() -> None:
    _, rows = problem(three_steps(), {"b": EIGHT, "c": EIGHT}, {"activation_bytes": 100})
    (row,) = rows
    assert (row.name, row.constant, row.least, row.most) == ("activation_bytes at b", 240, 240, 240)


def test_float_pins_everywhere_count_float_tensors() -> None:
    net = three_steps()
    _, rows = problem(net, dict.fromkeys("abc", LayerBits(8, None)), {"activation_bytes": 10**6})
    assert rows[0].least == 4 * 240 == costs(net, dict.fromkeys("abc", LayerBits(8, None))).activation_bytes


def test_a_network_without_steps_has_an_empty_row() -> None:
    net = Network(layers=(layer("a", "x", "y"),), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
    _, rows = problem(net, {}, {"activation_bytes": 10})
    assert [(row.least, row.most) for row in rows] == [(0, 0)]


@pytest.mark.parametrize(
    ("live", "constant", "kept"),
    [
        ([0b1, 0b11, 0b10], [0, 0, 0], ["1"]),  # subsets go
        ([0b1, 0b11, 0b10], [0, 0, 1], ["1", "2"]),  # unless their constant is larger
        ([0b1, 0b1], [3, 4], ["1"]),
        ([0b1, 0b1], [4, 4], ["0"]),  # of equal steps the first
        ([0, 0], [4, 5], ["1"]),
        ([0b01, 0b10], [0, 0], ["0", "1"]),
    ],
)
def test_covered_steps_are_left_out(live: list[int], constant: list[int], kept: list[str]) -> None:
    assert [name for name, *_ in undominated_steps([str(i) for i in range(len(live))], live, constant)] == kept


@settings(deadline=None)
@given(seed=st.integers(0, 500), tied=st.booleans(), pin=st.booleans())
def test_the_largest_row_is_the_peak_for_any_choice(seed: int, tied: bool, pin: bool) -> None:
    net = random_network(seed)
    pins = {net.layers[0].name: EIGHT, net.layers[-1].name: EIGHT} if pin else {}
    groups, rows = problem(net, pins, {"bitops": 1, "weight_bits": 1, "activation_bytes": 1}, tied=tied)
    rng = np.random.default_rng(seed)
    choice = [int(rng.integers(len(group.score))) for group in groups]
    bits = {name: b for group, option in zip(groups, choice, strict=True) for name, b in group.chosen(option).items()}
    used = costs(net, bits)
    sums: dict[str, int] = {}
    for row in rows:
        total = sum(int(cost[option]) for cost, option in zip(row.costs, choice, strict=True))
        assert row.least <= total <= row.most
        sums[row.key] = max(sums.get(row.key, 0), total)
    assert sums == {
        "bitops": used.bitops,
        "weight_bits": used.weight_bits,
        "activation_bytes": used.activation_bytes,
    }


@pytest.mark.parametrize("margin", [0, 70])
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_ram_row_is_the_ram_of_the_device_with_its_margin(seed: int, margin: int) -> None:
    """RAM for gaps between tensors is taken at every step, so a choice within the rows is one within the limit."""
    net = chain((10, 100), (20, 300), (15, 200))
    memory = replace(random_memory(net, seed=seed), ram_margin=margin)
    options = layer_options(net, random_scores(net), {}, alpha=1.0, repair="none")
    groups = build_groups(net, options, tied=True, macs="exact", limited={"ram_bytes": 1}, memory=memory)
    rows = build_rows(net, groups, {"ram_bytes": 1}, memory=memory)
    rng = np.random.default_rng(seed)
    choice = [int(rng.integers(len(group.score))) for group in groups]
    bits = {name: b for group, option in zip(groups, choice, strict=True) for name, b in group.chosen(option).items()}
    sums = [sum(int(cost[at]) for cost, at in zip(row.costs, choice, strict=True)) for row in rows]
    assert max(sums) == memory.ram(net, bits)
    assert [row.constant for row in rows] == [step.constant + margin for step in memory.steps]
