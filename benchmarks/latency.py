"""Latency tables of ONNX Runtime on this CPU: what fewer bits bring, and how well sums predict whole networks.

    python benchmarks/latency.py [--networks resnet20,mobilenetv2,resnet18] [--repeats 30] [--policies 8]
        [--bits 2 3 4 5 6 8] [--fresh | --smoke]

For each network a table at all pairs of bits, checked on random policies that it was not made from. ResNet-20's table
also predicts ResNet-32 and ResNet-56, which it has never seen, from its kernels. And ResNet-20's sums once more from
layers measured alone, one network of one layer each: the other way to make a table. Both are part of one measurement
with the table; which way predicts better is measured by `latency_ways.py`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import records
from mixbit import models
from mixbit.cost import LatencyTable, LayerBits
from mixbit.export.onnxruntime_target import OnnxRuntimeTarget
from mixbit.integer import IntegerGraph, Rounding, lower
from mixbit.integer import graph as g
from mixbit.latency.tables import DEFAULT_BITS, FloatModel, build, estimate, options_of, random_bits
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize

Bits = Mapping[str, LayerBits]
FIRST = "resnet20"
OTHERS = ("resnet32", "resnet56")
SMALL = "resnet8"
"""Of smoke runs."""


@dataclass
class Subject:
    """A network of the zoo with random weights: they do not change the time."""

    name: str
    model: nn.Module
    network: Network
    x: torch.Tensor
    rounding: Rounding = "float32"

    @classmethod
    def of(cls, name: str, rounding: Rounding = "float32") -> Subject:
        """Two random images to calibrate with."""
        torch.manual_seed(0)
        model = models.build(name).eval()
        x = torch.randn(2, *models.info(name).input_shape)
        return cls(name, model, capture(model, x), x, rounding)

    def lower(self, layers: Bits) -> IntegerGraph:
        """The integer graph at given bits."""
        model = copy.deepcopy(self.model)
        quantize(model, Policy(fingerprint=self.network.fingerprint, layers=dict(layers)), self.network)
        calibrate(model, [self.x])
        return lower(model, self.network, [self.x], rounding=self.rounding)

    def uniform(self, option: LayerBits) -> IntegerGraph:
        """All layers at one option."""
        return self.lower({layer.name: option for layer in self.network.layers})


def measure(
    subject: Subject, bits: tuple[int, ...], repeats: int, policies: int, *, floating: bool = True
) -> tuple[LatencyTable, float]:
    """The table, with the float32 network beside it, and the seconds that it took."""
    started = time.perf_counter()
    table = build(
        subject.network,
        subject.lower,
        OnnxRuntimeTarget(),
        options=options_of(bits),
        repeats=repeats,
        checks={f"random {seed}": random_bits(subject.network, bits, seed) for seed in range(policies)},
        float_model=FloatModel(model=subject.model, example=subject.x[:1]) if floating else None,
        tell=lambda line: print(f"{subject.name}: {line}", flush=True),
    )
    return table, time.perf_counter() - started


def summary(table: LatencyTable, bits: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """What the table says, in microseconds."""
    checks = [
        {"policy": one.name, **_pair(one.predicted, one.measured), "spread_us": round(one.spread / 1e3, 1)}
        for one in table.checks
    ]
    uniform = {str(o): round(table.cost(dict.fromkeys(table.layers, o)) / 1e3, 1) for o in options_of(bits)}
    return {
        "uniform_us": uniform,
        "float32_us": None if table.float32 is None else round(table.float32.median / 1e3, 1),
        "rest_us": round(table.rest / 1e3, 1),
        "layers": len(table.layers),
        "kernels": len(table.kernels),
        "repeats": table.repeats,
        "notes": list(table.notes),
        "held_out_policies": checks,
        "largest_error_percent": _largest(checks),
        "build_seconds": round(seconds),
    }


def _pair(predicted: float, measured: float) -> dict[str, float]:
    return {
        "predicted_us": round(predicted / 1e3, 1),
        "measured_us": round(measured / 1e3, 1),
        "error_percent": round(100 * (predicted / measured - 1), 2),
    }


def _largest(rows: list[dict[str, Any]]) -> float | None:
    return max((abs(row["error_percent"]) for row in rows), default=None)


def predict_others(table: LatencyTable, first: Subject, bits: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Whole networks that no table was made of, beside the first network, so that its pace now is known as well."""
    target, found = OnnxRuntimeTarget(), {}
    eight = LayerBits(max(bits), max(bits))
    for name in OTHERS:
        other = Subject.of(name)
        graphs = {f"random {seed}": other.lower(random_bits(other.network, bits, seed)) for seed in range(3)}
        times = target.time({**graphs, "reference": first.uniform(eight)}, repeats)
        pace = times["reference"].median / table.cost(dict.fromkeys(table.layers, eight))
        sums = {policy: estimate(table, graph, target) for policy, graph in graphs.items()}
        rows = [{"policy": policy, **_pair(total, times[policy].median)} for policy, total in sums.items()]
        paced = [_pair(pace * total, times[policy].median) for policy, total in sums.items()]
        found[name] = {
            "policies": rows,
            "largest_error_percent": _largest(rows),
            # The same, had the machine been as fast as when the table was made.
            "pace_of_resnet20": round(pace, 3),
            "largest_error_at_that_pace_percent": _largest(paced),
        }
    return found


# -------------------------------------------------------------------------------------------------- layers alone


@dataclass(frozen=True)
class Alone:
    """Networks of one layer, and of none, from uniform networks."""

    graphs: dict[str, IntegerGraph]
    keys: dict[tuple[str, str], tuple[str, str]]
    """Layer and option -> names of the network with it, and of that network's ends."""


def alone_networks(uniform: Mapping[str, IntegerGraph]) -> Alone:
    """Of every layer at every option."""
    found = Alone({}, {})
    for option, graph in uniform.items():
        for op in graph.weighted():
            alone, ends = _names(graph, op, option)
            found.keys[op.name, option] = alone, ends
            found.graphs[alone], found.graphs[ends] = _alone(graph, op.x, op), _alone(graph, op.x, None)
    return found


def alone_sums(
    alone: Alone, times: Mapping[str, int], drawn: Mapping[str, Bits], network: Network, options: Sequence[LayerBits]
) -> dict[str, float]:
    """What layers measured alone say of policies; `times` has those of uniform networks too, as `whole W4A8`.

    A layer is its network without the ends of that network. What is no layer, `rest`, is the middle difference to the
    uniform networks.
    """

    def layers_of(bits: Bits) -> int:
        pairs = (alone.keys[name, str(one)] for name, one in bits.items())
        return sum(max(times[with_it] - times[ends], 0) for with_it, ends in pairs)

    names = [layer.name for layer in network.layers]
    rest = statistics.median(times[f"whole {one}"] - layers_of(dict.fromkeys(names, one)) for one in options)
    return {name: rest + layers_of(layers) for name, layers in drawn.items()}


def isolated(subject: Subject, bits: tuple[int, ...], repeats: int, policies: int) -> dict[str, Any]:
    """Sums of layers that were each measured as a network of one layer, in the same rounds as the policies."""
    drawn = {f"random {seed}": random_bits(subject.network, bits, seed) for seed in range(policies)}
    options = options_of(bits)
    uniform = {str(option): subject.uniform(option) for option in options}
    alone = alone_networks(uniform)
    networks = {f"whole {name}": graph for name, graph in uniform.items()} | alone.graphs
    networks |= {name: subject.lower(layers) for name, layers in drawn.items()}
    times = {name: found.median for name, found in OnnxRuntimeTarget().time(networks, repeats).items()}
    sums = alone_sums(alone, times, drawn, subject.network, options)
    rows = [{"policy": name, **_pair(total, times[name])} for name, total in sums.items()]
    return {"held_out_policies": rows, "largest_error_percent": _largest(rows)}


def _names(graph: IntegerGraph, op: g.Weighted, option: str) -> tuple[str, str]:
    """Layers of one geometry and option are one measurement."""
    shapes = graph.tensors[op.x].shape, op.weight.shape, graph.tensors[op.output].shape
    return f"layer {shapes} {option}", f"ends {shapes[0]} {option[2:]}"


def _alone(graph: IntegerGraph, name: str, op: g.Weighted | None) -> IntegerGraph:
    """Quantize a tensor, execute one operation or none, dequantize."""
    tensor = graph.tensors[name]
    tensors = {"x": g.Tensor(name="x", shape=tensor.shape, grid=None, source="float"), name: tensor}
    ops: tuple[g.Op, ...] = (g.QuantizeInput(name="in", inputs=("x",), output=name),)
    if op is None:
        return IntegerGraph(input="x", output=name, tensors=tensors, ops=ops, fingerprint="")
    tensors[op.output] = graph.tensors[op.output]
    return IntegerGraph(input="x", output=op.output, tensors=tensors, ops=(*ops, op), fingerprint="")  # type: ignore[arg-type]


def parts_of(name: str) -> list[str]:
    """Parts of the result file that one table gives."""
    more = ["other_networks_from_resnet20", "resnet20_from_layers_alone"] if name == FIRST else []
    return [f"networks.{name}", *more]


def measured(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The parts of one network."""
    bits = tuple(given.bits)
    subject = Subject.of(name)
    table, seconds = measure(subject, bits, given.repeats, given.policies, floating=not given.smoke)
    values: list[dict[str, Any]] = [summary(table, bits, seconds)]
    if name == FIRST:
        values.append(predict_others(table, subject, bits, given.repeats))
        values.append(isolated(subject, bits, given.repeats, given.policies))
    print(f"{name}: held-out policies within {values[0]['largest_error_percent']} %")
    return dict(zip(parts_of(name), values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet20,mobilenetv2,resnet18")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--policies", type=int, default=8)
    parser.add_argument("--bits", type=int, nargs="+", default=list(DEFAULT_BITS), help="of weights and of activations")
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.networks.split(",")
    if given.smoke:
        given.bits, given.repeats, given.policies, names = [8], 1, 1, [SMALL]
    settings = {"bits": given.bits, "repeats": given.repeats, "policies": given.policies}
    results = records.Results(
        "latency", settings=settings, libraries=("onnxruntime", "onnx"), fresh=given.fresh, smoke=given.smoke
    )
    if results.plan([path for name in names for path in parts_of(name)]):
        results.facts(runtime=f"onnxruntime {OnnxRuntimeTarget().runtime_version}", bits=given.bits)
    for name in names:
        results.parts(parts_of(name), lambda name=name: measured(name, given))  # type: ignore[misc]


if __name__ == "__main__":
    main()
