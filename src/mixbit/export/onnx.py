"""ONNX: one file that is as small as its policy says, and runs at integer speed in ONNX Runtime.

Weights of 2 to 7 bits are packed bytes, which ordinary nodes unpack. The runtime does so once, when the session is
created, and fuses what is left into integer kernels. See `docs/export.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from mixbit import _io
from mixbit.errors import ExportError, MissingExtra, did_you_mean
from mixbit.export._onnx_nodes import Printed, PrintedLayer, print_graph
from mixbit.export._onnx_session import load_session
from mixbit.export._onnx_sheet import Role
from mixbit.export._processors import (
    CPUS,
    NARROWED_ERROR,
    PROMISES,
    Adapted,
    Cpu,
    Narrowed,
    adapted,
    check_cpu,
    pair_sum,
)
from mixbit.integer.graph import IntegerGraph

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = [
    "CPUS",
    "PROMISES",
    "Cpu",
    "OnnxFile",
    "OnnxLayer",
    "Packing",
    "build_onnx",
    "load_session",
    "render_onnx",
    "write_onnx",
    "written_graph",
]

Packing: TypeAlias = Literal["fields", "none"]
"""`fields` packs weights below 8 bits, see `mixbit.export._packing`; `none` stores each in a byte, for any runtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxLayer:
    """What was written of one convolution or linear layer."""

    name: str
    weights: int
    """Number of its weights."""
    weight_bits: int
    container: str
    """How the file holds the weights: `packed 3 bit`, `int8` or `uint8`."""
    weight_bytes: int
    scale_bytes: int
    bias_bytes: int
    widened: str | None
    """Why the weights take more bits than the policy says; None if they do not."""
    unsigned: str | None
    """Why the weights are uint8 with a zero point when they are multiplied; None if they are int8."""
    narrowed: str | None = None
    """Why and by how much the weights differ from those of the network; None if they do not."""
    needs_vnni: str | None = None
    """Why the layer can go wrong on processors without VNNI; None if it cannot."""
    apart: str | None = None
    """Why the two bytes of its input are multiplied apart, which takes twice the time; None of an input of a byte."""
    again: str | None = None
    """The earlier layer whose weights these are, where a layer is called again; the file holds them once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """A file that was written.

    >>> layer = OnnxLayer(name="fc", weights=640, weight_bits=3, container="packed 3 bit", weight_bytes=240,
    ...     scale_bytes=40, bias_bytes=40, widened=None, unsigned=None)
    >>> found = OnnxFile(path=Path("net.onnx"), size_bytes=360, layers=(layer,), items={"weights": 240, "graph": 120},
    ...     opset=21, ir_version=10)
    >>> found.policy_bytes, found.overhead                                     # 640 * 3 / 8, and 360 / 240
    (240, 1.5)
    """

    path: Path
    size_bytes: int
    layers: tuple[OnnxLayer, ...]
    items: dict[str, int]
    """Where all bytes of the file are: `weights`, `scales` and `biases` of layers, `grids` of activations, `tables`,
    `shapes`, `functions`, `names`, `metadata`, and the rest of the `graph`. Their sum is `size_bytes`."""
    opset: int
    ir_version: int
    cpu: Cpu = "any"
    """Where the file gives the reference's numbers, see `PROMISES`."""

    @property
    def policy_bytes(self) -> int:
        """What the policy gives to the weights: `sum(weights * bits) / 8`, rounded up."""
        return -(-sum(one.weights * one.weight_bits for one in self.layers if one.again is None) // 8)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the file."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def overhead(self) -> float:
        """Size of the whole file over `policy_bytes`."""
        return self.size_bytes / max(self.policy_bytes, 1)


def write_onnx(
    graph: IntegerGraph, path: Path, *, pack: Packing = "fields", cpu: Cpu = "any", strict: bool = False
) -> OnnxFile:
    """Write an ONNX file, whole or not at all.

    Args:
        graph: from `mixbit.export.lower`.
        path: the file, by custom `.onnx`.
        pack: `fields` stores weights of 2 to 7 bits in as many bits, for ONNX Runtime; `none` in a byte each, without
            functions and unpacking nodes, for other runtimes.
        cpu: `any` gives the same integers on every x86 processor. Layers of 8 bits that could saturate without VNNI
            are narrowed for that (`OnnxLayer.narrowed`), or multiplied as uint8. `vnni` keeps all weights as they are,
            as int8, the fastest on processors with VNNI; on others, layers in `OnnxLayer.needs_vnni` can be wrong.
        strict: make layers that `pack` widens (`none`, and fewer than 8 bits) an error instead of a note, and narrow
            none: for `any` they are multiplied as uint8 then, which is slower.

    Returns:
        What was written: bytes by layer and by kind.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: an operation or a tensor has no ONNX form, or `strict` and a layer is widened; the message names
            it. No file is written then.
    """
    content, found = render_onnx(graph, path, pack=pack, cpu=cpu, strict=strict)
    _io.write_bytes(path, content)
    return found


def render_onnx(
    graph: IntegerGraph, path: Path, *, pack: Packing = "fields", cpu: Cpu = "any", strict: bool = False
) -> tuple[bytes, OnnxFile]:
    """What `write_onnx` writes, without writing it; the same graph gives the same bytes.

    Args:
        graph: from `mixbit.export.lower`.
        path: goes into the description.
        pack: as in `write_onnx`.
        cpu: as in `write_onnx`.
        strict: as in `write_onnx`.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: as in `write_onnx`.
    """
    printed, held = _print(graph, pack, cpu, strict=strict)
    again = graph.called_again()
    content: bytes = printed.model.SerializeToString(deterministic=True)
    return content, OnnxFile(
        path=Path(path),
        size_bytes=len(content),
        layers=tuple(_layer(one, held, again.get(one.op.output)) for one in printed.layers),
        items=_items(printed, len(content)),
        opset=next(opset.version for opset in printed.model.opset_import if not opset.domain),
        ir_version=printed.model.ir_version,
        cpu=cpu,
    )


def written_graph(graph: IntegerGraph, *, cpu: Cpu = "any", strict: bool = False) -> IntegerGraph:
    """The graph with the weights that a file holds: what the file computes, bit for bit.

    Args:
        graph: from `mixbit.export.lower`.
        cpu: as in `write_onnx`; `vnni` is the graph itself, as `strict` is.
        strict: as in `write_onnx`.

    Raises:
        ExportError: `cpu` is unknown.
    """
    return adapted(graph, check_cpu(cpu), strict=strict).graph


def build_onnx(graph: IntegerGraph, *, pack: Packing = "fields", cpu: Cpu = "any", strict: bool = False) -> ModelProto:
    """An ONNX model in memory, which has passed the ONNX checker.

    Its input `input` and its output `output` are float32, with a symbolic batch size `N`. If the graph ends in a
    quantized tensor, the output is that tensor as real numbers.

    Args:
        graph: from `mixbit.export.lower`.
        pack: as in `write_onnx`.
        cpu: as in `write_onnx`.
        strict: as in `write_onnx`.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: as in `write_onnx`.

    >>> from mixbit.integer.graph import Grid, QuantizeInput, Tensor
    >>> x = Tensor(name="x", shape=(4,), grid=None, source="float")
    >>> y = Tensor(name="y", shape=(4,), grid=Grid(scale=0.5, zero_point=0, qmin=-8, qmax=7), source="trained")
    >>> op = QuantizeInput(name="in", inputs=("x",), output="y")
    >>> model = build_onnx(IntegerGraph(input="x", output="y", tensors={"x": x, "y": y}, ops=(op,), fingerprint=""))
    >>> [node.op_type for node in model.graph.node]
    ['QuantizeLinear', 'Clip', 'DequantizeLinear']
    """
    return _print(graph, pack, cpu, strict=strict)[0].model


def _print(graph: IntegerGraph, packing: Packing, cpu: Cpu, *, strict: bool) -> tuple[Printed, Adapted]:
    try:
        from onnx import checker
    except ImportError as cause:
        raise MissingExtra("Writing an ONNX file needs onnx: pip install 'mixbit[export]'.") from cause
    if packing not in get_args(Packing):
        legal = get_args(Packing)
        raise ExportError(f"pack={packing!r}, legal: {', '.join(legal)}.{did_you_mean(str(packing), legal)}")
    widened = [op for op in graph.weighted() if packing == "none" and op.weight_bits < 8]
    if strict and widened:
        names = ", ".join(f"{op.name} ({op.weight_bits} bits)" for op in widened)
        raise ExportError(f"pack='none' widens to 8 bits: {names}. Use pack='fields', or leave strict away.")
    held = adapted(graph, check_cpu(cpu), strict=strict)
    printed = print_graph(held.graph, packed=packing == "fields", cpu=cpu, narrowed=held.narrowed)
    checker.check_model(printed.model)
    return printed, held


def _layer(layer: PrintedLayer, held: Adapted, again: str | None) -> OnnxLayer:
    bits, outputs, name = layer.op.weight_bits, len(layer.op.weight), layer.op.name
    narrowed, kept = held.narrowed.get(name), held.kept.get(name)
    container = f"packed {bits} bit" if layer.packed else "int8" if layer.signed else "uint8"
    return OnnxLayer(
        name=layer.op.name,
        weights=layer.op.weight.size,
        weight_bits=bits,
        container=container,
        weight_bytes=layer.weight_bytes,
        scale_bytes=4 * outputs * layer.scale_vectors,
        bias_bytes=4 * outputs,
        widened=None if layer.packed or bits == 8 else f"{bits}-bit weights take a byte each with pack='none'",
        unsigned=None if layer.signed else _why_saturating(layer) + (f"; {kept}" if kept else ""),
        narrowed=None if narrowed is None else _why_narrowed(narrowed),
        needs_vnni=_why_saturating(layer) if layer.needs_vnni else None,
        apart=None if layer.wide_input is None else _why_apart(layer.wide_input),
        again=again,
    )


def _why_saturating(layer: PrintedLayer) -> str:
    low, high = pair_sum(layer.op)
    worst = max(low, high, key=abs)
    return (
        f"two products of one channel can reach {worst} * {layer.largest_input}, and as int8 their sum saturates at 16 "
        "bits on x86 processors without VNNI"
    )


def _why_apart(largest: int) -> str:
    return f"its input reaches {largest}, so its high and its low byte are multiplied apart, and all sums are exact"


def _why_narrowed(found: Narrowed) -> str:
    return (
        f"{found.channels} of {found.of_channels} channels on steps up to {found.widest:.2f} times as wide, so that no "
        f"sum of products saturates on any x86 processor; the weights change by {found.error:.1%} (limit "
        f"{NARROWED_ERROR:.0%})"
    )


def _items(printed: Printed, size: int) -> dict[str, int]:
    """Bytes by kind; what a message costs beside its content counts as graph."""
    model = printed.model
    found: dict[str, int] = dict.fromkeys(get_args(Role), 0)
    for tensor in model.graph.initializer:
        found[printed.roles[tensor.name]] += len(tensor.raw_data)
    found["functions"] = sum(function.ByteSize() for function in model.functions)
    found["names"] = sum(len(name) for name in _names(model))
    found["metadata"] = sum(entry.ByteSize() for entry in model.metadata_props)
    return {**found, "graph": size - sum(found.values())}


def _names(model: ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for tensor in model.graph.initializer:
        yield tensor.name
