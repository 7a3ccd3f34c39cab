"""Which sums predict whole networks: of kernels within networks (`mixbit latency build`), or of layers measured alone?

    python benchmarks/latency_ways.py [--repetitions 10] [--rounds 15] [--policies 8] [--bits 2 4 8]

ResNet-20, on random policies that neither was made from. Both ways are measured twice in every repetition: in the same
rounds as the policies, and before them, as a table is built. In the second case all is scaled by a reference network
that is timed in both, as `build` does. So what the way does and what the machine's pace does can be told apart. What is
no layer is, for layers alone, the middle difference to uniform whole networks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import records
from latency import FIRST, SMALL, Subject, alone_networks, alone_sums
from mixbit.cost import LayerBits, Timing
from mixbit.export.onnxruntime_target import (
    _LEAST_MS,
    OnnxRuntimeTarget,
    _Clock,
    _integer_call,
    _measurement,
    _Profiled,
    _timing,
)
from mixbit.integer import IntegerGraph
from mixbit.latency import Measurement
from mixbit.latency._bench import REFERENCE, WHOLE, Bench
from mixbit.latency._summary import Summary
from mixbit.latency.tables import options_of, random_bits
from mixbit.latency.timing import interleave

Graphs = Mapping[str, IntegerGraph]
WAYS = ("kernels within networks", "layers alone")
SAME, BEFORE = "same rounds", "before"
"""When they are measured: with the policies, or before them."""


def same_rounds(profiled: Graphs, plain: Graphs, rounds: int) -> tuple[dict[str, Measurement], dict[str, Timing]]:
    """Networks step by step and others as a whole, all in the same rounds."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: _Profiled(one, Path(folder) / str(at), "any") for at, (name, one) in enumerate(profiled.items())}
        clock = _Clock(Path(folder) / "clock")
        calls: dict[str, Callable[[], object]] = {"empty": clock.plain, "clock": clock.profiled}
        for name, run in runs.items():
            calls |= {f"plain {name}": run.plain, f"profiled {name}": run.profiled}
        calls |= {f"whole {name}": _integer_call(one, "any") for name, one in plain.items()}
        times = {name: _timing(one) for name, one in interleave(calls, rounds=rounds, least_ms=_LEAST_MS).items()}
        nodes, reading = {name: run.nodes() for name, run in runs.items()}, clock.reading_us()
    steps = {name: _measurement(one, times[f"plain {name}"], times["empty"], reading) for name, one in nodes.items()}
    return steps, {name: times[f"whole {name}"] for name in plain}


class Ways:
    """One network with everything that is measured of it."""

    def __init__(self, subject: Subject, bits: tuple[int, ...], policies: int, rounds: int) -> None:
        self.subject, self.rounds, self.options = subject, rounds, options_of(bits)
        self.lower = cache(lambda items: subject.lower(dict(items)))
        self.drawn = {f"random {seed}": random_bits(subject.network, bits, seed) for seed in range(policies)}
        self.checks = {f"check {name}": self._lowered(layers) for name, layers in self.drawn.items()}
        self.uniform = {
            str(one): self._lowered({layer.name: one for layer in subject.network.layers}) for one in self.options
        }
        self.alone = alone_networks(self.uniform)
        self.reference = str(max(self.options, key=lambda one: (one.activation_bits, one.weight_bits)))

    def _lowered(self, layers: Mapping[str, LayerBits]) -> IntegerGraph:
        return self.lower(tuple(layers.items()))

    def repetition(self) -> dict[str, list[float]]:
        """Signed errors in percent of every way, one a policy."""
        return {**self._together(), **self._before()}

    def _together(self) -> dict[str, list[float]]:
        steps, whole = same_rounds(self.uniform, {**self.checks, **self.alone.graphs}, self.rounds)
        checks = {name: Measurement(whole=whole[name], steps=()) for name in self.checks}
        reference = Measurement(whole=steps[self.reference].whole, steps=())
        bench = self._bench()
        bench.blocks = {"all": steps, WHOLE: {**checks, REFERENCE: reference}}
        medians = {name: one.median for name, one in whole.items()}
        medians |= {f"whole {name}": one.whole.median for name, one in steps.items()}
        return {
            f"{WAYS[0]}, {SAME}": [one.error_percent for one in Summary(bench).table().checks],
            f"{WAYS[1]}, {SAME}": self._errors(medians, {name: medians[f"check {name}"] for name in self.drawn}),
        }

    def _before(self) -> dict[str, list[float]]:
        target, bench = OnnxRuntimeTarget(), self._bench()
        names = {f"whole {name}": one for name, one in self.uniform.items()}
        times = target.time({**names, **self.alone.graphs}, self.rounds)
        for width in bench.widths:
            bench.profile(width)
        bench.time_whole()
        medians = {name: one.median for name, one in times.items()}
        block = bench.blocks[WHOLE]
        pace = medians[f"whole {self.reference}"] / block[REFERENCE].whole.median
        return {
            f"{WAYS[0]}, {BEFORE}": [one.error_percent for one in Summary(bench).table().checks],
            f"{WAYS[1]}, {BEFORE}": self._errors(
                medians, {name: pace * block[f"check {name}"].whole.median for name in self.drawn}
            ),
        }

    def _bench(self) -> Bench:
        return Bench(
            network=self.subject.network,
            lower=self._lowered,
            target=OnnxRuntimeTarget(),
            options=self.options,
            repeats=self.rounds,
            checks=self.drawn,
            float_model=None,
            partial=None,
        )

    def _errors(self, times: Mapping[str, int], measured: Mapping[str, float]) -> list[float]:
        sums = alone_sums(self.alone, times, self.drawn, self.subject.network, self.options)
        return [100 * (total / measured[name] - 1) for name, total in sums.items()]


def values(ways: Ways, tell: Callable[[str], Any] = print) -> dict[str, Any]:
    """Of one repetition, with the load that it began at."""
    load = records.conditions()
    found = ways.repetition()
    for name, errors in found.items():
        tell(f"{name:40} largest {max(map(abs, errors)):5.2f} %, mean {statistics.fmean(errors):+5.2f} %")
    return {"errors_percent": {name: [round(one, 3) for one in errors] for name, errors in found.items()}, **load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--policies", type=int, default=8)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4, 8], help="of weights and of activations")
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.smoke:
        given.repetitions, given.rounds, given.policies, given.bits = 1, 1, 1, [8]
    bits = tuple(given.bits)
    network = SMALL if given.smoke else FIRST
    settings = {"network": network, "bits": list(bits), "rounds": given.rounds, "policies": given.policies}
    results = records.Results(
        "latency_ways", settings=settings, libraries=("onnxruntime", "onnx"), fresh=given.fresh, smoke=given.smoke
    )
    names = [{"repetition": number} for number in range(given.repetitions)]
    if not results.plan(names):
        return
    ways = Ways(Subject.of(network), bits, given.policies, given.rounds)
    for of in names:
        results.row(of, lambda: values(ways))


if __name__ == "__main__":
    main()
