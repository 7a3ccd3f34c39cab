"""From measurements to a latency table: one time for each kernel, sums of kernels, checks and notes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixbit.cost import LatencyCheck, LatencyTable, LayerBits, LayerLatency, Part, Timing
from mixbit.errors import ExportError
from mixbit.latency._bench import REFERENCE, WHOLE, Bench, texts
from mixbit.latency._target import Measurement, export_cpu
from mixbit.network import Layer

__all__ = ["Summary"]

# Uniform networks that differ by less than this take the same time, for the notes of a table.
_SAME = 0.02


class Summary:
    """From measurements to a table: every block at the speed of the middle one, one time for each kernel."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        speeds = {label: bench.speed(label) for label in bench.blocks}
        middle = statistics.median(speeds.values())
        self._scale = {label: middle / speed if speed else 1.0 for label, speed in speeds.items()}
        self._options = {
            name: found
            for label, block in bench.blocks.items()
            for name, found in block.items()
            if label != WHOLE and name != REFERENCE
        }
        self._kernels = self._pooled()

    def _pooled(self) -> dict[str, Timing]:
        """Median over all measurements of a kernel."""
        known: dict[str, list[tuple[float, float]]] = {}
        for label, block in self._bench.blocks.items():
            scale = self._scale[label]
            for found in block.values():
                for step in found.steps:
                    known.setdefault(step.kernel, []).append((scale * step.median, scale * step.spread))
        return {
            kernel: Timing(
                median=round(statistics.median(median for median, _ in several)),
                spread=round(statistics.median(spread for _, spread in several)),
            )
            for kernel, several in sorted(known.items())
        }

    def table(self) -> LatencyTable:
        """The latency table of all that was measured."""
        bench, target = self._bench, self._bench.target
        whole = bench.blocks.get(WHOLE, {})
        found = LatencyTable(
            fingerprint=bench.network.fingerprint,
            target=target.name,
            unit=target.unit,
            device=target.device,
            runtime=target.runtime,
            runtime_version=target.runtime_version,
            threads=target.threads,
            batch=target.batch,
            repeats=bench.repeats,
            layers={layer.name: self._layer(layer) for layer in bench.network.layers},
            other=self._other(),
            float32=self._scaled(WHOLE, whole["float32"].whole) if "float32" in whole else None,
            cpu=export_cpu(target),
            kernels=self._kernels,
        )
        done = tuple(
            self._check(found, name, bits, whole[f"check {name}"].whole) for name, bits in bench.checks.items()
        )
        notes = _speed_notes(found, bench.options, bench.reference, target.arithmetic)
        if bench.float_failure is not None:
            notes.append(f"the float32 network was not measured: {bench.float_failure}")
        return replace(found, checks=done, notes=tuple(notes))

    def _scaled(self, label: str, timing: Timing) -> Timing:
        scale = self._scale[label]
        return Timing(median=round(scale * timing.median), spread=round(scale * timing.spread))

    def _layer(self, layer: Layer) -> LayerLatency:
        return LayerLatency(
            kind=layer.kind,
            weight_shape=layer.weight_shape,
            groups=layer.groups,
            input_shape=layer.input_shape,
            output_shape=layer.output_shape,
            options={name: self._option(layer.name, found) for name, found in self._options.items()},
        )

    def _option(self, layer: str, found: Measurement) -> Timing:
        mine = [self._kernels[step.kernel] for step in found.steps if step.owner == layer]
        if not mine:
            raise ExportError(
                f"{self._bench.target.name} executed nothing for the layer {layer!r}, so its time is not known. "
                "Please report it with the model."
            )
        return Timing(median=sum(one.median for one in mine), spread=sum(one.spread for one in mine))

    def _other(self) -> tuple[Part, ...]:
        """What no layer accounts for, as in the option in which it takes neither most nor least."""
        all_steps = [[step for step in found.steps if step.owner is None] for found in self._options.values()]
        totals = [sum(self._kernels[step.kernel].median for step in steps) for steps in all_steps]
        middle = all_steps[totals.index(statistics.median_low(totals))]
        uses, first = Counter(step.kernel for step in middle), {step.kernel: step for step in reversed(middle)}
        return tuple(
            Part(
                name=kernel,
                kind=first[kernel].kind,
                shape=first[kernel].shape,
                uses=count,
                median=count * self._kernels[kernel].median,
                spread=count * self._kernels[kernel].spread,
            )
            for kernel, count in uses.items()
        )

    def _check(self, table: LatencyTable, name: str, bits: Mapping[str, LayerBits], whole: Timing) -> LatencyCheck:
        measured = self._scaled(WHOLE, whole)
        return LatencyCheck(
            name=name,
            bits=texts(bits),
            predicted=table.cost(bits),
            measured=measured.median,
            spread=measured.spread,
        )


def _speed_notes(table: LatencyTable, options: Sequence[LayerBits], most: LayerBits, arithmetic: str) -> list[str]:
    """What fewer bits bring: each side of its own, the other side at its most bits, against the most bits."""
    found = []
    for side, word in (("weight_bits", "weights"), ("activation_bits", "activations")):
        top = getattr(most, side)
        fewer = [one for one in options if replace(one, **{side: top}) == most and one != most]
        times = {getattr(one, side): _uniform(table, one) / max(_uniform(table, most), 1) for one in fewer}
        found += _speeds(word, top, times, arithmetic)
    return found


def _uniform(table: LatencyTable, option: LayerBits) -> int:
    return table.cost(dict.fromkeys(table.layers, option))


def _speeds(word: str, top: int | None, times: Mapping[int, float], arithmetic: str) -> list[str]:
    """Bits that take as long as the most bits, more or less, each in one line.

    >>> _speeds("weights", 8, {2: 1.004, 4: 0.5, 6: 0.999}, "all is int8")
    ['weights of 2, 6 bits take no less time than 8 bits (100 % of it): all is int8',
     'weights of 4 bits take less time than 8 bits (50 % of it)']
    """
    same = {bits: ratio for bits, ratio in times.items() if ratio > 1 - _SAME}
    less = {bits: ratio for bits, ratio in times.items() if bits not in same}
    return [
        f"{word} of {', '.join(map(str, sorted(group)))} bits take {how} time than {top} bits "
        f"({_range(group)} of it){why}"
        for group, how, why in ((same, "no less", f": {arithmetic}"), (less, "less", ""))
        if group
    ]


def _range(ratios: Mapping[int, float]) -> str:
    low, high = (f"{100 * end(ratios.values()):.0f}" for end in (min, max))
    return f"{low} %" if low == high else f"{low} to {high} %"
