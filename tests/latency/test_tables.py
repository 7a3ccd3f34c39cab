"""Latency tables: how they are summed, what they say, how a build resumes; and ONNX Runtime as a target."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from mixbit.cost import Device, LatencyTable, LatencyUnit, LayerBits, Timing
from mixbit.errors import BudgetError, ExportError, MissingExtra, MixbitError, StaleRun
from mixbit.export._processors import CPUS
from mixbit.export.onnxruntime_target import OnnxRuntimeTarget
from mixbit.integer import graph as g
from mixbit.integer.graph import IntegerGraph
from mixbit.latency.tables import (
    OVERHEAD,
    FloatModel,
    Measurement,
    TimedStep,
    build,
    estimate,
    options_of,
    random_bits,
)
from mixbit.network import Layer, Network
from tests.export.graphs import Builder, random_graph
from tests.needs import need
from tests.support import chain

EIGHT = LayerBits(8, 8)
BITS = options_of([4, 8])


# ------------------------------------------------------------------------------------- a network and its lowering


def small(layers: Mapping[str, LayerBits]) -> IntegerGraph:
    """Two convolutions of one geometry, an add, a pool and a linear layer: `op1`, `op2`, `op6`."""
    b = Builder((4, 8, 8), bits=layers["op1"].activation_bits or 8, signed=True)
    first = b.conv(b.first, 4, weight_bits=layers["op1"].weight_bits or 8, bits=layers["op2"].activation_bits or 8)
    second = b.conv(first, 4, weight_bits=layers["op2"].weight_bits or 8, bits=8)
    both = b.add(second, second, bits=8)
    pooled = b.flatten(b.average_pool(both, bits=layers["op6"].activation_bits or 8))
    return b.finish(b.linear(pooled, 3, weight_bits=layers["op6"].weight_bits or 8, bits=None))


def network_of(graph: IntegerGraph) -> Network:
    """What capture would say of a graph by hand, as far as latency needs it."""
    return Network(
        layers=tuple(_layer(graph, op) for op in graph.weighted()),
        tensors=(),
        steps=(),
        joins=(),
        skipped=(),
        other_macs=0,
    )


def _layer(graph: IntegerGraph, op: g.Weighted) -> Layer:
    return Layer(
        name=op.name,
        kind="conv2d" if isinstance(op, g.Conv) else "linear",
        parameter=f"{op.name}.weight",
        weight_shape=op.weight.shape,
        groups=op.groups if isinstance(op, g.Conv) else 1,
        macs=_macs(graph, op),
        macs_limpq=_macs(graph, op),
        input_shape=graph.tensors[op.x].shape,
        output_shape=graph.tensors[op.output].shape,
        input_tensor=op.x,
        output_tensor=op.output,
        input_signed=graph.grid(op.x).qmin < 0,
    )


def _macs(graph: IntegerGraph, op: g.Weighted) -> int:
    return op.weight.size * math.prod(graph.tensors[op.output].shape[1:])


NET = network_of(small(dict.fromkeys(("op1", "op2", "op6"), EIGHT)))


@dataclass
class Products:
    """A device that takes `weight_bits + activation_bits` instructions a product, 5 an element of an add, 100 a run.

    `pace` is the speed of each call of `profile` and `time`, one after the other; it stays at the last one.
    """

    name: ClassVar[str] = "products"
    unit: ClassVar[LatencyUnit] = "instructions"
    runtime: ClassVar[str] = "paper"
    runtime_version: ClassVar[str] = "1"
    device: ClassVar[Device] = Device(cpu="paper", cores=1)
    threads: ClassVar[int] = 1
    batch: ClassVar[int] = 1
    arithmetic: str = "all bits are one"
    pace: Sequence[int] = (1,)
    weights_count: bool = True
    runs_float: bool = True
    silent: str = ""
    """A layer that it does not tell of."""
    calls: list[list[str]] = field(default_factory=list)

    def profile(self, graphs: Mapping[str, IntegerGraph], repeats: int) -> dict[str, Measurement]:
        pace = self._next(graphs)
        return {name: self._measured(graph, pace) for name, graph in graphs.items()}

    def time(self, networks: Mapping[str, IntegerGraph | FloatModel], repeats: int) -> dict[str, Timing]:
        if not self.runs_float and any(isinstance(one, FloatModel) for one in networks.values()):
            raise ExportError("paper has no point.")
        pace = self._next(networks)
        return {
            name: Timing(median=9_999 * pace, spread=0)
            if isinstance(one, FloatModel)
            else self._measured(one, pace).whole
            for name, one in networks.items()
        }

    def _next(self, networks: Mapping[str, Any]) -> int:
        self.calls.append(list(networks))
        return self.pace[min(len(self.calls), len(self.pace)) - 1]

    def _measured(self, graph: IntegerGraph, pace: int) -> Measurement:
        steps = [step for op in graph.ops for step in self._steps(graph, op, pace)]
        steps.append(TimedStep(owner=None, kind=OVERHEAD, kernel=OVERHEAD, shape=(), median=100 * pace, spread=0))
        return Measurement(whole=Timing(median=sum(one.median for one in steps), spread=pace), steps=tuple(steps))

    def _steps(self, graph: IntegerGraph, op: g.Op, pace: int) -> list[TimedStep]:
        shape = graph.tensors[op.output].shape
        if isinstance(op, g.Weighted) and op.name != self.silent:
            bits = graph.grid(op.x).bits + (op.weight_bits if self.weights_count else 8)
            kernel = f"{op.kind} {op.weight.shape} {shape} {bits}"
            median = pace * bits * _macs(graph, op)
            return [TimedStep(owner=op.name, kind=op.kind, kernel=kernel, shape=shape, median=median, spread=2 * pace)]
        if isinstance(op, g.Add):
            median = 5 * pace * graph.tensors[op.output].numel
            return [TimedStep(owner=None, kind="Add", kernel=f"Add {shape}", shape=shape, median=median, spread=pace)]
        return []


def exactly(layers: Mapping[str, LayerBits]) -> int:
    """What `Products` takes for a policy."""
    return Products()._measured(small(layers), 1).whole.median


# ------------------------------------------------------------------------------------------------------- options


def test_options_are_all_pairs() -> None:
    assert [str(option) for option in options_of([8, 4, 4])] == ["W4A4", "W8A4", "W4A8", "W8A8"]
    assert [str(option) for option in options_of([8, 1], [16, 8])] == ["W1A8", "W8A8", "W1A16", "W8A16"]


def test_random_bits_are_drawn_from_the_seed_and_share_what_is_tied() -> None:
    tied = Network(
        layers=tuple(replace(layer, input_tensor="x") for layer in NET.layers),
        tensors=(), steps=(), joins=(), skipped=(), other_macs=0,
    )  # fmt: skip
    drawn = [random_bits(tied, (2, 4, 6, 8), seed) for seed in range(20)]
    assert drawn == [random_bits(tied, (2, 4, 6, 8), seed) for seed in range(20)]
    assert all(len({bits.activation_bits for bits in one.values()}) == 1 for one in drawn)
    assert len({str(one) for one in drawn}) > 10
    apart = [bits for seed in range(20) for bits in random_bits(NET, (1, 8), seed, (8, 16)).values()]
    assert {(one.weight_bits, one.activation_bits) for one in apart} == {(1, 8), (8, 8), (1, 16), (8, 16)}


# ---------------------------------------------------------------------------------------------------------- sums


def test_sums_of_layers_are_those_of_whole_networks() -> None:
    checks = {f"random {seed}": random_bits(NET, (4, 8), seed) for seed in range(4)}
    table = build(NET, small, Products(), options=BITS, checks=checks)
    for bits in [*checks.values(), dict.fromkeys(table.layers, EIGHT)]:
        assert table.cost(bits) == exactly(bits)
    assert [(one.predicted, one.measured, one.error_percent) for one in table.checks] == [
        (exactly(bits), exactly(bits), 0.0) for bits in checks.values()
    ]
    assert table.checks[0].bits == {name: str(one) for name, one in checks["random 0"].items()}
    assert table.rest == 100 + 5 * 4 * 64
    assert {part.kind: (part.uses, part.shape) for part in table.other} == {"Add": (1, (4, 8, 8)), OVERHEAD: (1, ())}
    assert table.check(NET) is table
    assert LatencyTable.from_json(table.to_json()) == table


def test_what_no_layer_accounts_for_counts_as_often_as_it_is_used() -> None:
    def adding(layers: Mapping[str, LayerBits]) -> IntegerGraph:
        b = Builder((4, 8, 8), bits=layers["op1"].activation_bits or 8, signed=True)
        y = b.conv(b.first, 4, weight_bits=layers["op1"].weight_bits or 8, bits=8)
        for _ in range(3):
            y = b.add(y, y, bits=8)
        return b.finish(b.linear(b.flatten(y), 3, bits=None))

    table = build(network_of(adding({"op1": EIGHT, "op6": EIGHT})), adding, Products(), options=[EIGHT])
    (add,) = (part for part in table.other if part.kind == "Add")
    assert (add.uses, add.median, add.spread) == (3, 3 * 5 * 4 * 64, 3 * 1)
    assert table.rest == 100 + 3 * 5 * 4 * 64


def test_layers_of_one_geometry_are_one_measurement() -> None:
    table = build(NET, small, Products(), options=BITS)
    assert table.layers["op1"].options == table.layers["op2"].options
    assert table.layers["op1"].options["W4A8"].median == 12 * 4 * 4 * 9 * 64
    assert sum(1 for kernel in table.kernels if kernel.startswith("Conv")) == 3  # 8, 12 and 16 bits in all


@pytest.mark.parametrize("pace", [(1, 2, 1), (2, 2, 2), (1, 3, 2)])
def test_a_device_that_slows_down_does_not_bend_the_table(pace: Sequence[int]) -> None:
    bits = random_bits(NET, (4, 8), 0)
    table = build(NET, small, Products(pace=pace), options=BITS, checks={"random": bits})
    middle = sorted(pace)[1]
    assert table.cost(bits) == middle * exactly(bits)
    assert table.checks[0].error_percent == 0.0


def test_the_float_network_is_a_figure_of_its_own(tmp_path: Path) -> None:
    model = FloatModel(model=nn.Identity(), example=torch.zeros(1, 4, 8, 8))
    table = build(NET, small, Products(), options=BITS, float_model=model)
    assert table.float32 == Timing(median=9_999, spread=0)
    kept: dict[str, Any] = {"options": BITS, "float_model": model, "partial": tmp_path / "t.json.partial"}
    without = build(NET, small, Products(runs_float=False), **kept)
    assert without == build(NET, small, Products(runs_float=False), **kept)  # from its file, the reason too
    assert without.float32 is None
    assert without.notes[-1] == "the float32 network was not measured: paper has no point."
    assert build(NET, small, Products(), options=BITS).float32 is None


def test_notes_say_where_fewer_bits_bring_no_speed() -> None:
    fast = build(NET, small, Products(), options=BITS)
    assert [note.partition(" (")[0] for note in fast.notes] == [
        "weights of 4 bits take less time than 8 bits",
        "activations of 4 bits take less time than 8 bits",
    ]
    table = build(NET, small, Products(weights_count=False), options=options_of([2, 4, 8]))
    assert "weights of 2, 4 bits take no less time than 8 bits (100 % of it): all bits are one" in table.notes
    assert any(note.startswith("activations of 2, 4 bits take less time than 8 bits") for note in table.notes)
    assert {found.median for text, found in table.layers["op1"].options.items() if text.endswith("A4")} == {
        12 * 4 * 4 * 9 * 64
    }


def test_one_option_alone_is_a_table_too() -> None:
    table = build(NET, small, Products(), options=[EIGHT])
    assert table.cost(dict.fromkeys(table.layers, EIGHT)) == exactly(dict.fromkeys(table.layers, EIGHT))
    assert table.notes == ()
    with pytest.raises(BudgetError, match=r"no measurement of 'op1' at W4A8"):
        table.cost(dict.fromkeys(table.layers, LayerBits(4, 8)))


def test_nothing_to_measure() -> None:
    with pytest.raises(MixbitError, match="0 options"):
        build(NET, small, Products(), options=[])
    with pytest.raises(MixbitError, match="0 repeats"):
        build(NET, small, Products(), options=BITS, repeats=0)


def test_a_layer_that_nothing_was_executed_for() -> None:
    with pytest.raises(ExportError, match="products executed nothing for the layer 'op2'"):
        build(NET, small, Products(silent="op2"), options=BITS)


# --------------------------------------------------------------------------------------------- another network


def test_another_network_of_the_same_kernels() -> None:
    table = build(NET, small, Products(), options=BITS)
    longer = Builder((4, 8, 8), bits=8, signed=True)
    x = longer.conv(longer.conv(longer.conv(longer.first, 4, weight_bits=4), 4, weight_bits=8), 4, weight_bits=4)
    x = longer.flatten(longer.average_pool(longer.add(x, x)))
    graph = longer.finish(longer.linear(x, 3, weight_bits=8, bits=None))
    assert estimate(table, graph, Products()) == Products()._measured(graph, 1).whole.median


def test_kernels_that_a_table_lacks_are_named() -> None:
    table = build(NET, small, Products(), options=[EIGHT])
    with pytest.raises(ExportError, match=r"lacks 1 of 5 kernels that this network needs: Conv .* 12\. Build a table"):
        estimate(table, small({"op1": LayerBits(4, 8), "op2": EIGHT, "op6": EIGHT}), Products())


def test_of_many_kernels_that_a_table_lacks_three_are_named() -> None:
    table = build(NET, small, Products(), options=[EIGHT])
    b = Builder((4, 8, 8), bits=8, signed=True)
    x = b.first
    for bits in (3, 4, 5, 6):
        x = b.conv(x, 4, weight_bits=bits)
    graph = b.finish(b.linear(b.flatten(b.average_pool(x)), 3, weight_bits=8, bits=None))
    wanted = "; ".join(f"Conv (4, 4, 3, 3) (4, 8, 8) {8 + bits}" for bits in (3, 4, 5))
    with pytest.raises(ExportError, match=re.escape(f"lacks 4 of 6 kernels that this network needs: {wanted}. Build")):
        estimate(table, graph, Products())


# ---------------------------------------------------------------------------------------------------------- resume


class Killed(Exception):
    """As if the process had ended."""


def kill_at(line: str) -> Callable[[str], None]:
    def tell(text: str) -> None:
        if text == line:
            raise Killed

    return tell


def test_without_options_a_table_has_every_pair_of_the_usual_bits() -> None:
    wanted = {f"W{w}A{a}" for w in (2, 3, 4, 5, 6, 8) for a in (2, 3, 4, 5, 6, 8)}
    assert all(set(layer.options) == wanted for layer in build(NET, small, Products()).layers.values())


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    partial, checks = tmp_path / "t.json.partial", {"random": random_bits(NET, (4, 8), 0)}
    options: dict[str, Any] = {"options": BITS, "checks": checks, "partial": partial}
    with pytest.raises(Killed):
        build(NET, small, Products(), tell=kill_at("Activations of 8 bits, 2 of 2"), **options)
    assert [json.loads(line)["key"] for line in partial.read_text().splitlines()[1:]] == ["W32A4"]
    second, lowered = Products(), []
    with pytest.raises(Killed):
        build(NET, lambda bits: lowered.append(1) or small(bits), second, tell=kill_at("Whole networks"), **options)  # type: ignore[func-returns-value]
    assert second.calls == [["W4A8", "W8A8"]] and len(lowered) == 2
    third = Products()
    table = build(NET, small, third, **options)
    assert third.calls == [["check random", "reference"]]
    assert table == build(NET, small, Products(), options=BITS, checks=checks)
    fourth = Products()
    assert build(NET, small, fourth, **options) == table and fourth.calls == []  # a table that could not be saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 7}, r"begun with repeats=30, now repeats=7"),
        ({"options": [EIGHT]}, r"begun with options=\['W4A4', 'W8A4', 'W4A8', 'W8A8'\], now options=\['W8A8'\]"),
        ({"checks": {"mine": dict.fromkeys(("op1", "op2", "op6"), EIGHT)}}, "begun with checks={}, now checks={'mine'"),
        ({"float_model": FloatModel(model=nn.Identity(), example=torch.zeros(1))}, "float32=False, now float32=True"),
    ],
)
def test_measurements_of_other_settings_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    partial = tmp_path / "t.json.partial"
    options: dict[str, Any] = {"options": BITS, "partial": partial}
    with pytest.raises(Killed):
        build(NET, small, Products(), tell=kill_at("Whole networks"), **options)
    with pytest.raises(StaleRun, match=message):
        build(NET, small, Products(), **{**options, **change})
    with pytest.raises(StaleRun, match="fingerprint"):
        build(chain((1, 1)), small, Products(), **options)
    larger = replace(NET, layers=tuple(replace(layer, input_shape=(4, 16, 16)) for layer in NET.layers))
    with pytest.raises(StaleRun, match=r"begun with input=.*16, 16"):  # its fingerprint is that of the smaller
        build(larger, small, Products(), **options)


@pytest.mark.parametrize(
    ("fact", "value", "key"),
    [
        ("name", "pencil", "target"),
        ("runtime", "pencil", "runtime"),
        ("runtime_version", "2", "runtime"),
        ("device", Device(cpu="pencil", cores=1), r"device\.cpu"),
        ("threads", 2, "threads"),
        ("batch", 4, "batch"),
    ],
)
def test_measurements_of_another_target_are_refused(fact: str, value: Any, key: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"options": BITS, "partial": tmp_path / "t.json.partial"}
    with pytest.raises(Killed):
        build(NET, small, Products(), tell=kill_at("Whole networks"), **options)
    other = type("Other", (Products,), {fact: value})()
    with pytest.raises(StaleRun, match=f"begun with {key}="):
        build(NET, small, other, **options)


@dataclass
class Processor(Products):
    """Writes other files for other processors."""

    cpu: str = "any"


def test_a_table_knows_for_which_processors_its_files_were(tmp_path: Path) -> None:
    table = build(NET, small, Processor(cpu="vnni"), options=BITS)
    assert table.cpu == "vnni" and build(NET, small, Products(), options=BITS).cpu is None
    assert LatencyTable.from_json(table.to_json()) == table
    assert estimate(table, small(dict.fromkeys(("op1", "op2", "op6"), EIGHT)), Processor(cpu="vnni")) > 0
    with pytest.raises(ExportError, match="files with cpu='vnni', the target writes files with cpu='any'"):
        estimate(table, small(dict.fromkeys(("op1", "op2", "op6"), EIGHT)), Processor())


def test_measurements_of_files_for_other_processors_are_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"options": BITS, "partial": tmp_path / "t.json.partial"}
    with pytest.raises(Killed):
        build(NET, small, Processor(), tell=kill_at("Whole networks"), **options)
    with pytest.raises(StaleRun, match="begun with cpu='any', now cpu='vnni'"):
        build(NET, small, Processor(cpu="vnni"), **options)


def test_a_killed_build_goes_on_where_the_flags_are_known(tmp_path: Path) -> None:
    """The file has lists where the device has tuples."""

    @dataclass
    class Known(Products):
        device: ClassVar[Device] = Device(cpu="paper", cores=1, flags=("avx2", "avx512_vnni"))

    options: dict[str, Any] = {"options": BITS, "partial": tmp_path / "t.json.partial"}
    with pytest.raises(Killed):
        build(NET, small, Known(), tell=kill_at("Whole networks"), **options)
    assert build(NET, small, Known(), **options).device.flags == ("avx2", "avx512_vnni")


@pytest.mark.parametrize("content", ["{}", "[]", '{"format": "mixbit-latency-partial", "version": 2}'])
def test_a_foreign_partial_file_is_refused(content: str, tmp_path: Path) -> None:
    partial = tmp_path / "t.json.partial"
    partial.write_text(content)
    with pytest.raises(StaleRun, match="holds no measurements"):
        build(NET, small, Products(), options=BITS, partial=partial)
    assert partial.read_text() == content


# ----------------------------------------------------------------------------------------------------- ONNX Runtime


@pytest.fixture(scope="module")
def measured() -> dict[str, Measurement]:
    """Two uniform networks, few repeats: times are not looked at."""
    need("onnx")
    graphs = {
        text: small(dict.fromkeys(("op1", "op2", "op6"), bits)) for text, bits in (("4", LayerBits(4, 4)), ("8", EIGHT))
    }
    return OnnxRuntimeTarget().profile(graphs, 2)


def test_every_layer_has_its_integer_kernel(measured: dict[str, Measurement]) -> None:
    for found in measured.values():
        own = {name: [step.kind for step in found.steps if step.owner == name] for name in ("op1", "op2", "op6")}
        assert "QLinearConv" in own["op1"] and "QLinearConv" in own["op2"]
        assert "QGemm" in own["op6"]
        others = [step.kind for step in found.steps if step.owner is None]
        assert {"QLinearAdd", "QLinearGlobalAveragePool", OVERHEAD} <= set(others)


def test_the_clamp_of_few_bits_belongs_to_the_layer_that_reads_them(measured: dict[str, Measurement]) -> None:
    clamps = {text: [step.owner for step in found.steps if step.kind == "Clip"] for text, found in measured.items()}
    assert clamps["8"] == []
    assert set(clamps["4"]) == {"op1", "op2", "op6"}


def test_steps_add_up_to_the_whole(measured: dict[str, Measurement]) -> None:
    for found in measured.values():
        assert abs(sum(step.median for step in found.steps) - found.whole.median) <= len(found.steps)
        assert min(step.median for step in found.steps) >= 0
        assert found.whole.median > 0


def test_equal_geometry_is_one_kernel_and_another_window_is_not(measured: dict[str, Measurement]) -> None:
    steps = {step.owner: step for step in measured["8"].steps if step.kind == "QLinearConv"}
    assert steps["op1"].kernel == steps["op2"].kernel
    assert "4x4x3x3" in steps["op1"].kernel and "pads=[1,1,1,1]" in steps["op1"].kernel
    assert steps["op1"].shape == (8, 8, 4)  # the runtime puts channels last


@pytest.mark.parametrize("spatial", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_any_graph_is_attributed(seed: int, spatial: int) -> None:
    need("onnx")
    graph = random_graph(seed, spatial=spatial)
    (found,) = OnnxRuntimeTarget().profile({"one": graph}, 1).values()
    assert {step.owner for step in found.steps} - {None} == {op.name for op in graph.weighted()}


def test_a_table_of_a_real_runtime() -> None:
    need("onnx")
    checks = {"random": random_bits(NET, (4, 8), 0)}
    table = build(NET, small, OnnxRuntimeTarget(), options=BITS, repeats=2, checks=checks)
    assert list(table.layers) == ["op1", "op2", "op6"]
    assert all(list(found.options) == ["W4A4", "W8A4", "W4A8", "W8A8"] for found in table.layers.values())
    # 4-bit weights are bytes once they are unpacked: the same kernels, hence the same time.
    assert table.layers["op2"].options["W4A4"] == table.layers["op2"].options["W8A4"]
    assert table.cost(checks["random"]) == table.checks[0].predicted > 0
    assert (table.target, table.unit, table.threads, table.batch) == ("onnxruntime", "ns", 1, 1)
    assert table.runtime_version.count(".") == 2 and table.device.cpu and table.cpu == "any"
    assert LatencyTable.from_json(table.to_json()) == table
    assert estimate(table, small(checks["random"]), OnnxRuntimeTarget()) > 0


def test_kernels_are_those_of_the_files_that_are_written() -> None:
    """A heavy layer among small ones: for any processor as uint8 where it is one of the smallest, for vnni as int8."""
    need("onnx")
    b = Builder((16, 12, 12), bits=8, signed=False)
    y = b.conv(b.first, 16, weight_bits=4, bits=8)
    graph = b.finish(b.linear(b.flatten(b.average_pool(y)), 4, weight_bits=8, bits=None))
    types = {}
    for cpu in CPUS:
        (found,) = OnnxRuntimeTarget(cpu).profile({"one": graph}, 1).values()
        (kernel,) = (step.kernel for step in found.steps if step.kind == "QGemm")
        types[cpu] = kernel.split()
    assert not any(one.startswith("int8[") for one in types["any"])
    assert any(one.startswith("int8[") for one in types["vnni"])


def test_whole_networks_with_the_float_one() -> None:
    need("onnx")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    networks: dict[str, IntegerGraph | FloatModel] = {
        "float32": FloatModel(model=model, example=torch.randn(1, 4, 8, 8)),
        "integer": small(dict.fromkeys(("op1", "op2", "op6"), EIGHT)),
    }
    found = OnnxRuntimeTarget().time(networks, 2)
    assert list(found) == ["float32", "integer"]
    assert all(one.median > 0 and one.spread >= 0 for one in found.values())


def test_without_the_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixbit\[export\]'"):
        build(NET, small, OnnxRuntimeTarget(), options=BITS)
