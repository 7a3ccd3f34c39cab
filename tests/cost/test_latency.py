"""Latency tables: exact sums, files that are checked when they are read, and limits in time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.cost import (
    Budget,
    LatencyCheck,
    LatencyTable,
    LayerBits,
    Limit,
    Part,
    Timing,
    cost_table,
    costs,
    float_costs,
)
from mixbit.errors import BudgetError
from tests.support import chain, latency_table, layer, network, random_latency, random_network

NET = chain((10, 100), (20, 300))
TIMES = {"l0": {"W8A8": 1_000, "W3A4": 1_200}, "l1": {"W8A8": 5_000, "W3A4": 3_000, "W4A8": 4_000}}
TABLE = latency_table(NET, TIMES, rest=700, float32=20_000)
EIGHT, W3A4 = LayerBits(8, 8), LayerBits(3, 4)


# ----------------------------------------------------------------------------------------------------- sums


def test_cost_is_the_sum_of_layers_and_rest() -> None:
    assert TABLE.rest == 700
    assert TABLE.cost({"l0": EIGHT, "l1": LayerBits(4, 8)}) == 1_000 + 4_000 + 700
    two = replace(TABLE, other=(*TABLE.other, Part(name="add", kind="Add", shape=(8,), median=50, spread=2)))
    assert two.cost({"l0": EIGHT, "l1": EIGHT}) == 6_750


@settings(deadline=None)
@given(seed=st.integers(0, 200))
def test_sums_are_exact_for_any_numbers(seed: int) -> None:
    net = random_network(seed)
    table = random_latency(net, seed=seed)
    layers = {one.name: LayerBits(2 + (seed + at) % 3, 8) for at, one in enumerate(net.layers)}
    by_hand = sum(table.layers[name].options[str(bits)].median for name, bits in layers.items())
    assert costs(net, layers, latency=table).latency == by_hand + 500


def test_costs_have_no_latency_without_a_table() -> None:
    bits = {"l0": EIGHT, "l1": EIGHT}
    assert costs(NET, bits).latency is None
    assert costs(NET, bits, latency=TABLE).latency == 6_700
    assert replace(costs(NET, bits, latency=TABLE), latency=None) == costs(NET, bits)


def test_float_costs_take_the_whole_float_network() -> None:
    assert float_costs(NET, latency=TABLE).latency == 20_000
    assert float_costs(NET, latency=replace(TABLE, float32=None)).latency is None


def test_cost_table_names_the_unit() -> None:
    bits = {"l0": EIGHT, "l1": EIGHT}
    found = cost_table(NET, bits, latency=TABLE)
    assert (found["latency_ns"], found["float_latency_ns"]) == (6_700, 20_000)
    counted = replace(TABLE, unit="instructions", float32=None)
    assert cost_table(NET, bits, latency=counted)["latency_instructions"] == 6_700
    assert not [name for name in cost_table(NET, bits) if "latency" in name]


def test_what_was_not_measured_is_an_error_with_layer_and_option() -> None:
    with pytest.raises(BudgetError, match=r"no measurement of 'l0' at W4A8. Measured: W8A8, W3A4.*--bits"):
        TABLE.cost({"l0": LayerBits(4, 8), "l1": EIGHT})
    with pytest.raises(BudgetError, match=r"'l0' at W8A32"):
        TABLE.time("l0", LayerBits(8, None))
    with pytest.raises(BudgetError, match=r"does not know the layer 'l11'. Did you mean 'l1'"):
        TABLE.time("l11", EIGHT)


def test_a_table_of_another_network_or_input_size_is_refused() -> None:
    other = chain((11, 100), (20, 300))
    with pytest.raises(BudgetError, match="measured on another network"):
        TABLE.check(other)
    with pytest.raises(BudgetError, match="measured on another network"):
        costs(other, {"l0": EIGHT, "l1": EIGHT}, latency=TABLE)
    larger = network([replace(one, input_shape=(7, 1)) for one in NET.layers])
    assert larger.fingerprint == NET.fingerprint
    with pytest.raises(BudgetError, match=r"inputs of another size: l0 read 1 and reads 7x1 here"):
        TABLE.check(larger)
    strided = network(
        [replace(one, output_shape=(3, 4)) for one in NET.layers]
    )  # its stride is no part of a fingerprint
    assert strided.fingerprint == NET.fingerprint
    with pytest.raises(BudgetError, match=r"outputs of another size: l0 gave \d+ and gives 3x4 here"):
        TABLE.check(strided)
    assert TABLE.check(NET) is TABLE


# --------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency=12ms", 12_000_000),
        ("latency=6.7us", 6_700),
        ("latency=6700ns", 6_700),
        ("latency=0.001s", 1_000_000),
        ("latency=8x8", 6_700),
        ("latency=3x4", 1_000 + 3_000 + 700),  # l0 is pinned
        ("latency=80%", 16_000),
        ("latency=3x", 6_666),  # 20000 / 3 = 6666.67
    ],
)
def test_values_and_units(text: str, expected: int) -> None:
    assert Budget.parse([text]).resolve(NET, {"l0": EIGHT}, latency=TABLE) == {"latency": expected}


def test_instructions_are_a_kind_of_their_own() -> None:
    counted = replace(TABLE, unit="instructions")
    assert Budget.parse(["instructions=1.2M"]).resolve(NET, {}, latency=counted) == {"latency": 1_200_000}
    with pytest.raises(BudgetError, match=r"latency=12ms: the latency table of by hand is in instructions. Write inst"):
        Budget.parse(["latency=12ms"]).resolve(NET, {}, latency=counted)
    with pytest.raises(BudgetError, match=r"instructions=3: the latency table of by hand is in ns. Write latency=12ms"):
        Budget.parse(["instructions=3"]).resolve(NET, {}, latency=TABLE)


@pytest.mark.parametrize("text", ["latency=12ms", "latency=3x4", "latency=50%", "instructions=1M"])
def test_a_measured_limit_without_a_table_tells_the_remedy(text: str) -> None:
    with pytest.raises(BudgetError, match="needs a latency table.*mixbit latency build.*--latency TABLE"):
        Budget.parse([text]).resolve(NET, {})


def test_a_limit_of_a_table_of_another_network() -> None:
    with pytest.raises(BudgetError, match="measured on another network"):
        Budget.parse(["latency=12ms"]).resolve(chain((11, 1)), {}, latency=TABLE)


@pytest.mark.parametrize("text", ["latency=80%", "latency=2x"])
def test_parts_of_float_need_the_float_figure(text: str) -> None:
    with pytest.raises(BudgetError, match=r"refers to the float32 network, which the latency table does not hold"):
        Budget.parse([text]).resolve(NET, {}, latency=replace(TABLE, float32=None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=12", r"latency=12: it has no unit. Legal: 12ms \(units ns, us, ms, s\)"),
        ("latency=12MS", r"the unit 'MS' is unknown. Did you mean 'ms'"),
        ("latency=12m", r"the unit 'm' is unknown"),
        ("latency=0ms", "a limit must be above zero"),
        ("latency=9x4", "bits of a uniform network must be 1 to 8 for weights"),
        ("instructions=3ms", "the unit 'ms' is unknown"),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse([text])


@settings(deadline=None)
@given(value=st.integers(1, 10**12), text=st.sampled_from(["3ms", "3us", "3x4", "5%", "2x"]))
def test_a_shown_time_given_back_as_a_limit_allows_it(value: int, text: str) -> None:
    full = 10**12
    shown = Limit.parse("latency", Limit.parse("latency", text).show(value, full))
    allowed = shown.resolve(NET, {}, "exact", replace(TABLE, float32=Timing(median=full, spread=0)))
    assert value <= allowed <= value * 1.002 + 10


def test_check_and_slack_are_in_time() -> None:
    budget = Budget.parse(["latency=6us"])
    limits = budget.resolve(NET, {}, latency=TABLE)
    found = costs(NET, {"l0": EIGHT, "l1": EIGHT}, latency=TABLE)
    assert budget.slack(found, limits) == {"latency": -700}
    with pytest.raises(BudgetError, match=r"latency=6us allows 6us and 6\.7us is used, 700ns too much"):
        budget.check(found, limits)
    with pytest.raises(BudgetError, match="needs a latency table"):
        budget.check(costs(NET, {"l0": EIGHT, "l1": EIGHT}), limits)


# ---------------------------------------------------------------------------------------------------- files


def full_table() -> LatencyTable:
    """Every field in use."""
    check = LatencyCheck(name="random 0", bits={"l0": "W8A8", "l1": "W3A4"}, predicted=90, measured=100, spread=3)
    kernels = {"Conv u8[1]": Timing(median=4, spread=0)}
    return replace(TABLE, checks=(check,), notes=("fewer bits bring no speed",), kernels=kernels)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = full_table()
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == table == LatencyTable.from_json(table.to_json())
    content = json.loads((tmp_path / "latency.json").read_text())
    assert (content["format"], content["version"], content["unit"]) == ("mixbit-latency", 1, "ns")
    assert content["layers"]["l1"]["options"]["W3A4"] == {"median": 3000, "spread": 1}
    assert content["checks"][0]["error_percent"] == -10.0


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(full_table().to_json()), **values})


def with_option(text: str, value: Any) -> str:
    content = json.loads(full_table().to_json())
    content["layers"]["l0"]["options"][text] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no latency table: its format is 'list'"),
        (changed(format="mixbit-policy"), "its format is 'mixbit-policy', legal is 'mixbit-latency'"),
        (changed(version=2), "of version 2; this mixbit reads 1"),
        (changed(version=True), "of version True"),
        (changed(unit="ms"), "unit"),
        (changed(repeats="3"), "repeats.*valid integer"),
        (changed(repeats=0), "repeats 0 is not legal"),
        (changed(threads=2.5), "threads"),
        (changed(layers={}), "has no layer"),
        (changed(surprise=1), "surprise"),
        (changed(other=[{"name": "run", "kind": "overhead", "shape": [], "median": -1, "spread": 0}]), "median -1"),
        (with_option("W9A4", {"median": 3, "spread": 0}), "the option 'W9A4'.*Legal: W3A4"),
        (with_option("W4A4", {"median": 2**60, "spread": 0}), "below 2\\^53"),
        (with_option("W4A4", {"median": 3.5, "spread": 0}), "W4A4.*median"),
        (with_option("W4A4", {"median": 3}), "spread"),
        (with_option("W4A4", 3), "W4A4"),
    ],
)
def test_a_malformed_file_is_one_error_that_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=message):
        LatencyTable.from_json(text)
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BudgetError, match=r"bad\.json"):
        LatencyTable.load(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="No file at"):
        LatencyTable.load(tmp_path / "latency.json")


def test_a_missing_key_is_named() -> None:
    content = json.loads(full_table().to_json())
    del content["device"]
    with pytest.raises(BudgetError, match=r"'device': .*[Mm]issing|'device': Field required"):
        LatencyTable.from_json(json.dumps(content))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_value_in_the_place_of_layers_is_a_budget_error(value: Any) -> None:
    with pytest.raises(BudgetError):
        LatencyTable.from_json(changed(layers=value))


def test_error_percent_of_nothing_measured() -> None:
    assert LatencyCheck(name="x", bits={}, predicted=1, measured=0, spread=0).error_percent == float("inf")


def test_layers_in_another_order_are_another_network() -> None:
    net = network([layer("a", "x", "y"), layer("b", "y", "z")])
    table = latency_table(net, {"a": {"W8A8": 1}, "b": {"W8A8": 2}})
    with pytest.raises(BudgetError, match="another network"):
        table.check(network([layer("b", "x", "y"), layer("a", "y", "z")]))
