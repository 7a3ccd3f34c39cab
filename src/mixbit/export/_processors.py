"""Which products of uint8 and int8 are exact on which processor, and weights that are exact on every one.

x86 processors without VNNI (dot products of 8-bit integers in one instruction) multiply uint8 by int8 with `pmaddubsw`:
two neighbouring products are added in int16, where the sum saturates. 255 * 127 * 2 becomes 32767, without a word.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias, cast, get_args

import numpy as np

from mixbit.cost import ExportCpu
from mixbit.errors import ExportError, did_you_mean
from mixbit.export._containers import container
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

__all__ = [
    "CPUS",
    "NARROWED_ERROR",
    "PROMISES",
    "Adapted",
    "Cpu",
    "Narrowed",
    "adapted",
    "check_cpu",
    "narrow",
    "pair_sum",
    "products",
    "saturates",
]

Cpu: TypeAlias = ExportCpu
"""Processors on which a file gives the numbers of the reference executor."""
CPUS: tuple[Cpu, ...] = get_args(ExportCpu)

PROMISES: dict[Cpu, str] = {
    "any": "the same integers on every x86 processor",
    "vnni": "the policy's integers on processors with VNNI; without it, sums of products can saturate",
}
"""What a file says of itself."""

NARROWED_ERROR = 0.03
"""Largest error of narrowed weights, root mean square over that of the weights; beyond it they stay as they are."""
_SPARED = 0.02
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1


def check_cpu(text: str) -> Cpu:
    """The processor of this name.

    Raises:
        ExportError: there is none.
    """
    if text not in CPUS:
        raise ExportError(f"cpu={text!r} is unknown.{did_you_mean(str(text), CPUS)} Legal: {', '.join(CPUS)}.")
    return text


# ----------------------------------------------------------------------------------------------------- the proof


def pair_sum(op: g.Weighted) -> tuple[int, int]:
    """Lowest and highest sum of two (shifted) weights of one output channel, or of one and zero.

    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> pair_sum(SimpleNamespace(weight=np.array([[3, -1, 2], [0, -4, -4]]), shift=1))
    (-16, 10)
    """
    low, high = _pair_sums(_rows(op))
    return int(low.min(initial=0)), int(high.max(initial=0))


def _rows(op: g.Weighted) -> Array:
    """Shifted weights, one row a channel."""
    found: Array = op.weight.astype(np.int64).reshape(len(op.weight), -1) << op.shift
    return found


def _pair_sums(rows: Array) -> tuple[Array, Array]:
    """Of each row: the lowest and the highest sum of two; zeros stand for what a runtime pads with."""
    ordered = np.sort(np.concatenate([rows, np.zeros((len(rows), 2), rows.dtype)], axis=1), axis=1)
    return ordered[:, :2].sum(axis=1), ordered[:, -2:].sum(axis=1)


def saturates(op: g.Weighted, largest: int) -> bool:
    """Whether int8 weights can go wrong on x86 processors without VNNI.

    Which weights are neighbours is the runtime's affair, so the two largest of a channel count. Depthwise convolutions
    are safe: their kernels add no neighbours.

    Args:
        op: a layer with weights.
        largest: largest stored integer of its input.
    """
    if isinstance(op, g.Conv) and op.groups == len(op.weight) and op.weight.shape[1] == 1:
        return False
    low, high = pair_sum(op)
    return low * largest < _LOWEST or high * largest > _HIGHEST


# ------------------------------------------------------------------------------------------------------ narrowing


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """Weights of 8 bits on wider steps, so that no two products saturate."""

    channels: int
    """That were changed; the others fitted."""
    of_channels: int
    widest: float
    """Largest new step over the old one."""
    error: float
    """Root mean square of what the weights changed by, over that of the weights."""


class Adapted(NamedTuple):
    """A graph with the weights that a file holds, and what was done about the layers that could saturate."""

    graph: IntegerGraph
    narrowed: dict[str, Narrowed]
    """What was narrowed, by the name of the layer."""
    kept: dict[str, str]
    """Layer that could saturate and keeps its weights -> why they are not narrowed."""


def adapted(graph: IntegerGraph, cpu: Cpu, *, strict: bool = False) -> Adapted:
    """The graph with the weights that a file for `cpu` holds.

    For `any`, 8-bit layers that could saturate are narrowed: the fast kernels then are exact on every processor. Layers
    stay as they are, and are multiplied as uint8, where that would change their weights by more than `NARROWED_ERROR`,
    where their inputs have more than 8 bits, and where there is little to gain: the smallest, up to 2 % of the
    network's products together.

    Args:
        graph: the integer graph.
        cpu: see `Cpu`.
        strict: narrow nothing.
    """
    calls = _calls(graph)
    heavy = {name: ops for name, ops in calls.items() if saturates(ops[0], _largest(graph, ops))}
    if cpu == "vnni" or strict:
        kept = {op.name: "strict widens no steps" for ops in heavy.values() for op in ops if strict}
        return Adapted(graph, {}, kept)
    spared, kept, found = _smallest(graph, heavy), {}, {}
    for name, ops in heavy.items():
        wide = any(container(op.x, graph.grid(op.x)).wide for op in ops)
        for op in ops:
            if wide:
                kept[op.name] = "weights beside inputs of more than 8 bits are not rounded again"
            elif op.weight_bits != 8:
                kept[op.name] = f"weights of {op.weight_bits} bits are not rounded again"
            elif name in spared:
                kept[op.name] = "it is one of the smallest layers, and wider steps would gain little"
            else:
                found[op.name] = _narrowed(op, _largest(graph, ops))
    much = {name: what.error for name, (_, what) in found.items() if what.error > NARROWED_ERROR}
    kept |= {
        name: f"wider steps would change its weights by {error:.1%}, limit {NARROWED_ERROR:.0%}"
        for name, error in much.items()
    }
    chosen = {name: one for name, one in found.items() if name not in much}
    return Adapted(_replaced(graph, chosen), {name: what for name, (_, what) in chosen.items()}, kept)


def narrow(graph: IntegerGraph, names: Collection[str]) -> IntegerGraph:
    """The graph with these layers narrowed, as `adapted` does it; for a file that says which they are.

    Raises:
        ExportError: the graph has no such layer.
    """
    layers = {op.name for op in graph.weighted()}
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise ExportError(
            f"the file narrows the layer {unknown[0]!r}, which the network does not have. Give the run folder that the "
            "file was exported from."
        )
    calls = [(op, ops) for ops in _calls(graph).values() for op in ops if op.name in names]
    return _replaced(graph, {op.name: _narrowed(op, _largest(graph, ops)) for op, ops in calls})


def products(graph: IntegerGraph, op: g.Weighted) -> int:
    """Multiplications of one sample."""
    shape = graph.tensors[op.output].shape
    places = shape[1:] if isinstance(op, g.Conv) else shape[:-1]
    return int(op.weight.size) * math.prod(places)


def _calls(graph: IntegerGraph) -> dict[str, list[g.Weighted]]:
    """Name of the first call -> all calls with the same weights, which stay the same: the file holds them once."""
    again, found = graph.called_again(), defaultdict(list)
    for op in graph.weighted():
        found[again.get(op.output, op.name)].append(op)
    return found


def _largest(graph: IntegerGraph, ops: list[g.Weighted]) -> int:
    """Largest stored integer of any of their inputs."""
    return max(container(op.x, graph.grid(op.x)).largest_byte for op in ops)


def _smallest(graph: IntegerGraph, layers: dict[str, list[g.Weighted]]) -> set[str]:
    """Layers that together have too few products to make the network slow."""
    counts = {name: sum(products(graph, op) for op in ops) for name, ops in layers.items()}
    left = _SPARED * sum(products(graph, op) for op in graph.weighted())
    found = set()
    for name in sorted(counts, key=lambda name: counts[name]):
        left -= counts[name]
        if left < 0:
            break
        found.add(name)
    return found


def _replaced(graph: IntegerGraph, layers: Mapping[str, tuple[g.Weighted, Narrowed]]) -> IntegerGraph:
    if not layers:
        return graph
    # An operation that was changed is of the kind that it was.
    new = {name: cast("g.Op", op) for name, (op, _) in layers.items()}
    return replace(graph, ops=tuple(new.get(op.name, op) if isinstance(op, g.Weighted) else op for op in graph.ops))


def _narrowed(op: g.Weighted, largest: int) -> tuple[g.Weighted, Narrowed]:
    """Channels that could saturate on steps that are just wide enough, `w' = round(w / f)` and `scale' = f scale`.

    Rounding moves each weight by less than one new step, so `f` brings the largest sum of two to two steps below what
    fits.
    """
    rows = _rows(op)
    low, high = _pair_sums(rows)
    lowest, highest = -(-_LOWEST // max(largest, 1)), _HIGHEST // max(largest, 1)
    wide = (low < lowest) | (high > highest)
    factor = np.where(wide, np.maximum(low / (lowest + 2), high / (highest - 2)), 1.0)
    integers = rows.copy()
    kernels = rows.reshape(len(rows), op.weight.shape[1], -1)
    integers[wide] = _rounded_kernels(kernels[wide] / factor[wide, None, None]).reshape(-1, rows.shape[1])
    changed = replace(
        op,
        weight=integers.reshape(op.weight.shape).astype(np.int8),
        weight_scale=(op.weight_scale.astype(np.float64) / 2**op.shift * factor).astype(np.float32),
        bias=np.rint(op.bias / factor).astype(np.int32),
        shift=0,
    )
    error = np.square(integers * factor[:, None] - rows).sum() / max(np.square(rows).sum(), 1)
    what = Narrowed(
        channels=int(wide.sum()), of_channels=len(rows), widest=float(factor.max(initial=1.0)), error=math.sqrt(error)
    )
    return changed, what


def _rounded_kernels(x: Array) -> Array:
    """Whole numbers near `x` whose sums over a kernel and over a channel are right but for rounding.

    Neighbouring pixels are alike, and behind a ReLU all are positive: what the errors of a kernel sum up to moves the
    result far more than what they are one by one.

    Args:
        x: `(channels, inputs, taps)`.
    """
    sums = x.sum(axis=-1)
    return _rounded(x, _rounded(sums, np.rint(sums.sum(axis=-1))))


def _rounded(x: Array, total: Array) -> Array:
    """Whole numbers of that sum along the last axis: the nearest, but those next to a tie the other way.

    Args:
        x: `(..., n)`.
        total: whole numbers `(...)`, each less than one from the sum of `x`; so no number moves by one or more.

    >>> _rounded(np.array([0.4, 0.45, 0.3, 1.0]), np.array(2)).tolist()        # the nearest have the sum 1
    [0, 1, 0, 1]
    """
    nearest = np.rint(x)
    error = nearest - x
    surplus = np.rint(nearest.sum(axis=-1) - total)[..., None]
    # Place of each in the order of what was rounded most, up where too much was rounded up, else down.
    order = np.argsort(np.where(surplus > 0, -error, error), axis=-1, kind="stable")
    place = np.argsort(order, axis=-1, kind="stable")
    found: Array = (nearest - np.sign(surplus) * (place < np.abs(surplus))).astype(np.int64)
    return found
