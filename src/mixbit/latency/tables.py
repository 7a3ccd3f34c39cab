"""Latency tables: every option of every layer measured inside the whole network, and the sums checked against it.

A target runs uniform networks, one an option, and tells for each operation which layer it serves and which kernel it
was: operation, types and shapes. Kernels that are the same are one measurement, wherever they stand and whatever bits
they stand for; so a runtime that computes two options with the same kernels gets the same time for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from mixbit.cost import LatencyTable, LayerBits
from mixbit.errors import ExportError, MixbitError
from mixbit.integer.graph import IntegerGraph
from mixbit.latency._bench import Bench, Lower
from mixbit.latency._summary import Summary
from mixbit.latency._target import OVERHEAD, FloatModel, Measurement, Target, TimedStep, export_cpu

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = [
    "DEFAULT_BITS",
    "OVERHEAD",
    "FloatModel",
    "Lower",
    "Measurement",
    "Target",
    "TimedStep",
    "build",
    "estimate",
    "options_of",
    "random_bits",
]

DEFAULT_BITS = (2, 3, 4, 5, 6, 8)
"""Bit-widths of weights and of activations that are measured by default."""


def options_of(bits: Iterable[int], activation_bits: Iterable[int] | None = None) -> tuple[LayerBits, ...]:
    """All pairs of weight and activation bits; without bits of activations they are those of weights.

    >>> [str(option) for option in options_of([8, 4])]
    ['W4A4', 'W8A4', 'W4A8', 'W8A8']
    >>> [str(option) for option in options_of([8, 1], [16])]
    ['W1A16', 'W8A16']
    """
    weights = sorted(set(bits))
    inputs = weights if activation_bits is None else sorted(set(activation_bits))
    return tuple(LayerBits(w, a) for a in inputs for w in weights)


def random_bits(
    network: Network, bits: Sequence[int], seed: int, activation_bits: Sequence[int] | None = None
) -> dict[str, LayerBits]:
    """Bits of every layer, drawn at random; layers that read one tensor share its activation bits."""
    random, inputs = Random(seed), bits if activation_bits is None else activation_bits
    shared = {layer.input_tensor: random.choice(inputs) for layer in network.layers}
    return {layer.name: LayerBits(random.choice(bits), shared[layer.input_tensor]) for layer in network.layers}


def build(
    network: Network,
    lower: Lower,
    target: Target,
    *,
    options: Sequence[LayerBits] = options_of(DEFAULT_BITS),
    repeats: int = 30,
    checks: Mapping[str, Mapping[str, LayerBits]] | None = None,
    float_model: FloatModel | None = None,
    partial: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> LatencyTable:
    """Measure a network at every option, layer by layer.

    Each option is measured as a uniform network, all layers at the same bits, so that every layer stands in its real
    surroundings. Options of one activation width take turns with a reference, the option of the most bits, and their
    times are scaled by what the reference takes then: a machine that slows down meanwhile does not bend the table.

    Args:
        network: the captured network.
        lower: gives the integer graph at given bits.
        target: where to measure.
        options: bits to measure, each for all layers.
        repeats: runs that each median is of.
        checks: name -> bits of every layer, of whole networks with which the sums are compared. They should not be
            uniform: those are what the table is made from.
        float_model: the float32 network, so that limits can refer to it; a target that cannot run it leaves a note.
        partial: file for finished measurements, with which a killed build goes on. It stays: the caller removes it when
            the table is saved.
        tell: called with a line for every part of the work.

    Returns:
        The table, with checks, and notes on what fewer bits bring on this target.

    Raises:
        StaleRun: `partial` is of a build with other settings.
        ExportError: the network does not run on the target, or no step of it serves some layer.
        MixbitError: no option.
    """
    if not options or repeats < 1:
        raise MixbitError(f"{len(options)} options, {repeats} repeats: give at least one of each.")
    bench = Bench(
        network=network,
        lower=lower,
        target=target,
        options=tuple(options),
        repeats=repeats,
        checks=checks or {},
        float_model=float_model,
        partial=partial,
    )
    for at, width in enumerate(bench.widths, start=1):
        if tell is not None:
            tell(f"Activations of {width} bits, {at} of {len(bench.widths)}")
        bench.profile(width)
    if tell is not None:
        tell("Whole networks")
    bench.time_whole()
    return Summary(bench).table()


def estimate(table: LatencyTable, graph: IntegerGraph, target: Target) -> int:
    """What a table says of a network that it was not made from, if the network consists of the same kernels.

    Args:
        table: of any network on the same target.
        graph: of the other network, at any bits.
        target: where the kernels are looked up; its times are not used.

    Returns:
        The sum over the steps of the network, in the unit of the table.

    Raises:
        ExportError: the table lacks a kernel that the network needs, or is of files for other processors.
    """
    if table.cpu != export_cpu(target):
        raise ExportError(
            f"The latency table is of files with cpu={table.cpu!r}, the target writes files with "
            f"cpu={export_cpu(target)!r}. Build a table with the same."
        )
    (found,) = target.profile({graph.output: graph}, 1).values()
    needed = Counter(step.kernel for step in found.steps)
    missing = sorted(kernel for kernel in needed if kernel not in table.kernels)
    if missing:
        raise ExportError(
            f"The latency table lacks {len(missing)} of {len(needed)} kernels that this network needs: "
            f"{'; '.join(missing[:3])}. Build a table of this network."
        )
    return sum(table.kernels[kernel].median * uses for kernel, uses in needed.items())
