"""Merged groups hold every option that can be optimal, and nothing else of size."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation._groups import Group, LayerOptions, build_groups, undominated
from mixbit.cost import LayerBits, costs
from mixbit.errors import PolicyError
from mixbit.network import Network
from tests.support import layer, network

ALL = ("bitops", "weight_bits", "activation_bytes")


def options(net: Network, table: dict[str, tuple[dict[int, float], dict[int, float]]]) -> dict[str, LayerOptions]:
    """Free layers from `name: (weight curve, activation curve)`; the others are pinned at 8 bits."""
    found = {}
    for one in net.layers:
        weight, activation = table.get(one.name, ({8: 0.0}, {8: 0.0}))
        found[one.name] = LayerOptions(
            layer=one, weight=list(weight.items()), activation=list(activation.items()), pinned=one.name not in table
        )
    return found


def siblings(count: int, *, elsewhere: bool = False, equal: bool = False) -> Network:
    """Layers that read one tensor of 16 elements."""
    return network(
        [
            layer(f"l{i}", "x", f"y{i}", weights=10 + (0 if equal else i), macs=100 * (1 if equal else i + 1))
            for i in range(count)
        ],
        sizes={"x": 16},
        elsewhere=["x"] if elsewhere else [],
    )


def rows(group: Group) -> list[tuple[tuple[tuple[int, int], ...], float, int, int, int]]:
    """All options of a group as plain values."""
    return [
        (tuple(map(tuple, group.bits[i].tolist())), *(getattr(group, key)[i].item() for key in ("score", *ATTRIBUTES)))
        for i in range(len(group.score))
    ]


ATTRIBUTES = ("bitops", "weight_bits", "tensor_bytes")
CURVE = ({4: 0.1, 2: 0.5}, {4: 1.0, 2: 3.0})


def test_a_single_layer_keeps_all_options() -> None:
    net = network([layer("a", "x", "y", weights=10, macs=100)], sizes={"x": 16})
    (group,) = build_groups(net, options(net, {"a": CURVE}), tied=True, macs="exact", limited=ALL)
    assert sorted(rows(group)) == sorted(
        [
            (((4, 4),), 1.1, 1600, 40, 8),
            (((2, 4),), 1.5, 800, 20, 8),
            (((4, 2),), 3.1, 800, 40, 4),
            (((2, 2),), 3.5, 400, 20, 4),
        ]
    )


def test_a_pinned_layer_has_one_option_without_harm() -> None:
    net = network([layer("a", "x", "y", weights=10, macs=100)], sizes={"x": 16})
    (group,) = build_groups(net, options(net, {}), tied=True, macs="exact", limited=ALL)
    assert rows(group) == [(((8, 8),), 0.0, 6400, 80, 16)]
    assert group.chosen(0) == {"a": LayerBits(8, 8)}


def test_float_pins_count_32_bits_and_come_back_as_none() -> None:
    net = network([layer("a", "x", "y", weights=10, macs=100)], sizes={"x": 16})
    pinned = {"a": LayerOptions(layer=net.layers[0], weight=[(8, 0.0)], activation=[(32, 0.0)], pinned=True)}
    (group,) = build_groups(net, pinned, tied=True, macs="exact", limited=ALL)
    assert rows(group) == [(((8, 32),), 0.0, 25_600, 80, 64)]
    assert group.chosen(0) == {"a": LayerBits(8, None)}


def test_tied_layers_share_activation_bits_and_add_their_harm() -> None:
    net = siblings(2)
    (group,) = build_groups(net, options(net, {"l0": CURVE, "l1": CURVE}), tied=True, macs="exact", limited=ALL)
    assert group.layers == ("l0", "l1")
    found = {bits: (score, *rest) for bits, score, *rest in rows(group)}
    # Activations at 2 bits: 3 + 3; weights 4 and 2 bits: 0.1 + 0.5; bitops 100*4*2 + 200*2*2; weights 10*4 + 11*2.
    assert found[((4, 2), (2, 2))] == pytest.approx((6.6, 1600, 62, 16))
    assert all(len({a for _, a in bits}) == 1 for bits in found)


def test_untied_layers_merge_only_where_they_share_a_buffer_that_is_limited() -> None:
    net = siblings(2)
    nearly_equal = ({4: 0.1, 2: 0.5}, {4: 1.0, 2: 1.05})
    table = options(net, {"l0": nearly_equal, "l1": nearly_equal})
    apart = build_groups(net, table, tied=False, macs="exact", limited=("bitops", "weight_bits"))
    assert [group.layers for group in apart] == [("l0",), ("l1",)]
    (group,) = build_groups(net, table, tied=False, macs="exact", limited=ALL)
    found = {bits: rest for bits, _, *rest in rows(group)}
    assert {rest[2] for rest in found.values()} == {16}  # at 8 bits, for readers of any


def test_shared_bits_that_use_the_same_widths_stay_beside_each_other() -> None:
    """Pins at 2 and at 4 bits: whether the free layers share 2 or 4, both widths are in use, and both are options."""
    net = siblings(4)
    table = options(net, {"l2": CURVE, "l3": CURVE})
    for name, bits in (("l0", 2), ("l1", 4)):
        pin = table[name]
        table[name] = LayerOptions(layer=pin.layer, weight=[(8, 0.0)], activation=[(bits, 0.0)], pinned=True)
    (group,) = build_groups(net, table, tied=True, macs="exact", limited=ALL)
    shared = {(bits[2][1], bits[3][1]) for bits, *_ in rows(group)}
    assert shared == {(2, 2), (4, 4)}
    assert min(score for bits, score, *_ in rows(group) if bits[2][1] == 4) == pytest.approx(2.2)


def test_where_ram_is_limited_the_best_of_every_set_of_widths_stays() -> None:
    """A tensor is there once for every width at which it is read, and each step may have another favourite."""
    net = siblings(2)
    table = options(net, {"l0": CURVE, "l1": CURVE})
    (tied,) = build_groups(net, table, tied=True, macs="exact", limited=("ram_bytes",))
    assert [bits for bits, *_ in rows(tied)] == [((4, 4), (4, 4)), ((4, 2), (4, 2))]
    (free,) = build_groups(net, table, tied=False, macs="exact", limited=("ram_bytes",))
    assert sorted(sorted({a for _, a in bits}) for bits, *_ in rows(free)) == [[2], [2, 4], [4]]


def test_a_pinned_reader_keeps_its_bits_and_its_buffer() -> None:
    net = siblings(3)
    table = options(net, {"l1": CURVE, "l2": CURVE})
    (group,) = build_groups(net, table, tied=True, macs="exact", limited=ALL)
    for bits, _, _, _, held in rows(group):
        assert bits[0] == (8, 8)
        assert bits[1][1] == bits[2][1]
        assert held == 16


def test_a_tensor_that_others_read_costs_the_same_for_all_options() -> None:
    net = siblings(2, elsewhere=True)
    (group,) = build_groups(net, options(net, {"l0": CURVE, "l1": CURVE}), tied=True, macs="exact", limited=ALL)
    assert set(group.tensor_bytes.tolist()) == {16}


def test_shared_options_are_those_of_all_layers() -> None:
    net = siblings(2)
    table = options(net, {"l0": ({4: 0.0}, {6: 0.0, 4: 1.0, 2: 2.0}), "l1": ({4: 0.0}, {2: 9.0, 4: 3.0})})
    (group,) = build_groups(net, table, tied=True, macs="exact", limited=ALL)
    assert {bits[0][1]: score for bits, score, *_ in rows(group)} == {4: 4.0, 2: 11.0}


def test_no_common_activation_bits_is_an_error_that_names_the_layers() -> None:
    net = siblings(2)
    table = options(net, {"l0": ({4: 0.0}, {8: 0.0}), "l1": ({4: 0.0}, {4: 0.0})})
    with pytest.raises(PolicyError, match=r"none in common \(l0: \[8\]; l1: \[4\]\).* ties off"):
        build_groups(net, table, tied=True, macs="exact", limited=ALL)


@pytest.mark.parametrize(
    ("tied", "limited"),
    [(True, ("bitops",)), (True, ("weight_bits",)), (True, ("bitops", "weight_bits")), (True, ALL), (False, ALL)],
)
def test_pruning_leaves_an_equal_or_better_option_for_every_assignment(tied: bool, limited: tuple[str, ...]) -> None:
    """The oracle: every assignment of three siblings, one of them pinned, with costs from `mixbit.cost`."""
    net = siblings(3)
    rng = np.random.default_rng(7)
    curves = {
        name: tuple(dict(zip((4, 3, 2), np.sort(rng.random(3)).tolist(), strict=True)) for _ in range(2))
        for name in ("l0", "l2")
    }
    table = options(net, curves)  # type: ignore[arg-type]
    (group,) = build_groups(net, table, tied=tied, macs="exact", limited=limited)
    assert len(group.score) < (3**3 if tied else 3**4)
    for w0, a0, w2, a2 in product((4, 3, 2), repeat=4):
        if tied and a0 != a2:
            continue
        bits = {"l0": LayerBits(w0, a0), "l1": LayerBits(8, 8), "l2": LayerBits(w2, a2)}
        used = costs(net, bits)
        score = curves["l0"][0][w0] + curves["l0"][1][a0] + curves["l2"][0][w2] + curves["l2"][1][a2]
        held = 16
        good = group.score <= score + 1e-12
        for key, column, limit in (
            ("bitops", group.bitops, used.bitops),
            ("weight_bits", group.weight_bits, used.weight_bits),
            ("activation_bytes", group.tensor_bytes, held),
        ):
            if key in limited:
                good &= column <= limit
        assert good.any(), bits


def test_large_groups_stay_small() -> None:
    """Twelve equal layers on one tensor: 5^13 options before pruning."""
    net = siblings(12, equal=True)
    rng = np.random.default_rng(0)
    bits = (6, 5, 4, 3, 2)
    table = {
        one.name: tuple(dict(zip(bits, np.sort(rng.random(5)).tolist(), strict=True)) for _ in range(2))
        for one in net.layers
    }
    (group,) = build_groups(net, options(net, table), tied=True, macs="exact", limited=("bitops", "weight_bits"))  # type: ignore[arg-type]
    assert 5 < len(group.score) <= 5 * (12 * 4 + 1)


@settings(deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30),
    count=st.integers(0, 2),
)
def test_undominated_equals_the_definition(points: list[tuple[int, int, int]], count: int) -> None:
    kept = undominated(
        np.array([float(p[0]) for p in points]), [np.array([p[1 + k] for p in points]) for k in range(count)]
    )
    cut = [point[: 1 + count] for point in points]
    expected = [
        i
        for i, mine in enumerate(cut)
        if not any(
            all(o <= m for o, m in zip(other, mine, strict=True)) and (other != mine or j < i)
            for j, other in enumerate(cut)
            if j != i
        )
    ]
    assert kept.tolist() == expected
