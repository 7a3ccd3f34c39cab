"""The integer graph in the operators of ONNX: one method an operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mixbit._bits import WEIGHT_BITS, describe_bits
from mixbit.errors import ExportError
from mixbit.export._containers import Container, container, rescaling
from mixbit.export._onnx_functions import unpacker
from mixbit.export._onnx_sheet import INPUT, Role, Sheet
from mixbit.export._onnx_statement import METADATA_KEY, Statement
from mixbit.export._packing import PACKED_BITS, fields, offset, pack
from mixbit.export._processors import Cpu, saturates
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, sum_terms
from mixbit.integer.graph import IntegerGraph

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Printed", "PrintedLayer", "print_graph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedLayer:
    """What was written of one layer."""

    op: g.Weighted
    signed: bool
    """int8 when it runs, else uint8 with a zero point."""
    needs_vnni: bool
    """int8 with products that can saturate without VNNI."""
    packed: bool
    largest_input: int
    """Largest stored integer of its input, or of a byte of it."""
    wide_input: int | None
    """Largest stored integer of an input of two bytes, which are multiplied apart; None of one that a byte holds."""
    weight_bytes: int
    """Without what the file holds already: the weights of a layer that is called again."""
    scale_vectors: int
    """How many float32 vectors of one entry a channel go with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A model, what was written of its layers, and what each initializer is for."""

    model: ModelProto
    layers: tuple[PrintedLayer, ...]
    roles: dict[str, Role]


def print_graph(graph: IntegerGraph, *, packed: bool, cpu: Cpu, narrowed: Collection[str] = ()) -> Printed:
    """The graph as a model.

    Args:
        graph: the integer graph, with the weights that the file shall hold.
        packed: weights below 8 bits as packed bytes and functions that unpack them; else plain bytes and plain nodes.
        cpu: where products may not saturate, see `mixbit.export._processors`.
        narrowed: layers whose weights are not those of the network any more; the file says which.

    Raises:
        ExportError: an operation or a tensor has no form in ONNX; the message names it.
    """
    graph = _merge_slices(graph)
    printer = _Printer(graph, packed=packed, cpu=cpu, narrowed=narrowed)
    for op in graph.ops:
        method = _PRINT.get(type(op))
        if method is None:
            legal = ", ".join(kind.__name__ for kind in _PRINT)
            raise ExportError(f"{op.name}: {type(op).__name__} has no ONNX form. Legal: {legal}.")
        printer.values[op.output] = method(printer, op)
    return printer.finish()


class _Printer:
    """`values` maps tensors of the graph to those of the file."""

    def __init__(self, graph: IntegerGraph, *, packed: bool, cpu: Cpu, narrowed: Collection[str]) -> None:
        self.graph, self.packed, self.sheet = graph, packed, Sheet()
        self.cpu, self.narrowed = cpu, narrowed
        self.values = {graph.input: INPUT}
        self.layers: list[PrintedLayer] = []
        self._containers: dict[str, Container] = {}

    def finish(self) -> Printed:
        """The model, once every operation is printed."""
        graph, output = self.graph, self.values[self.graph.output]
        if graph.tensors[graph.output].grid is not None:
            output = self._real(graph.output)
        shapes = graph.tensors[graph.input].shape, graph.tensors[graph.output].shape
        model = self.sheet.model(output, shapes, {METADATA_KEY: self._statement().to_json()})
        if not self.packed:
            from onnx import inliner

            model = inliner.inline_local_functions(model)
        return Printed(model=model, layers=tuple(self.layers), roles=self.sheet.roles)

    def _statement(self) -> Statement:
        """What the file says of itself."""
        return Statement(
            fingerprint=self.graph.fingerprint,
            layers={layer.op.name: layer.op.weight_bits for layer in self.layers},
            cpu=self.cpu,
            narrowed=tuple(layer.op.name for layer in self.layers if layer.op.name in self.narrowed),
            needs_vnni=tuple(layer.op.name for layer in self.layers if layer.needs_vnni),
        )

    # ------------------------------------------------------------------------------------------------ tensors

    def _container(self, name: str) -> Container:
        if name not in self._containers:
            self._containers[name] = container(name, self.graph.grid(name))
        return self._containers[name]

    def _scale(self, name: str) -> tuple[str, str]:
        """Scale and zero point of a quantized tensor."""
        held = self._container(name)
        dtype = np.float32 if held.wide else np.uint8
        return self.sheet.number(held.grid.scale, np.float32), self.sheet.number(held.zero_point, dtype)

    def _quantized(self, name: str) -> tuple[str, str, str]:
        """The tensor itself, its scale and its zero point."""
        return self.values[name], *self._scale(name)

    def _is_wide(self, op: g.Op) -> bool:
        """Whether any quantized tensor of an operation takes two bytes."""
        names = (*op.inputs, op.output)
        return any(self._container(name).wide for name in names if self.graph.tensors[name].grid is not None)

    def _whole(self, name: str) -> str:
        """The stored integers in float32."""
        value = self.values[name]
        return value if self._container(name).wide else self.sheet.node("Cast", value, to=_FLOAT)

    def _real(self, name: str) -> str:
        """A quantized tensor as real numbers."""
        value, scale, zero = self._quantized(name)
        if not self._container(name).wide:
            return self.sheet.node("DequantizeLinear", value, scale, zero)
        return self.sheet.node("Mul", self.sheet.node("Sub", value, zero), scale)

    def _rounded(self, value: str, op: g.Op | g.Weighted, *, scale: float = 1.0, zero_point: int | None = None) -> str:
        """`clamp(round(value / scale) + zero_point)` of float32 as stored integers.

        Args:
            value: the result of `op` before it is rounded.
            op: the operation.
            scale: the step of the result; 1 of a value that is counted in its steps.
            zero_point: that of the result, unless the value has it in it.
        """
        held = self._container(op.output)
        zero_point = held.zero_point if zero_point is None else zero_point
        zero = self.sheet.number(zero_point, np.uint16 if held.wide else np.uint8)
        value = self.sheet.node("QuantizeLinear", value, self.sheet.number(scale, np.float32), zero)
        return self._clip(self.sheet.node("Cast", value, to=_FLOAT) if held.wide else value, op)

    def _clip(self, value: str, op: Any) -> str:
        """The clamp of stored integers, where that of uint8 (or of two bytes) is not enough."""
        held = self._container(op.output)
        (low, high), dtype = held.bounds(getattr(op, "clamp", None)), np.float32 if held.wide else np.uint8
        if (low, high) == (0, 65535 if held.wide else 255):
            return value
        # An integer Clip: one on float32 before the quantization would keep runtimes from fusing it.
        return self.sheet.node("Clip", value, self.sheet.number(low, dtype), self.sheet.number(high, dtype))

    def quantize_input(self, op: g.QuantizeInput) -> str:
        """Float input to integers."""
        return self._rounded(self.values[op.x], op, scale=self._container(op.output).grid.scale)

    # ------------------------------------------------------------------------------------------------- layers

    def conv(self, op: g.Conv) -> str:
        """A convolution, quantized or with a float32 result."""
        window = _window(op, (op.dilation, op.groups))
        if self.graph.tensors[op.output].grid is None or self._is_wide(op):
            return self._in_float(op, "Conv", (-1, *[1] * len(op.stride)), window)
        name, function = str(len(self.layers)), "Conv" if self.packed else "QConv"
        operands = (*self._quantized(op.x), *self._operands(op), *self._scale(op.output))
        return self._clip(self.sheet.call(function, *operands, name=name, **window), op)

    def _in_float(self, op: g.Weighted, kind: str, along: tuple[int, ...], window: dict[str, Any]) -> str:
        """Exact sums, which are scaled in float32: what no runtime fuses."""
        name, result = str(len(self.layers)), self.graph.tensors[op.output].grid
        weights = self._weights(op, scale_vectors=1)
        zero = self.sheet.constant(self._zero_point(op), "grids")
        factors = np.float32(self._container(op.x).grid.scale) * _weight_scale(op)
        factors = factors if result is None else factors / np.float32(result.scale)
        ends = self._bias(op, along), self.sheet.constant(factors.reshape(along), "scales")
        value = self._sums(op.x, kind, (weights, zero, *ends), {**window, "name": name})
        return value if result is None else self._rounded(value, op)

    def _sums(self, name: str, kind: str, operands: tuple[str, ...], attributes: dict[str, Any]) -> str:
        """Scaled sums of products: at once, or of each byte of a wide tensor apart."""
        held = self._container(name)
        function, parts = (f"Wide{kind}", held.zero_bytes) if held.wide else (f"Float{kind}", (held.zero_point,))
        zeros = (self.sheet.number(part, np.uint8) for part in parts)
        return self.sheet.call(function, self.values[name], *zeros, *operands, **attributes)

    def linear(self, op: g.Linear) -> str:
        """A linear layer; runtimes want matrices."""
        if self._is_wide(op):
            return self._in_float(op, "Linear", (-1,), {})
        name, function = str(len(self.layers)), "Linear" if self.packed else "QLinear"
        x, scale, zero_point = self._quantized(op.x)
        shape = self.graph.tensors[op.output].shape
        if len(shape) > 1:
            x = self.sheet.node("Reshape", x, self.sheet.shape(-1, op.weight.shape[1]))
        value = self.sheet.call(function, x, scale, zero_point, *self._operands(op), name=name)
        if self.graph.tensors[op.output].grid is not None:
            value = self._clip(self.sheet.node("QuantizeLinear", value, *self._scale(op.output)), op)
        if len(shape) > 1:
            value = self.sheet.node("Reshape", value, self.sheet.shape(-1, *shape))
        return value

    def _operands(self, op: g.Weighted) -> tuple[str, ...]:
        """Weights, scales, zero points and biases; in a file without unpacking the scales of the biases as well."""
        weights = self._weights(op, scale_vectors=1 if self.packed else 2)
        scales, bias = self.sheet.constant(_weight_scale(op), "scales"), self._bias(op, (-1,))
        # By channel, as the scales are; layers with as many channels share them.
        zeros = self.sheet.constant(np.repeat(self._zero_point(op), len(op.weight)), "grids")
        if self.packed:
            return weights, scales, zeros, bias
        factors = np.float32(self._container(op.x).grid.scale) * _weight_scale(op)
        return weights, scales, zeros, bias, self.sheet.constant(factors, "scales")

    def _bias(self, op: g.Weighted, shape: tuple[int, ...]) -> str:
        return self.sheet.constant(op.bias.astype(np.int32).reshape(shape), "biases")

    def _zero_point(self, op: g.Weighted) -> Array:
        """Of the weights of the last layer that was printed."""
        return np.array(0, np.int8) if self.layers[-1].signed else np.array(_zero(op), np.uint8)

    def _weights(self, op: g.Weighted, *, scale_vectors: int) -> str:
        """Weights as int8 or uint8."""
        if op.weight_bits not in WEIGHT_BITS:
            raise ExportError(
                f"{op.name}: {op.weight_bits}-bit weights have no ONNX form. Legal: {describe_bits(WEIGHT_BITS)} bits."
            )
        held = self._container(op.x)
        largest = held.largest_byte
        if held.wide:
            _check_sums(op)
        heavy, packed = saturates(op, largest), self.packed and op.weight_bits in PACKED_BITS
        signed = not heavy or self.cpu == "vnni"
        blobs = self._blobs(op, signed=signed, packed=packed)
        known = set(self.sheet.roles)
        stored = [self.sheet.constant(blob, "weights") for blob in blobs]
        layer = PrintedLayer(
            op=op,
            signed=signed,
            needs_vnni=heavy and signed,
            packed=packed,
            largest_input=largest,
            wide_input=held.largest if held.wide else None,
            weight_bytes=sum(blob.nbytes for blob, name in zip(blobs, stored, strict=True) if name not in known),
            scale_vectors=scale_vectors,
        )
        self.layers.append(layer)
        return self._unpacked(op, stored, signed=signed) if packed else stored[0]

    def _unpacked(self, op: g.Weighted, blobs: list[str], *, signed: bool) -> str:
        size, sheet = op.weight.size, self.sheet
        cut = any(size * width % 8 for width in fields(op.weight_bits))
        # The two integers of 1 bit are 2 apart, and stored as 0 and 1.
        shift = op.shift + (op.weight_bits == 1)
        operands = [*blobs, sheet.shape(*op.weight.shape), sheet.number(shift, np.uint8)]
        operands += [sheet.number(_zero(op), np.int32)] if signed else []
        operands += [sheet.shape(size)] if cut else []
        return sheet.call(unpacker(op.weight_bits, signed=signed, cut=cut), *operands)

    @staticmethod
    def _blobs(op: g.Weighted, *, signed: bool, packed: bool) -> tuple[Array, ...]:
        if packed:
            return pack(op.weight, op.weight_bits)
        shifted = op.weight.astype(np.int64) << op.shift
        return (shifted.astype(np.int8) if signed else (shifted + _zero(op)).astype(np.uint8),)

    # --------------------------------------------------------------------------------------------- arithmetic

    def add(self, op: g.Add) -> str:
        """Sum of two tensors."""
        if self._is_wide(op):
            return self._wide_add(op)
        first, second = op.inputs
        operands = (*self._quantized(first), *self._quantized(second), *self._scale(op.output))
        return self._clip(self.sheet.call("Add", *operands), op)

    def _wide_add(self, op: g.Add) -> str:
        """As the reference: the ratios of scales are float32, the products of whole numbers with them float64."""
        first, second = op.inputs
        *ratios, constant = sum_terms(*(self._container(name).grid for name in (first, second, op.output)))
        by_first, by_second, rest = (self.sheet.number(float(one), np.float64) for one in (*ratios, constant))
        operands = self._whole(first), by_first, self._whole(second), by_second, rest
        return self._rounded(self.sheet.call("WideAdd", *operands), op, zero_point=0)

    def requantize(self, op: g.Requantize) -> str:
        """Another grid, in the fastest form that is exact."""
        if self._is_wide(op):
            return self._wide_requantize(op)
        found = rescaling(self.graph, op, self._container(op.x), top=self._may_reach_255(op.output))
        self._containers[op.output] = found.result
        value = self.sheet.call(found.function, *self._quantized(op.x), *self._scale(op.output))
        return self._clip(value, op) if found.clip else value

    def _wide_requantize(self, op: g.Requantize) -> str:
        """Through real numbers; a pair of nodes that runtimes know would be merged with others."""
        source = self._container(op.x)
        scale, zero = (self.sheet.number(one, np.float32) for one in (source.grid.scale, source.zero_point))
        real = self.sheet.node("Mul", self.sheet.node("Sub", self._whole(op.x), zero), scale)
        return self._rounded(real, op, scale=self._container(op.output).grid.scale)

    def _may_reach_255(self, name: str) -> bool:
        """Whether its readers stay exact if the tensor is stored up to 255, and do not care that it is."""
        readers = self.graph.readers(name)
        return name != self.graph.output and all(
            isinstance(op, g.Weighted) and (self.cpu == "vnni" or not saturates(op, 255)) for op in readers
        )

    def average_pool(self, op: g.AveragePool) -> str:
        """A global pool, or a depthwise convolution with weights of 1."""
        if self._is_wide(op):
            return self._wide_pool(op)
        shape = self.graph.tensors[op.x].shape
        operands, result = self._quantized(op.x), self._scale(op.output)
        factor = self.graph.grid(op.x).scale / (self.graph.grid(op.output).scale * math.prod(op.kernel))
        if op.kernel == shape[1:] and not any(map(any, op.padding)) and _POOLS[0] <= factor < _POOLS[1]:
            return self._clip(self.sheet.call("GlobalPool", *operands, *result), op)
        share = self.sheet.number(float(self._share(op)), np.float32)
        window = {**_window(op, None), "group": shape[0], "shape": (shape[0], 1, *op.kernel)}
        value = self.sheet.call("Pool", *operands, share, *result, **window)
        return self._clip(value, op)

    def _wide_pool(self, op: g.AveragePool) -> str:
        """A depthwise convolution of integers, with weights of 1."""
        channels, taps = self.graph.tensors[op.x].shape[0], np.float32(math.prod(op.kernel))
        scale, result = (np.float32(self._container(name).grid.scale) for name in (op.x, op.output))
        operands = (
            self.sheet.call("Ones", shape=(channels, 1, *op.kernel)),
            self.sheet.number(0, np.uint8),
            self.sheet.number(0, np.int32),
            self.sheet.number(float(scale / np.float32(result * taps)), np.float32),
        )
        return self._rounded(self._sums(op.x, "Conv", operands, {**_window(op, None), "group": channels}), op)

    def _share(self, op: g.AveragePool) -> np.float32:
        """One over the number of taps, or a neighbour with which the runtime's factor is that of the reference."""
        scale, result = (np.float32(self.graph.grid(name).scale) for name in (op.x, op.output))
        taps = np.float32(math.prod(op.kernel))
        wanted, nearest = scale / np.float32(result * taps), np.float32(1) / taps
        around = nearest + np.arange(-4, 5).astype(np.float32) * np.spacing(nearest)
        exact = around[np.float32(scale * around) / result == wanted]
        return exact[0] if len(exact) else nearest

    def lookup(self, op: g.Lookup) -> str:
        """A table of stored integers."""
        source, result = self._container(op.x), self._container(op.output)
        table = np.zeros(source.grid.qmax - source.base + 1, np.uint16 if result.wide else np.uint8)
        table[source.grid.qmin - source.base :] = op.table - result.base
        shape = self.sheet.shape(-1, *self.graph.tensors[op.x].shape)
        value = self.sheet.call("Lookup", self.values[op.x], self.sheet.constant(table, "tables"), shape)
        return self.sheet.node("Cast", value, to=_FLOAT) if result.wide else value

    # ------------------------------------------------------------------------------------------ data movement

    def max_pool(self, op: g.MaxPool) -> str:
        """On stored integers: their order is that of the real numbers."""
        return self.sheet.node("MaxPool", self.values[op.x], kernel_shape=op.kernel, **_window(op, None))

    def concat(self, op: g.Concat) -> str:
        """All inputs have one grid, hence one container."""
        return self.sheet.node("Concat", *(self.values[name] for name in op.inputs), axis=op.axis + 1)

    def reshape(self, op: g.Reshape) -> str:
        """The batch stays."""
        return self.sheet.node("Reshape", self.values[op.x], self.sheet.shape(0, *self.graph.tensors[op.output].shape))

    def transpose(self, op: g.Transpose) -> str:
        """The batch stays first."""
        return self.sheet.node("Transpose", self.values[op.x], perm=(0, *(axis + 1 for axis in op.order)))

    def slice(self, op: g.Slice) -> str:
        """Along the axes that lose something."""
        whole, kept = self.graph.tensors[op.x].shape, self.graph.tensors[op.output].shape
        cuts = list(zip(op.start, op.stop, op.step, strict=True))
        axes = [axis for axis, size in enumerate(whole) if kept[axis] != size]
        every = all(start == 0 and -(-whole[axis] // step) == kept[axis] for axis, (start, _, step) in enumerate(cuts))
        if axes and every and op.step[0] == 1:
            # Every n-th pixel is the largest of a window of one, and that kernel keeps the layout of convolutions.
            ones = [1] * (len(whole) - 1)
            return self.sheet.node("MaxPool", self.values[op.x], kernel_shape=ones, strides=op.step[1:])
        start, stop, step = ([cuts[axis][at] for axis in axes] for at in range(3))
        lists = (self.sheet.shape(*numbers) for numbers in (start, stop, [axis + 1 for axis in axes], step))
        return self.sheet.node("Slice", self.values[op.x], *lists) if axes else self.values[op.x]

    def pad(self, op: g.Pad) -> str:
        """With the stored zero.

        ONNX Runtime makes a pad part of the max pool that reads it, and then refuses one that is as wide as the window.
        It leaves pads alone whose axes are listed: all of them, for where it moves channels to the end it takes the
        pads to be of every axis.
        """
        inputs = [self.values[op.x], *self._pads(op)]
        return self.sheet.node("Pad", *inputs)

    def _pads(self, op: g.Pad) -> list[str]:
        before, after = zip(*op.padding, strict=True)
        zero = self._scale(op.x)[1]
        readers = (one for one in self.graph.ops if isinstance(one, g.MaxPool) and one.x == op.output)
        pads = [self.sheet.shape(0, *before, 0, *after), zero]
        if not any(_beyond_window(op, pool) for pool in readers):
            return pads
        return [*pads, self.sheet.shape(*range(len(before) + 1))]

    def softmax(self, op: g.Softmax) -> str:
        """Of float32."""
        return self.sheet.node("Softmax", self.values[op.x], axis=-1)


_FLOAT = 1
"""Number of float32 among ONNX's types."""


def _check_sums(op: g.Weighted) -> None:
    """Sums of products with a byte are int32 in every runtime.

    Raises:
        ExportError: one can be beyond.
    """
    reach = 255 * int((np.abs(op.weight.astype(np.int64)).reshape(len(op.weight), -1).sum(axis=1) << op.shift).max())
    if reach >= 2**31:
        raise ExportError(
            f"{op.name}: sums of products of its weights and a byte of its input can reach {reach}. Legal: below 2^31. "
            "Export C, or give its weights fewer bits."
        )


_POOLS = (2.0**-32, 2.0**8)
"""Factors that ONNX Runtime's quantized global pool takes; it fails at the first image beyond them."""


def _beyond_window(pad: g.Pad, pool: g.MaxPool) -> bool:
    """Whether the padding of both is as wide as the pool's window, on some side."""
    sides = zip(pad.padding[-len(pool.kernel) :], pool.padding, pool.kernel, strict=True)
    return any(max(first) + max(own) >= kernel for first, own, kernel in sides)


def _merge_slices(graph: IntegerGraph) -> IntegerGraph:
    """One slice for slices of slices, as indexing of several dimensions gives them."""
    ops: dict[str, g.Op] = {}
    for op in graph.ops:
        before = ops.get(op.x)
        if isinstance(op, g.Slice) and isinstance(before, g.Slice) and graph.readers(op.x) == (op,):
            del ops[op.x]
            ops[op.output] = _composed(before, op)
        else:
            ops[op.output] = op
    return replace(graph, ops=tuple(ops.values()))


def _composed(first: g.Slice, second: g.Slice) -> g.Slice:
    """`x[first][second]` as one slice."""
    axes = list(zip(first.start, first.step, second.start, second.stop, second.step, strict=True))
    return replace(
        second,
        inputs=first.inputs,
        start=tuple(start + step * low for start, step, low, _, _ in axes),
        stop=tuple(start + step * (high - 1) + 1 for start, step, _, high, _ in axes),
        step=tuple(step * each for _, step, _, _, each in axes),
    )


def _zero(op: g.Weighted) -> int:
    """Zero point of weights that are stored as uint8."""
    return offset(op.weight_bits) << op.shift


def _weight_scale(op: g.Weighted) -> Array:
    """Of the shifted weights, float32."""
    found: Array = op.weight_scale.astype(np.float32) / np.float32(2**op.shift)
    return found


def _window(op: g.Conv | g.MaxPool | g.AveragePool, conv: tuple[tuple[int, ...], int] | None) -> dict[str, Any]:
    """Attributes of a window; what is the default is left out."""
    pads = (*(before for before, _ in op.padding), *(after for _, after in op.padding))
    found: dict[str, Any] = {}
    if any(size != 1 for size in op.stride):
        found["strides"] = op.stride
    if any(pads):
        found["pads"] = pads
    if conv is not None and any(size != 1 for size in conv[0]):
        found["dilations"] = conv[0]
    if conv is not None and conv[1] != 1:
        found["group"] = conv[1]
    return found


_PRINT: dict[type, Callable[..., str]] = {
    g.QuantizeInput: _Printer.quantize_input,
    g.Conv: _Printer.conv,
    g.Linear: _Printer.linear,
    g.Add: _Printer.add,
    g.Requantize: _Printer.requantize,
    g.AveragePool: _Printer.average_pool,
    g.Lookup: _Printer.lookup,
    g.MaxPool: _Printer.max_pool,
    g.Concat: _Printer.concat,
    g.Reshape: _Printer.reshape,
    g.Transpose: _Printer.transpose,
    g.Slice: _Printer.slice,
    g.Pad: _Printer.pad,
    g.Softmax: _Printer.softmax,
}
