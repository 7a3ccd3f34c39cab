"""ONNX Runtime on this CPU as a target of latency tables.

The CPU time of a whole network is divided among its operations by the runtime's own profiler, which sees each in its
real surroundings: after fusing, with the changes of layout in between, with the caches as they are. The profiler reads
a wall clock, so a busy machine stretches what it sees; of each operation the fastest quarter of the runs counts, and
only in proportion to the others. What reading the clock takes itself, some microseconds an operation, is measured on
operations that do nothing, and taken off.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from mixbit.cost import Device, LatencyUnit, Timing
from mixbit.errors import ExportError, MissingExtra
from mixbit.export._machine import machine_flags, machine_name
from mixbit.export._onnx_session import load_session
from mixbit.export._onnxruntime_flow import Flow, tagged
from mixbit.export._processors import Cpu, check_cpu
from mixbit.export.float_onnx import float_onnx
from mixbit.export.onnx import build_onnx
from mixbit.integer.graph import IntegerGraph
from mixbit.latency import OVERHEAD, FloatModel, Measurement, TimedStep
from mixbit.latency.timing import Timing as CpuTime
from mixbit.latency.timing import interleave

if TYPE_CHECKING:
    from onnx import NodeProto
    from onnxruntime import InferenceSession

__all__ = ["OnnxRuntimeTarget"]

_LEAST_MS = 2.0
_EMPTY_OPERATIONS = 16


class OnnxRuntimeTarget:
    """One thread of ONNX Runtime's CPU provider, batch 1, with the files that `mixbit export` writes.

    Args:
        cpu: as `--cpu` there; the kernels depend on it.

    Raises:
        ExportError: `cpu` is unknown.
    """

    name: ClassVar[str] = "onnxruntime"
    unit: ClassVar[LatencyUnit] = "ns"
    runtime: ClassVar[str] = "onnxruntime"
    threads: ClassVar[int] = 1
    batch: ClassVar[int] = 1
    arithmetic: ClassVar[str] = "ONNX Runtime computes in 8-bit integers, whatever the bits"

    def __init__(self, cpu: Cpu = "any") -> None:
        self.cpu = check_cpu(cpu)

    @property
    def runtime_version(self) -> str:
        """Version of the installed package.

        Raises:
            MissingExtra: onnxruntime is not installed.
        """
        return str(_onnxruntime().__version__)

    @property
    def device(self) -> Device:
        """This machine: processor and cores."""
        return Device(cpu=machine_name(), cores=os.cpu_count() or 1, flags=machine_flags())

    def profile(self, graphs: Mapping[str, IntegerGraph], repeats: int) -> dict[str, Measurement]:
        """Every network once with the profiler and once without, all in turn."""
        with tempfile.TemporaryDirectory() as folder:
            runs = {
                name: _Profiled(graph, Path(folder) / str(at), self.cpu)
                for at, (name, graph) in enumerate(graphs.items())
            }
            clock = _Clock(Path(folder) / "clock")
            calls: dict[str, Callable[[], object]] = {"empty": clock.plain, "clock": clock.profiled}
            for name, run in runs.items():
                calls |= {f"plain {name}": run.plain, f"profiled {name}": run.profiled}
            times = interleave(calls, rounds=repeats, least_ms=_LEAST_MS)
            found = {name: run.nodes() for name, run in runs.items()}
            reading_us, empty = clock.reading_us(), _timing(times["empty"])
        return {
            name: _measurement(nodes, _timing(times[f"plain {name}"]), empty, reading_us)
            for name, nodes in found.items()
        }

    def time(self, networks: Mapping[str, IntegerGraph | FloatModel], repeats: int) -> dict[str, Timing]:
        """CPU time of whole networks, in turn."""
        calls = {
            name: _float_call(one) if isinstance(one, FloatModel) else _integer_call(one, self.cpu)
            for name, one in networks.items()
        }
        times = interleave(calls, rounds=repeats, least_ms=_LEAST_MS)
        return {name: _timing(found) for name, found in times.items()}


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as cause:
        raise MissingExtra("The target onnxruntime needs onnxruntime: pip install 'mixbit[export]'.") from cause
    return onnxruntime


# ------------------------------------------------------------------------------------------------ whole networks


def _integer_call(graph: IntegerGraph, cpu: Cpu) -> Callable[[], object]:
    return _call(load_session(build_onnx(graph, cpu=cpu).SerializeToString()), graph.tensors[graph.input].shape)


def _float_call(found: FloatModel) -> Callable[[], object]:
    return _call(load_session(float_onnx(found.model, found.example)), tuple(found.example.shape[1:]))


def _call(session: InferenceSession, shape: Sequence[int]) -> Callable[[], object]:
    # Integer kernels take as long for any numbers.
    sample = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    return partial(session.run, None, {session.get_inputs()[0].name: sample})


def _timing(found: CpuTime) -> Timing:
    return Timing(median=round(1e6 * found.median_ms), spread=round(1e6 * found.spread_ms))


# ----------------------------------------------------------------------------------------------- step by step


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """One operation as the profiler saw it."""

    owner: str | None
    kind: str
    kernel: str
    shape: tuple[int, ...]
    fastest_us: float


Events: TypeAlias = dict[str, list[Mapping[str, Any]]]
"""Name of an operation -> what the profiler wrote of it, one entry a run."""


class _Recorded:
    """A session with the profiler."""

    def __init__(self, content: bytes, shape: Sequence[int], folder: Path) -> None:
        folder.mkdir()
        self.optimized = folder / "optimized.onnx"
        attributes = {
            "enable_profiling": True,
            "profile_file_prefix": str(folder / "profile"),
            "optimized_model_filepath": str(self.optimized),
        }
        self._session = load_session(content, attributes=attributes)
        self.profiled = _call(self._session, shape)

    def events(self) -> Events:
        """End the profile, and read it."""
        found: Events = defaultdict(list)
        for event in json.loads(Path(self._session.end_profiling()).read_text()):
            if event["name"].endswith("_kernel_time"):
                found[event["name"].removesuffix("_kernel_time")].append(event)
        return found


class _Profiled(_Recorded):
    """A network in two sessions: as it is exported, and with the profiler."""

    def __init__(self, graph: IntegerGraph, folder: Path, cpu: Cpu) -> None:
        model, shape = build_onnx(graph, cpu=cpu), graph.tensors[graph.input].shape
        self._layers = [op.name for op in graph.weighted()]
        self.plain = _call(load_session(model.SerializeToString()), shape)
        super().__init__(tagged(model, len(self._layers)).SerializeToString(), shape, folder)

    def nodes(self) -> list[_Node]:
        """All operations, in order of execution."""
        import onnx

        events, flow = self.events(), Flow(onnx.load(self.optimized), self._layers)
        missing = [node.name for node in flow.nodes if node.name not in events]
        if missing:
            raise ExportError(
                f"ONNX Runtime {_onnxruntime().__version__} profiled no {missing[0]!r}, so this build of it cannot be "
                "used as a target."
            )
        return [_node(flow, node, events[node.name]) for node in flow.nodes]


class _Clock(_Recorded):
    """Operations that do nothing: what a run takes beyond its operations, and what the profiler adds to each."""

    def __init__(self, folder: Path) -> None:
        self.plain = _call(load_session(_empty_network(1)), (1,))
        super().__init__(_empty_network(_EMPTY_OPERATIONS), (1,), folder)

    def reading_us(self) -> float:
        """Added to each operation."""
        return statistics.median(_fastest(one) for one in self.events().values())


def _empty_network(operations: int) -> bytes:
    """A chain of negations of one number."""
    from onnx import TensorProto, helper

    names = [f"t{at}" for at in range(operations + 1)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in (names[0], names[-1])]
    nodes = [helper.make_node("Neg", [a], [b], name=f"n.{b}") for a, b in itertools.pairwise(names)]
    graph = helper.make_graph(nodes, "empty", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _node(flow: Flow, node: NodeProto, events: Sequence[Mapping[str, Any]]) -> _Node:
    seen = events[-1]["args"]
    results = [next(iter(one.values())) for one in seen["output_type_shape"]]
    inputs, outputs = (_types(seen[f"{end}_type_shape"]) for end in ("input", "output"))
    return _Node(
        owner=flow.owner(node),
        kind=node.op_type,
        kernel=f"{node.op_type} {inputs} {flow.details(node)}-> {outputs}",
        shape=tuple(results[0][1:]) if results else (),
        fastest_us=_fastest(events),
    )


def _fastest(events: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the fastest quarter: nothing else ran then. The mean is finer than the profiler's whole microseconds."""
    times = sorted(event["dur"] for event in events)
    return statistics.fmean(times[: -(-len(times) // 4)])


def _types(found: Sequence[Mapping[str, Sequence[int]]]) -> str:
    """`uint8[1,16,32,32]`; scalars are scales and zero points, which every kernel has."""
    pairs = [(kind, sizes) for one in found for kind, sizes in one.items() if sizes]
    return " ".join(f"{kind}[{','.join(map(str, sizes))}]" for kind, sizes in pairs)


def _measurement(nodes: Sequence[_Node], whole: Timing, empty: Timing, reading_us: float) -> Measurement:
    """The time of the whole network, divided in proportion to what the profiler saw."""
    seen = [max(node.fastest_us - reading_us, 0.0) for node in nodes]
    part = max(whole.median - empty.median, 0) / (whole.median or 1) / (sum(seen) or 1.0)
    steps = [
        TimedStep(
            owner=node.owner,
            kind=node.kind,
            kernel=node.kernel,
            shape=node.shape,
            median=round(part * us * whole.median),
            spread=round(part * us * whole.spread),
        )
        for node, us in zip(nodes, seen, strict=True)
    ]
    rest = max(whole.median - sum(step.median for step in steps), 0)
    run = TimedStep(owner=None, kind=OVERHEAD, kernel=OVERHEAD, shape=(), median=rest, spread=empty.spread)
    return Measurement(whole=whole, steps=(*steps, run))
