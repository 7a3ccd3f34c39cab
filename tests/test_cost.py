"""Costs are exact integers, and budgets are read without rounding."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.cost import (
    Budget,
    Costs,
    LayerBits,
    Limit,
    MemoryTable,
    RamStep,
    cost_table,
    costs,
    float_costs,
    read_bytes,
    tensor_bytes,
    uniform_bits,
)
from mixbit.errors import BudgetError, PolicyError
from mixbit.network import FloatParameter, Network
from tests.support import chain, latency_table, layer, network, random_memory, random_network

W3A4 = LayerBits(3, 4)
FLOAT = LayerBits(None, None)


def all_at(net: Network, bits: LayerBits) -> dict[str, LayerBits]:
    return {one.name: bits for one in net.layers}


# ------------------------------------------------------------------------------------------------- costs


def test_bitops_and_weight_bits_by_hand() -> None:
    net = chain((10, 100), (20, 300))
    found = costs(net, {"l0": LayerBits(8, 8), "l1": LayerBits(3, 4)})
    assert found.bitops == 100 * 64 + 300 * 12
    assert found.weight_bits == 10 * 8 + 20 * 3
    assert found.weight_bytes == 18  # 140 bits = 17.5 bytes


def test_float_counts_32_bits() -> None:
    net = chain((10, 100), (20, 300))
    assert float_costs(net).bitops == 400 * 1024
    assert float_costs(net).weight_bits == 30 * 32
    assert costs(net, {"l0": LayerBits(8, None), "l1": LayerBits(None, 8)}).bitops == 400 * 8 * 32


def test_costs_stay_exact_beyond_float64() -> None:
    net = chain((2**60 + 1, 2**61 + 1))
    found = costs(net, {"l0": LayerBits(7, 7)})
    assert found.bitops == (2**61 + 1) * 49
    assert found.weight_bits == (2**60 + 1) * 7


def test_limpq_counting_uses_the_other_column() -> None:
    net = network([layer("a", "x", "y", macs=784, limpq=812)])
    assert costs(net, {"a": W3A4}, macs="limpq").bitops == 812 * 12
    assert float_costs(net, macs="limpq").bitops == 812 * 1024
    with pytest.raises(BudgetError, match=r"macs='limqp' is unknown. Legal: exact, limpq. Did you mean 'limpq'"):
        costs(net, {"a": W3A4}, macs="limqp")  # type: ignore[arg-type]


def test_attention_products_are_in_no_figure() -> None:
    without = chain((10, 100))
    net = network(without.layers, other_macs=10**9)
    assert costs(net, all_at(net, W3A4)).bitops == costs(without, all_at(without, W3A4)).bitops
    assert float_costs(net).bitops == 100 * 1024


def test_parameters_in_float32_are_in_every_figure() -> None:
    token, matrix = (
        FloatParameter(name="token", size=5, reason="read by add"),
        FloatParameter(name="matrix", size=7, macs=30, reason="not supported"),
    )
    net = replace(chain((10, 100)), float_parameters=(token, matrix), other_macs=30)
    found, full = costs(net, all_at(net, W3A4)), float_costs(net)
    assert (found.weight_bits, found.bitops) == (10 * 3 + 12 * 32, 100 * 12 + 30 * 1024)
    assert (full.weight_bits, full.bitops) == (22 * 32, 130 * 1024)
    limits = Budget.parse(["weight-bytes=2x", "bitops=50%"]).resolve(net, {})
    assert limits == {"weight_bits": 22 * 16, "bitops": 130 * 512}
    assert Budget.parse(["weight-bytes=3x4"]).resolve(net, {}) == {"weight_bits": 10 * 3 + 12 * 32}


def test_unknown_and_missing_layers_are_errors() -> None:
    net = network([layer("conv1", "x", "y"), layer("fc", "y", "z")])
    with pytest.raises(PolicyError, match=r"'conv2', .*Did you mean 'conv1'"):
        costs(net, {"conv1": W3A4, "fc": W3A4, "conv2": W3A4})
    with pytest.raises(PolicyError, match=r"no bits for 1 of 2 layers: fc"):
        costs(net, {"conv1": W3A4})


# ------------------------------------------------------------------------------------------ peak activations


def test_peak_is_the_largest_live_set() -> None:
    # Steps a, b, c: x(80) and y(40) live at a, y and z(200) at b, z and out(8) at c.
    net = network(
        [layer("a", "x", "y"), layer("b", "y", "z"), layer("c", "z", "out")],
        sizes={"x": 80, "y": 40, "z": 200, "out": 8},
    )
    bits = {"a": LayerBits(8, 8), "b": LayerBits(3, 4), "c": LayerBits(3, 2)}
    # y at 4 bits is 20 bytes, z at 2 bits is 50, out is read by the caller: 8 bytes.
    assert (costs(net, bits).activation_bytes, costs(net, bits).peak_step) == (100, "a")
    wide = {**bits, "c": LayerBits(3, 8)}
    assert (costs(net, wide).activation_bytes, costs(net, wide).peak_step) == (220, "b")


def test_a_tensor_is_held_until_its_last_reader() -> None:
    layers = [layer("a", "x", "y"), layer("b", "y", "z"), layer("c", "z", "out")]
    short = network(layers, sizes={"x": 8, "y": 8, "z": 8, "out": 8}, elsewhere=["x"])
    held = network(layers, sizes={"x": 8, "y": 8, "z": 8, "out": 8}, elsewhere=["x"], until={"x": "c"})
    assert costs(short, all_at(short, LayerBits(8, 8))).activation_bytes == 16
    assert costs(held, all_at(held, LayerBits(8, 8))).activation_bytes == 24


def test_one_tensor_by_the_rules() -> None:
    x = network([layer("a", "x", "y"), layer("b", "x", "z")], sizes={"x": 10}).tensors[0]
    # Two layers have two steps after training: the tensor is kept at 8 bits, and each requantizes what it reads.
    assert tensor_bytes(x, [3, 3]) == tensor_bytes(x, [3, 8]) == 10
    assert tensor_bytes(x, [3, None]) == 40
    read_once = network([layer("a", "x", "y")], sizes={"x": 10}).tensors[0]
    assert tensor_bytes(read_once, [3]) == 4  # 30 bits
    read_by_add = network([layer("a", "x", "y")], sizes={"x": 10}, elsewhere=["x"]).tensors[0]
    assert tensor_bytes(read_by_add, [3]) == 10
    assert tensor_bytes(read_by_add, [None]) == 40


def test_shared_tensors_have_16_bits_in_a_network_of_which_a_layer_reads_more_than_8() -> None:
    """x and y at the bits of their readers; out, which the caller reads, at 8 or 16, and in float32 not at all."""
    net = network([layer("a", "x", "y"), layer("b", "y", "out")], sizes={"x": 10, "y": 100, "out": 30})
    for bits, peak in ((8, 100 + 30), (9, 113 + 60), (16, 200 + 60)):
        assert costs(net, {"a": LayerBits(8, 8), "b": LayerBits(1, bits)}).activation_bytes == peak
    assert costs(net, {"a": LayerBits(8, None), "b": LayerBits(8, 8)}).activation_bytes == 100 + 40


def test_float_network_keeps_every_tensor_in_float32() -> None:
    net = network([layer("a", "x", "y"), layer("b", "y", "out")], sizes={"x": 3, "y": 5, "out": 7}, elsewhere=["y"])
    assert float_costs(net).activation_bytes == 4 * 12
    assert costs(net, {"a": LayerBits(2, None), "b": LayerBits(2, None)}).activation_bytes == 4 * 12


def test_network_without_steps_has_no_peak() -> None:
    net = Network(layers=(layer("a", "x", "y"),), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
    assert costs(net, {"a": W3A4}).activation_bytes == 0


@settings(deadline=None)
@given(seed=st.integers(0, 200), low=st.integers(2, 7))
def test_more_bits_never_cost_less(seed: int, low: int) -> None:
    net = random_network(seed)
    less, more = (costs(net, all_at(net, LayerBits(bits, bits))) for bits in (low, low + 1))
    assert less.bitops < more.bitops
    assert less.weight_bits < more.weight_bits
    assert less.activation_bytes <= more.activation_bytes


def test_flash_and_ram_are_those_of_the_table() -> None:
    net = chain((10, 100), (20, 300))
    tensors = {net.layers[0].input_tensor: {2: 10, 3: 15, 4: 20}}
    table = MemoryTable(
        fingerprint=net.fingerprint, target="t", weights={"l0": {2: 25, 3: 35}, "l1": {2: 50, 3: 75}}, code={3: 7},
        rest=100, steps=(RamStep(name="l0", constant=3, tensors=tensors),),
    )  # fmt: skip
    found = costs(net, all_at(net, W3A4), memory=table)
    assert (found.flash_bytes, found.ram_bytes) == (100 + 35 + 75 + 7, 3 + 20)
    shown = cost_table(net, all_at(net, W3A4), memory=table)
    assert (shown["flash_bytes"], shown["ram_bytes"]) == (217, 23)
    assert "float_flash_bytes" not in shown and "float_ram_bytes" not in shown
    limits = Budget.parse(["flash=2x3", "ram=2x2"]).resolve(net, {"l1": W3A4}, memory=table)
    assert limits == {"flash_bytes": 100 + 25 + 75 + 7, "ram_bytes": 3 + 10}


def test_cost_table_has_the_float_network_beside() -> None:
    net = chain((10, 100))
    assert cost_table(net, {"l0": W3A4}) == {
        "bitops": 1200,
        "weight_bytes": 4,
        "activation_bytes": 32 + 64,
        "float_bitops": 102_400,
        "float_weight_bytes": 40,
        "float_activation_bytes": 512,
    }


def test_cost_table_counts_both_networks_alike() -> None:
    """In LIMPQ's counting the float network has its MACs too: of one that counts 12 instead of 10."""
    net = chain((10, 100))
    net = replace(net, layers=tuple(replace(one, macs_limpq=120) for one in net.layers))
    table = cost_table(net, {"l0": W3A4}, macs="limpq")
    assert (table["bitops"], table["float_bitops"]) == (120 * 12, 120 * 1024)


# ------------------------------------------------------------------------------------------- layer bits


@pytest.mark.parametrize("bits", [17, 0, -3, True, False, 2.0, "4", 10**400])
def test_illegal_bits(bits: object) -> None:
    with pytest.raises(PolicyError, match=r"weight_bits .* is not legal. Legal: whole numbers 1 to 8"):
        LayerBits(bits, 8)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"activation_bits .* is not legal. Legal: whole numbers 1 to 16"):
        LayerBits(8, bits)  # type: ignore[arg-type]


def test_one_bit_weights_and_sixteen_bit_activations_are_legal_and_not_the_other_way_round() -> None:
    assert str(LayerBits(1, 16)) == "W1A16"
    for bits in (9, 16):
        with pytest.raises(PolicyError, match=f"weight_bits '{bits}' is not legal. Legal: whole numbers 1 to 8, or"):
            LayerBits(bits, 8)


@pytest.mark.parametrize(("weight", "activation"), [(1, 16), (1, 1), (8, 16), (3, 9)])
def test_costs_of_widths_outside_two_to_eight_are_exact(weight: int, activation: int) -> None:
    """BitOps of 10 and 100 MACs, bits of as many weights, and the wider of two tensors of the chain."""
    net = chain((10, 100))
    layers = {la.name: LayerBits(weight, activation) for la in net.layers}
    found, eight = costs(net, layers), costs(net, {la.name: LayerBits(8, 8) for la in net.layers})
    assert found.bitops * 64 == eight.bitops * weight * activation
    assert found.weight_bits * 8 == eight.weight_bits * weight
    assert Budget.parse([f"bitops={weight}x{activation}"]).limits[0].uniform == (weight, activation)
    assert Budget.parse([f"bitops={weight}x{activation}"]).resolve(net, {})["bitops"] == found.bitops


def test_uniform_bits_keep_pins() -> None:
    net = chain((1, 1), (1, 1))
    assert uniform_bits(net, W3A4, {"l1": FLOAT}) == {"l0": W3A4, "l1": FLOAT}


# ------------------------------------------------------------------------------------------------ budgets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bitops=1.2G", {"bitops": 1_200_000_000}),
        ("bitops=5k", {"bitops": 5000}),
        ("bitops=5M", {"bitops": 5_000_000}),
        ("bitops=0.5T", {"bitops": 500_000_000_000}),
        ("bitops=1200", {"bitops": 1200}),
        ("bitops=1.2e3", {"bitops": 1200}),
        (" bitops = 1.2 G ", {"bitops": 1_200_000_000}),
        ("bitops=3x4", {"bitops": 100 * 64 + 300 * 12}),
        ("bitops=1.5%", {"bitops": 6144}),  # of 400 * 1024
        ("bitops=12.2x", {"bitops": 33573}),  # 409600 / 12.2 = 33573.77
        ("weight-bytes=8MiB", {"weight_bits": 2**26}),
        ("weight-bytes=8MB", {"weight_bits": 64_000_000}),
        ("weight-bytes=2kiB", {"weight_bits": 2**14}),
        ("weight-bytes=2KiB", {"weight_bits": 2**14}),
        ("weight-bytes=2kB", {"weight_bits": 16_000}),
        ("weight-bytes=1GiB", {"weight_bits": 2**33}),
        ("weight-bytes=1GB", {"weight_bits": 8 * 10**9}),
        ("weight-bytes=17.7B", {"weight_bits": 141}),  # floor(8 * 17.7)
        ("weight-bytes=17", {"weight_bits": 136}),
        ("weight-bytes=12.2x", {"weight_bits": 78}),  # 30 * 32 / 12.2 = 78.69
        ("weight-bytes=3x4", {"weight_bits": 10 * 8 + 20 * 3}),
        ("weight-bytes=10%", {"weight_bits": 96}),
        ("activation-bytes=64kB", {"activation_bytes": 64_000}),
        ("activation-bytes=3x4", {"activation_bytes": 96}),  # t0 at 8 bits and t1 at 4, 64 elements each
        ("activation-bytes=50%", {"activation_bytes": 256}),
        ("activation-bytes=4x", {"activation_bytes": 128}),
    ],
)
def test_values_and_units(text: str, expected: dict[str, int]) -> None:
    net = chain((10, 100), (20, 300))
    assert Budget.parse([text]).resolve(net, {"l0": LayerBits(8, 8)}) == expected


def test_user_text_is_never_rounded_as_a_float() -> None:
    # 0.1 + 0.2 style: 0.7 * 1e16 is 6999999999999999.0 or 7e15 in floats, and 2.3 * 2**60 has no float.
    assert Limit.parse("bitops", "4.35k").resolve(chain((1, 1)), {}, "exact") == 4350
    assert Limit.parse("bitops", "123456789012345678901").resolve(chain((1, 1)), {}, "exact") == 123456789012345678901
    assert Limit.parse("weight-bytes", "0.1%").number == Fraction(1, 10)
    net = chain((61 * (10**20 + 1), 1))
    assert Budget.parse(["weight-bytes=12.2x"]).resolve(net, {}) == {"weight_bits": 32 * 5 * (10**20 + 1)}


def test_relative_limits_follow_the_counting() -> None:
    net = network([layer("a", "x", "y", macs=784, limpq=812)])
    assert Budget.parse(["bitops=3x4"]).resolve(net, {}, "limpq") == {"bitops": 812 * 12}
    assert Budget.parse(["bitops=100%"]).resolve(net, {}, "limpq") == {"bitops": 812 * 1024}


def test_several_kinds_keep_their_texts_and_order() -> None:
    budget = Budget.parse(["weight-bytes=12.2x", "bitops=3x4"])
    assert budget.texts == {"weight-bytes": "12.2x", "bitops": "3x4"}
    assert list(budget.resolve(chain((10, 100)), {})) == ["weight_bits", "bitops"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "The budget is empty.*bitops=1.2G"),
        (["bitops"], "'bitops' is not a limit: it has no '='"),
        (["bitop=3x4"], "the kind 'bitop' is unknown. Did you mean 'bitops'"),
        (["=3x4"], "the kind '' is unknown"),
        (
            ["energy=3mJ"],
            "the kind 'energy' is unknown.*Legal: bitops=1.2G, weight-bytes=8MiB, activation-bytes=64kB, latency=12ms",
        ),
        (["bitops=3x4", "bitops=1G"], "bitops is limited twice: '3x4' and '1G'"),
        (["bitops="], "not a number with a unit"),
        (["bitops=G"], "not a number with a unit"),
        (["bitops=1.2.3G"], "not a number with a unit"),
        (["bitops=nan"], "not a number with a unit"),
        (["bitops=inf"], "not a number with a unit"),
        (["bitops=1,2G"], "the unit ',2G' is unknown"),
        (["bitops=1e999999999"], "the unit 'e999999999' is unknown"),
        (["bitops=" + "9" * 100_000], "not a number with a unit"),
        (["bitops=٣G"], "not a number with a unit"),
        (["bitops=1.2g"], "the unit 'g' is unknown. Did you mean 'G'"),
        (["bitops=8MiB"], "the unit 'MiB' is unknown"),
        (["weight-bytes=8M"], "the unit 'M' is unknown. Did you mean 'MB'"),
        (["weight-bytes=8mib"], "the unit 'mib' is unknown. Did you mean 'MiB'"),
        (["activation-bytes=64 KB"], "the unit 'KB' is unknown. Did you mean 'kB'"),
        (["bitops=0"], "a limit must be above zero"),
        (["bitops=0.000G"], "a limit must be above zero"),
        (["bitops=-1G"], "bitops=-1G: a limit must be above zero"),
        (["weight-bytes=0x"], "a limit must be above zero"),
        (["weight-bytes=-12.2x"], "a limit must be above zero"),
        (["bitops=0%"], "a limit must be above zero"),
        (["bitops=0x4"], "bits of a uniform network must be 1 to 8 for weights and 1 to 16 for activations"),
        (["bitops=3x32"], "bits of a uniform network must be 1 to 8 for weights and 1 to 16"),
        (["bitops=3X4"], "the unit 'X4' is unknown"),
        (["bitops=3x4x5"], "the unit 'x4x5' is unknown"),
    ],
)
def test_what_cannot_be_read(texts: list[str], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(texts)


@pytest.mark.parametrize("text", ["bitops=1.2g", "weight-bytes=-1MB", "activation-bytes=x"])
def test_errors_show_the_legal_forms(text: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse([text])
    for form in (text, "3x4", "1.5%", "12.2x", "units"):
        assert form in str(caught.value)


def test_a_single_text_is_not_a_list_of_letters() -> None:
    assert Budget.parse("bitops=3x4").texts == {"bitops": "3x4"}


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_limit_or_a_budget_error(text: str) -> None:
    for kind in ("bitops", "weight-bytes", "activation-bytes"):
        try:
            resolved = Budget.parse([f"{kind}={text}"]).resolve(chain((10, 100)), {})
        except BudgetError:
            continue
        assert all(isinstance(value, int) and value >= 0 for value in resolved.values())


@settings(deadline=None)
@given(
    value=st.integers(10**5, 10**15),
    text=st.sampled_from(["1k", "1G", "7", "1%", "12x", "3x4"]),
    kind=st.sampled_from(["bitops", "weight-bytes", "activation-bytes"]),
)
def test_a_shown_amount_given_back_as_a_limit_allows_it(value: int, text: str, kind: str) -> None:
    if kind != "bitops":
        text = {"1k": "1kB", "1G": "1GiB"}.get(text, text)
    full = 10**15
    shown = Limit.parse(kind, Limit.parse(kind, text).show(value, full))
    if shown.unit == "%":
        allowed = full * shown.number / 100
    elif shown.unit == "x":
        allowed = full / shown.number
    else:
        allowed = Fraction(shown.resolve(chain((1, 1)), {}, "exact"))
    assert value <= allowed <= value * Fraction(10_011, 10_000) + 8


def test_a_limit_is_of_the_unit_that_its_table_was_measured_in() -> None:
    """5000 instructions are no 5000 ns, and either number would be read as the other."""
    net = chain((10, 100))
    table = latency_table(net, {"l0": {"W8A8": 5_000}}, rest=700)
    counted = replace(table, unit="instructions")
    assert Budget.parse(["latency=6us"]).resolve(net, {}, latency=table) == {"latency": 6_000}
    assert Budget.parse(["instructions=6k"]).resolve(net, {}, latency=counted) == {"latency": 6_000}
    with pytest.raises(BudgetError, match=r"latency=6us: the latency table .* is in instructions. Write instructions="):
        Budget.parse(["latency=6us"]).resolve(net, {}, latency=counted)
    with pytest.raises(BudgetError, match=r"instructions=8x8: the latency table .* is in ns. Write latency="):
        Budget.parse(["instructions=8x8"]).resolve(net, {}, latency=table)


@pytest.mark.parametrize("text", ["flash=1kB", "ram=8x8"])
def test_a_limit_is_not_read_from_the_table_of_another_network(text: str) -> None:
    with pytest.raises(BudgetError, match="The memory table is of another network"):
        Budget.parse([text]).resolve(chain((10, 100)), {}, memory=random_memory(chain((20, 100))))
    times = latency_table(chain((20, 100)), {"l0": {"W8A8": 5_000}})
    with pytest.raises(BudgetError, match="The latency table was measured on another network"):
        Budget.parse(["latency=6us"]).resolve(chain((10, 100)), {}, latency=times)


# ------------------------------------------------------------------------------------------- check and slack


def test_slack_is_in_bitops_and_bytes() -> None:
    budget = Budget.parse(["bitops=1k", "weight-bytes=10B", "activation-bytes=1kB"])
    resolved = budget.resolve(chain((10, 100)), {})
    found = Costs(bitops=900, weight_bits=75, activation_bytes=1001, peak_step="l0")
    assert budget.slack(found, resolved) == {"bitops": 100, "weight-bytes": 0.625, "activation-bytes": -1}


def test_check_names_every_exceeded_limit() -> None:
    budget = Budget.parse(["bitops=1k", "weight-bytes=10B", "activation-bytes=1kB"])
    resolved = budget.resolve(chain((10, 100)), {})
    budget.check(Costs(bitops=1000, weight_bits=80, activation_bytes=1000, peak_step=""), resolved)
    with pytest.raises(BudgetError) as caught:
        budget.check(Costs(bitops=1001, weight_bits=81, activation_bytes=1000, peak_step=""), resolved)
    assert "bitops=1k allows 1k and 1.001k is used, 1 too much" in str(caught.value)
    assert "weight-bytes=10B allows 10B and 10.13B is used" in str(caught.value)
    assert "activation" not in str(caught.value)


def test_sizes_with_their_units() -> None:
    assert [read_bytes(text) for text in ("300", "300B", "2kB", "2KiB", "1.5MB", "1MiB")] == [
        300, 300, 2000, 2048, 1_500_000, 1 << 20,
    ]  # fmt: skip
    for text in ("50%", "10x", "3x4"):
        with pytest.raises(BudgetError, match="is no size. Write a number of bytes with a unit"):
            read_bytes(text)
