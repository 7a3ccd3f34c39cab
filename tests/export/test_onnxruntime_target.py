"""How a measured whole is divided among what the profiler saw."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mixbit.cost import Timing
from mixbit.export import onnxruntime_target
from mixbit.export.onnx import build_onnx
from mixbit.export.onnxruntime_target import _fastest, _measurement, _Node
from mixbit.latency.tables import OVERHEAD
from mixbit.latency.timing import Timing as CpuTime
from mixbit.latency.timing import interleave
from tests.export.graphs import Builder, random_graph
from tests.needs import need


def test_the_whole_is_divided_by_what_takes_longer_than_reading_the_clock() -> None:
    nodes = [_Node(owner=None, kind="Clip", kernel=f"{us}", shape=(), fastest_us=us) for us in (1.5, 2.0, 3.0, 5.0)]
    whole, empty = Timing(median=1_000, spread=50), Timing(median=200, spread=7)
    found = _measurement(nodes, whole, empty, reading_us=2.0)
    # 0, 0, 1 and 3 us beyond the clock divide the 800 that are not those of an empty network.
    assert [(step.median, step.spread) for step in found.steps] == [(0, 0), (0, 0), (200, 10), (600, 30), (200, 7)]
    assert found.steps[-1].kind == OVERHEAD and found.whole == whole


def test_turns_are_long_enough_for_the_clock_in_both_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    need("onnx")
    given: list[dict[str, Any]] = []

    def spy(calls: Any, **settings: Any) -> Any:
        given.append(settings)
        return interleave(calls, rounds=1, least_ms=0.0)

    monkeypatch.setattr(onnxruntime_target, "interleave", spy)
    target, graph = onnxruntime_target.OnnxRuntimeTarget(), random_graph(0)
    target.time({"net": graph}, 7)
    target.profile({"net": graph}, 9)
    assert given == [{"rounds": 7, "least_ms": 2.0}, {"rounds": 9, "least_ms": 2.0}]


@pytest.mark.parametrize("cpu", ["any", "vnni"])
def test_networks_are_written_for_the_processor_and_times_are_in_nanoseconds(
    cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnx")
    written: list[str] = []

    def spy(graph: Any, **named: Any) -> Any:
        written.append(named["cpu"])
        return build_onnx(graph, **named)

    def told(calls: dict[str, Any], **_: Any) -> dict[str, CpuTime]:
        for call in calls.values():
            call()  # the profiler wants to have seen each
        return {name: CpuTime(median_ms=1.5, spread_ms=0.25, rounds=1) for name in calls}

    monkeypatch.setattr(onnxruntime_target, "build_onnx", spy)
    monkeypatch.setattr(onnxruntime_target, "interleave", told)
    target, graph = onnxruntime_target.OnnxRuntimeTarget(cpu), random_graph(0)
    wanted = Timing(median=1_500_000, spread=250_000)
    assert target.time({"net": graph}, 1) == {"net": wanted}
    assert target.profile({"net": graph}, 1)["net"].whole == wanted
    assert written == [cpu, cpu]


def test_a_layer_that_reads_two_bytes_owns_both_products_and_what_joins_them() -> None:
    need("onnx")
    b = Builder((2, 5, 5), bits=16)
    y = b.conv(b.first, 3, bits=16)
    y = b.requantize(b.add(y, y, bits=16, zero_point=9), bits=8)
    graph = b.finish(b.linear(b.flatten(y), 2, bits=None))
    found = onnxruntime_target.OnnxRuntimeTarget().profile({"net": graph}, 1)["net"]
    owners = Counter((step.owner, step.kind) for step in found.steps)
    assert owners["op1", "ConvInteger"] == 2
    assert owners["op1", "Add"] == 3, "of both products, of the bias, and of the zero points, which leads elsewhere"
    assert owners["op5", "QGemm"] == owners["op5", "Sub"] == 1, "a change of scale is of the layer that it leads to"
    assert owners[None, "Add"] == 1, "the sum of tensors is nobody's"


def test_nothing_seen_is_all_overhead() -> None:
    node = _Node(owner="a", kind="Clip", kernel="c", shape=(), fastest_us=1.0)
    found = _measurement([node], Timing(median=10, spread=1), Timing(median=20, spread=1), reading_us=2.0)
    assert [step.median for step in found.steps] == [0, 10]


def test_the_fastest_quarter_is_rounded_up() -> None:
    assert _fastest([{"dur": dur} for dur in (9, 2, 1, 8, 7)]) == 1.5
    assert _fastest([{"dur": 4}, {"dur": 3}]) == 3
