"""The arena: nothing that is needed is overwritten, and the figure is the one that the device has."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit.export.c import COptions, plan_memory
from mixbit.export.c.memory import ALIGNMENT, Buffer, MemoryPlan, place
from mixbit.integer import IntegerGraph
from tests.export.graphs import Builder, random_graph, resnet_cifar, rounded

lifetimes = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=14)


def single(graph: IntegerGraph) -> IntegerGraph:
    return rounded(graph, "single")


def check(buffers: tuple[Buffer, ...]) -> None:
    for a, b in combinations(buffers, 2):
        apart = a.offset + a.size_bytes <= b.offset or b.offset + b.size_bytes <= a.offset
        assert apart or not a.overlaps(b), f"{a} over {b}"


@given(lifetimes)
def test_live_buffers_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [
        Buffer(names=(str(at),), size_bytes=size, first=first, last=first + length)
        for at, (size, first, length) in enumerate(drawn)
    ]
    placed = place(buffers)
    check(placed)
    assert [one.names for one in placed] == [one.names for one in buffers]
    plan = MemoryPlan(buffers=placed, steps=tuple(map(str, range(20))))
    live = [sum(one.size_bytes for one in buffers if one.first <= step <= one.last) for step in range(20)]
    assert plan.peak_bytes == max(live) == max(plan.live_bytes())
    assert plan.peak_layer == str(live.index(max(live)))
    assert plan.peak_bytes <= plan.arena_bytes <= sum(one.size_bytes for one in buffers)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("packed", [False, True])
def test_networks(seed: int, packed: bool) -> None:
    graph = single(random_graph(seed, steps=8))
    plan = plan_memory(graph, options=COptions(pack_activations=packed))
    check(plan.buffers)
    assert all(one.offset % ALIGNMENT == one.size_bytes % ALIGNMENT == 0 for one in plan.buffers)
    names = [name for one in plan.buffers for name in one.names]
    assert len(set(names)) == len(names)


def test_a_chain_needs_two_maps() -> None:
    b = Builder((4, 8, 8), seed=1)
    x = b.first
    for _ in range(4):
        x = b.conv(x, 4, weight_bits=8)
    graph = single(b.finish(b.linear(b.flatten(b.average_pool(x)), 3, bits=None)))
    plan = plan_memory(graph)
    assert plan.arena_bytes == plan.peak_bytes == 2 * 256 + 4 * 9  # and the column of a 3x3 kernel


def test_a_residual_block_adds_in_place() -> None:
    graph = single(resnet_cifar(blocks=1, width=8, size=16, weight_bits=8, bits=8))
    plan = plan_memory(graph)
    maps = 8 * 16 * 16
    assert plan.arena_bytes == 3 * maps + 9 * 8  # shortcut, input and output of the second convolution, its column
    add = next(op for op in graph.ops if op.kind == "Add")
    assert any({add.output, add.inputs[0]} <= set(one.names) or {add.output, add.inputs[1]} <= set(one.names)
               for one in plan.buffers)  # fmt: skip


def test_a_folded_requantization_takes_no_memory() -> None:
    b = Builder((4, 8, 8), seed=2)
    narrow = b.requantize(b.first, bits=4)
    graph = single(b.finish(b.linear(b.flatten(b.add(b.conv(narrow, 4, bits=8), b.first)), 3, bits=None)))
    folded, copied = (plan_memory(graph, options=COptions(fold_requantize=fold)) for fold in (True, False))
    assert folded.peak_bytes == 2 * 256 + 36
    assert copied.peak_bytes == 3 * 256 + 36
    with pytest.raises(KeyError):
        folded.offset(narrow)
    assert copied.offset(narrow) >= 0


def test_a_copy_that_costs_nothing_is_not_folded() -> None:
    """Where the source dies, requantization is in place, and a table would only cost flash."""
    b = Builder((4, 8, 8), seed=2)
    narrow = b.requantize(b.first, bits=4)
    plan = plan_memory(single(b.finish(b.conv(narrow, 2, bits=None))))
    assert plan.offset(narrow) == plan.offset(b.first)


def test_packed_maps_take_their_bits() -> None:
    b = Builder((4, 8, 8), bits=8, seed=1)
    x = b.conv(b.conv(b.first, 4, bits=4), 4, bits=2)
    graph = single(b.finish(b.linear(b.flatten(x), 3, bits=None)))
    sizes = {name: one.size_bytes for one in plan_memory(graph, options=COptions(pack_activations=True)).buffers
             for name in one.names}  # fmt: skip
    assert [sizes[name] for name in ("xq", "op1_out", "op2_out", "op3_out")] == [256, 128, 64, 64]


def test_views_lie_where_their_source_lies() -> None:
    b = Builder((4, 1, 1), seed=1)
    flat = b.flatten(b.first)
    plan = plan_memory(single(b.finish(b.linear(flat, 3, bits=None))))
    assert plan.offset(flat) == plan.offset(b.first) and plan.arena_bytes == 4


@pytest.mark.parametrize(
    ("drawn", "wanted"),
    [
        ([(12, 4, 6), (4, 1, 2), (12, 4, 4), (16, 3, 5), (8, 2, 4), (16, 3, 3)], 48),
        ([(4, 0, 2), (4, 2, 3), (16, 0, 0), (8, 0, 1), (8, 1, 3), (4, 4, 5), (12, 1, 2)], 32),
        ([(12, 1, 3), (8, 4, 7), (8, 4, 7), (12, 2, 4)], 28),
        ([(8, 1, 2), (16, 3, 4), (8, 0, 2), (16, 1, 1), (12, 2, 4), (8, 3, 4)], 36),
        ([(4, 0, 0), (4, 2, 2), (12, 4, 4), (12, 1, 3), (12, 2, 4)], 28),
    ],
    ids=["largest first", "by size and life", "longest first", "by time", "a gap that just fits"],
)
def test_the_best_of_several_orders(drawn: list[tuple[int, int, int]], wanted: int) -> None:
    """Each is without a gap at its fullest step in one order alone; the last where an exact fit is taken."""
    buffers = [Buffer(names=(str(at),), size_bytes=size, first=first, last=last)
               for at, (size, first, last) in enumerate(drawn)]  # fmt: skip
    plan = MemoryPlan(buffers=place(buffers), steps=tuple(map(str, range(8))))
    assert plan.arena_bytes == plan.peak_bytes == wanted


def test_a_view_keeps_its_source_alive() -> None:
    """The flattened map is read after three convolutions that would fit into its place."""
    b = Builder((4, 4, 4), seed=1)
    flat = b.flatten(b.conv(b.first, 4))
    x = b.first
    for _ in range(3):
        x = b.conv(x, 4)
    total = b.add(b.linear(flat, 3, bits=8), b.linear(b.flatten(x), 3, bits=8))
    plan = plan_memory(single(b.finish(b.linear(total, 2, bits=None))))
    names = next(one for one in plan.buffers if flat in one.names)
    assert "op1_out" in names.names and plan.steps[names.last] == next(
        op.name for op in b.ops if op.kind == "Linear" and op.x == flat
    )
    check(plan.buffers)


def test_wider_elements_are_not_written_over_narrower_ones() -> None:
    """Of 8 bits over 4: the second would be gone before it is read."""
    b = Builder((4, 4, 4), seed=1)
    narrow = b.requantize(b.first, bits=4)
    wide = b.lookup(narrow, bits=8)
    graph = single(b.finish(b.linear(b.flatten(wide), 2, bits=None)))
    plan = plan_memory(graph, options=COptions(pack_activations=True))
    assert plan.offset(narrow) == plan.offset(b.first) != plan.offset(wide)
    bytewise = plan_memory(graph)
    assert bytewise.offset(narrow) == bytewise.offset(b.first) == bytewise.offset(wide)


def test_what_is_still_needed_is_not_written_over() -> None:
    b = Builder((4, 4, 4), seed=1)
    x = b.conv(b.first, 4)
    y = b.requantize(x, bits=4)
    x = b.add(b.add(y, y), x)
    plan = plan_memory(single(b.finish(b.linear(b.flatten(x), 2, bits=None))), options=COptions(fold_requantize=False))
    assert plan.offset(y) != plan.offset("op1_out")
    assert plan.offset("op1_out") != plan.offset("op3_out") == plan.offset(y)
