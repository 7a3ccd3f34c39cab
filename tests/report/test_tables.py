from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mixbit.allocation import allocate
from mixbit.cost import Budget, Costs, LayerBits, costs, float_costs, uniform_bits
from mixbit.metric import mean_absolute_error
from mixbit.network import FloatParameter, Join, Network, Skipped
from mixbit.policy import resolve_pins
from mixbit.report import (
    Table,
    allocation_summary,
    bits_table,
    budget_table,
    costs_table,
    floats_table,
    joins_table,
    layers_table,
    outcome_table,
    skipped_table,
)
from mixbit.runs import Outcome
from tests.support import chain, latency_table, layer, network, random_scores

# `a` and `b` read one tensor.
FORK = network([layer("a", "x", "y", macs=2000), layer("b", "x", "z"), layer("c", "y", "end")])


def column(table: Table, heading: str) -> list[str]:
    return [row[table.headings.index(heading)] for row in table.rows]


def test_layers_are_listed_in_order_with_ties_numbered() -> None:
    table = layers_table(FORK)
    assert column(table, "layer") == ["a", "b", "c"]
    assert column(table, "tie") == ["1", "1", ""]
    assert column(table, "MACs") == ["2.000 k", "1.000 k", "1.000 k"]
    assert "3 layers, 300 weights" in table.notes[0]


def test_groups_and_signs_are_shown_where_they_matter() -> None:
    depthwise = replace(FORK.layers[0], groups=100, input_signed=False)
    table = layers_table(replace(FORK, layers=(depthwise, *FORK.layers[1:])))
    assert column(table, "groups") == ["100", "", ""]
    assert column(table, "input") == ["unsigned", "signed", "signed"]


def test_macs_outside_layers_are_noted() -> None:
    assert "not in these layers" not in layers_table(FORK).notes[0]
    assert "of which 500 not in these layers" in layers_table(replace(FORK, other_macs=500)).notes[0]


def test_skipped_and_joins() -> None:
    found: Network = replace(
        FORK,
        joins=(Join(name="add", kind="add", layers=("a", "b")),),
        skipped=(Skipped(name="head", reason="weight used 2 times", macs=1500),),
    )
    assert joins_table(found).rows == (("add", "add", "a, b"),)
    assert skipped_table(found).rows == (("head", "weight used 2 times", "1.500 k"),)


def test_parameters_in_float32_are_listed_by_module() -> None:
    found = (
        FloatParameter(name="up.weight", size=1000, macs=2000, reason="not supported"),
        FloatParameter(name="up.bias", size=24, reason="not supported"),
        FloatParameter(name="token", size=8, reason="read by cat"),
    )
    assert floats_table(replace(FORK, float_parameters=found)).rows == (
        ("up", "not supported", "1.024 k", "4.000 KiB", "2.000 k"),
        ("token", "read by cat", "8", "32 B", ""),
    )


def test_costs_stand_beside_float32() -> None:
    net = chain((100, 1000), (200, 2000))
    half = costs(net, uniform_bits(net, LayerBits(4, 4), {}))
    table = costs_table({"W4A4": half}, float_costs(net))
    assert column(table, "network") == ["float32", "W4A4"]
    assert column(table, "BitOps") == ["3.072 M", "48.00 k"]
    assert column(table, "compression") == ["1.00x", "8.00x"]
    assert column(table, "weight bytes") == ["1.172 KiB", "150 B"]


def test_budget_shows_use_and_slack_of_every_limit() -> None:
    net = chain((100, 1000), (200, 2000))
    budget = Budget.parse(["bitops=60k", "weight-bytes=200B"])
    used = costs(net, uniform_bits(net, LayerBits(4, 4), {}))
    table = budget_table(budget, used, budget.resolve(net, {}))
    assert table.rows == (
        ("bitops=60k", "60.00 k", "48.00 k", "12.00 k", "20.00 %"),
        ("weight-bytes=200B", "200 B", "150 B", "50 B", "25.00 %"),
    )


def test_budget_shows_times() -> None:
    net = chain((100, 1000), (200, 2000))
    table = latency_table(net, {"l0": {"W4A4": 3_000}, "l1": {"W4A4": 5_000}}, rest=1_000)
    budget = Budget.parse(["latency=10us"])
    used = costs(net, uniform_bits(net, LayerBits(4, 4), {}), latency=table)
    found = budget_table(budget, used, budget.resolve(net, {}, latency=table))
    assert found.rows == (("latency=10us", "10.00 us", "9.000 us", "1.000 us", "10.00 %"),)


def test_bits_mark_pins_and_float32() -> None:
    table = bits_table({"a": LayerBits(8, None), "b": LayerBits(3, 4)}, pinned={"a"})
    assert table.rows == (("a", "8", "32", "pinned"), ("b", "3", "4", ""))


@pytest.mark.parametrize(("proven", "said"), [(True, "proven optimal"), (False, "gap 1.50e-04")])
def test_allocation_says_how_good_it_is(proven: bool, said: str) -> None:
    found: Any = SimpleNamespace(objective=4.6, bound=4.5, gap=1.5e-4, proven=proven, solver="dp", seconds=0.004)
    assert said in allocation_summary(found)
    assert "dp in 4.0 ms" in allocation_summary(found)


def test_a_real_allocation_fits_the_tables() -> None:
    net = chain((100, 1000), (200, 2000), (300, 1000), (50, 100))
    budget = Budget.parse(["bitops=3x3"])
    policy, allocation = allocate(net, random_scores(net), budget)
    pins = resolve_pins(net)
    slack = column(budget_table(budget, costs(net, policy.layers), budget.resolve(net, pins)), "slack")
    assert not slack[0].startswith("-")
    assert len(bits_table(policy.layers, pinned=pins).rows) == 4
    assert allocation.solver in allocation_summary(allocation)


def test_comparison_has_one_row_a_network() -> None:
    full = Costs(bitops=1024, weight_bits=3200, activation_bytes=64, peak_step="fc")
    small = Costs(bitops=12, weight_bits=320, activation_bytes=8, peak_step="fc")
    rows: Any = [
        Outcome(name="float32", accuracy=0.975, costs=full),
        Outcome(name="limpq", accuracy=0.9612, costs=small),
    ]
    table = outcome_table(rows, full, title="Digits", notes=["seed 0"])
    assert table.columns[1] == ">accuracy"
    assert table.rows == (
        ("float32", "97.50 %", "1.024 k", "400 B", "1.00x", "64 B"),
        ("limpq", "96.12 %", "12", "40 B", "10.00x", "8 B"),
    )
    assert table.notes == ("seed 0",)


def test_comparison_is_of_the_metric_of_its_task() -> None:
    used = Costs(bitops=12, weight_bits=320, activation_bytes=8, peak_step="fc")
    row = Outcome(name="float32", accuracy=0.12345678, costs=used, metric=mean_absolute_error(unit="mm").info)
    table = outcome_table([row], used)
    assert table.columns[1] == ">mean absolute error" and table.rows[0][1] == "0.1235 mm"


def test_every_cell_of_a_layer_and_the_sums() -> None:
    table = layers_table(FORK)
    assert table.rows[0] == ("a", "linear", "100x1", "", "100", "2.000 k", "signed", "1")
    assert table.notes == ("3 layers, 300 weights (1.172 KiB in float32), 4.000 k MACs a sample",)


def test_the_peak_of_activations_and_where_it_is() -> None:
    full = Costs(bitops=1024, weight_bits=3200, activation_bytes=2048, peak_step="fc")
    small = Costs(bitops=12, weight_bits=1000, activation_bytes=8, peak_step="conv")
    table = costs_table({"W4A4": small}, full, notes=["a note"])
    assert table.rows == (
        ("float32", "1.024 k", "400 B", "1.00x", "2.000 KiB", "fc"),
        ("W4A4", "12", "125 B", "3.20x", "8 B", "conv"),
    )
    assert table.notes == ("a note",)


def test_an_allocation_in_one_line() -> None:
    found: Any = SimpleNamespace(objective=4.6, bound=4.5, gap=1.5e-4, proven=False, solver="dp", seconds=90)
    assert allocation_summary(found) == "objective 4.6, bound 4.5, gap 1.50e-04; solved by dp in 1 min 30 s"
