"""Operations of the integer graph as ONNX nodes on real numbers, with a `Quant` node wherever a grid begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mixbit.errors import ExportError
from mixbit.export._foreign import QONNX_DOMAIN
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid
from mixbit.integer.graph import IntegerGraph

__all__ = ["Printer", "quant_bits"]

# `Quant` rounds `x / scale + zero_point`. Integer arithmetic rounds a tie up or away from zero, which is one and the
# same where the integers are not negative, as after a ReLU; a float runtime rounds it to even.
_ROUNDING_MODES = {"single": "HALF_UP", "double": "HALF_UP", "away": "HALF_UP", "float32": "ROUND"}


def quant_bits(grid: Grid) -> tuple[int, bool]:
    """Bits and sign of the `Quant` node that holds all integers of a grid.

    >>> quant_bits(Grid(scale=1.0, zero_point=0, qmin=-8, qmax=7))
    (4, True)
    >>> quant_bits(Grid(scale=1.0, zero_point=3, qmin=0, qmax=6))
    (3, False)
    """
    if grid.qmin >= 0:
        return max(grid.qmax.bit_length(), 1), False
    return max((-grid.qmin - 1).bit_length(), grid.qmax.bit_length(), 1) + 1, True


def _container(grid: Grid) -> tuple[int, int]:
    """Lowest and highest integer of that node."""
    bits, signed = quant_bits(grid)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class Printer:
    """Collects nodes, initializers and shapes of one graph.

    A tensor of the integer graph keeps its name and holds the real numbers that its integers stand for. The nodes of an
    operation lie side by side, and their names begin with its name.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.shapes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._weights: dict[tuple[int, tuple[int, ...], bytes, bytes], str] = {}
        self._taken = set(graph.tensors)
        self._node_names: set[str] = set()

    @property
    def initializers(self) -> list[Any]:
        """All constants of the model."""
        return list(self._constants.values())

    def print_op(self, op: g.Op) -> None:
        """Add the nodes of one operation.

        Raises:
            ExportError: QONNX has no form for it.
        """
        printer = _PRINTERS.get(type(op))
        if printer is None:
            raise ExportError(
                f"{op.name}: the operation {op.kind} has no QONNX form. "
                f"Legal: {', '.join(kind.__name__ for kind in _PRINTERS)}. Export to another format."
            )
        printer(self, op)

    # -- building blocks

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Name of an initializer: `name` unless a tensor has it. One that was given before is used again."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value, dtype), _unused(name, self._taken))
        found: str = self._constants[name].name
        return found

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        name: str,
        shape: Sequence[int] | None = None,
        *,
        output: str | None = None,
        elements: int = onnx.TensorProto.FLOAT,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """A node and the name of its output.

        Args:
            kind: its ONNX operator.
            inputs: names of what it reads.
            name: of the node, and of its output unless that has one.
            shape: of the output. None for a tensor of the graph, whose shape is known.
            output: its name; None invents one.
            elements: ONNX type of the elements.
            domain: of the operator.
            attributes: of the node.
        """
        output = output or _unused(name, self._taken)
        unique = _unused(name, self._node_names)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=unique, domain=domain, **attributes))
        if output not in (self.graph.input, self.graph.output):
            dims = self.batched(output) if shape is None else shape
            self.shapes.append(helper.make_tensor_value_info(output, elements, list(dims)))
        return output

    def batched(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor for a batch of one."""
        return (1, *self.graph.tensors[tensor].shape)

    def result(self, op: g.Op | g.Weighted, x: str, *, clamp: g.Bounds | None = None, mode: str = "ROUND") -> None:
        """Real numbers onto the grid of an operation's output."""
        grid = self.graph.grid(op.output)
        bounds = clamp or (grid.qmin, grid.qmax)
        if bounds != _container(grid):
            x = self._clip(op, x, grid, bounds)
        bits, signed = quant_bits(grid)
        scale = self.constant(f"{op.output}/scale", grid.scale)
        self._quant(x, scale, grid.zero_point, bits, signed, name=f"{op.name}/quantize", output=op.output, mode=mode)

    def _clip(self, op: g.Op | g.Weighted, x: str, grid: Grid, bounds: g.Bounds) -> str:
        """Clamp in real numbers: rounding keeps order, so the integers are those of a clamp after it."""
        shape = self.batched(op.output)
        if bounds == (grid.zero_point, _container(grid)[1]):
            return self.node("Relu", [x], f"{op.name}/relu", shape)
        ends = [
            self.constant(f"{op.name}/{end}", np.float32(grid.scale) * np.float32(bound - grid.zero_point))
            for end, bound in zip(("low", "high"), bounds, strict=True)
        ]
        return self.node("Clip", [x, *ends], f"{op.name}/clip", shape)

    def _quant(
        self,
        x: str,
        scale: str,
        zero_point: int,
        bits: int,
        signed: bool,
        *,
        name: str,
        shape: Sequence[int] | None = None,
        output: str | None = None,
        mode: str = "ROUND",
    ) -> str:
        zero, width = self.constant(f"zero_point_{zero_point}", zero_point), self.constant(f"bits_{bits}", bits)
        return self.node(
            "Quant",
            [x, scale, zero, width],
            name,
            shape,
            output=output,
            domain=QONNX_DOMAIN,
            signed=int(signed),
            narrow=0,
            rounding_mode=mode,
        )

    # -- layers

    def weight(self, op: g.Weighted) -> str:
        """Real weights through their `Quant` node: `(out, in / groups, *kernel)`, or `(in, out)` for a product.

        The scale keeps its sign. A channel of scale 0 is 0 whatever its integers are, but `Quant` divides by the scale,
        so that channel gets scale 1 and weights 0. Weights of 1 bit go through `BipolarQuant`: the sign of a number,
        times a scale.
        """
        channels = op.weight_scale.astype(np.float32).reshape(-1, *[1] * (op.weight.ndim - 1))
        real, scale = op.weight.astype(np.float32) * channels, np.where(channels == 0, np.float32(1), channels)
        if isinstance(op, g.Linear):
            real, scale = real.T, scale.T
        if op.weight_bits == 1:
            scale = np.abs(channels.T if isinstance(op, g.Linear) else channels)
        owner = self._weights.setdefault((op.weight_bits, real.shape, real.tobytes(), scale.tobytes()), op.name)
        stored = self.constant(f"{owner}/weight", real)
        scales = self.constant(f"{op.name}/weight_scale", scale)
        name = f"{op.name}/weight_quantize"
        if op.weight_bits == 1:
            return self.node("BipolarQuant", [stored, scales], name, real.shape, domain=QONNX_DOMAIN)
        return self._quant(stored, scales, 0, op.weight_bits, True, name=name, shape=real.shape)

    def bias(self, op: g.Weighted) -> str:
        """Real biases, rounded once. The shift of the accumulator is in their unit alone: the weights have none."""
        return self.constant(f"{op.name}/bias", op.bias * self.graph.unit(op))

    def layer(self, op: g.Weighted, product: Callable[[str | None], str]) -> None:
        """A layer: real numbers from `product`, straight into a float32 output or onto the output's grid."""
        if self.graph.tensors[op.output].grid is None:
            product(op.output)
        else:
            self.result(op, product(None), clamp=op.clamp, mode=_ROUNDING_MODES[op.rounding])

    def move(self, op: g.Op, kind: str, *extra: str, **attributes: Any) -> None:
        """A node that only moves or selects numbers, so that they stay on their grid."""
        for name in op.inputs:
            if self.graph.tensors[name].grid != self.graph.tensors[op.output].grid:
                raise ExportError(
                    f"{op.name}: {op.kind} reads {name!r} on another grid than it writes. Legal: one grid for all of "
                    "its tensors. Requantize the input."
                )
        self.node(kind, [*op.inputs, *extra], op.name, output=op.output, **attributes)

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Shapes, pads and bounds."""
        return self.constant(name, values, np.int64)


def _unused(name: str, taken: set[str]) -> str:
    """That name, with lines under the end until nothing has it; it is taken then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _pads(padding: g.Padding) -> list[int]:
    """All befores, then all afters."""
    return [before for before, _ in padding] + [after for _, after in padding]


def _window(op: g.MaxPool | g.AveragePool) -> dict[str, Any]:
    """Attributes of a pool."""
    if any(max(pair) >= size for pair, size in zip(op.padding, op.kernel, strict=True)):
        raise ExportError(
            f"{op.name}: padding {op.padding} with a kernel of {op.kernel}. Legal in ONNX: padding smaller than the "
            "kernel. Pad in a layer of its own."
        )
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": _pads(op.padding)}


def _quantize_input(to: Printer, op: g.QuantizeInput) -> None:
    to.result(op, op.x)


def _conv(to: Printer, op: g.Conv) -> None:
    weight, bias = to.weight(op), to.bias(op)
    to.layer(
        op,
        lambda output: to.node(
            "Conv",
            [op.x, weight, bias],
            op.name,
            to.batched(op.output),
            output=output,
            kernel_shape=op.weight.shape[2:],
            strides=op.stride,
            pads=_pads(op.padding),
            dilations=op.dilation,
            group=op.groups,
        ),
    )


def _linear(to: Printer, op: g.Linear) -> None:
    """A product and a sum, which hold for any number of dimensions; `Gemm` holds for two alone."""
    shape, bias = to.batched(op.output), to.bias(op)
    product = to.node("MatMul", [op.x, to.weight(op)], op.name, shape)
    to.layer(op, lambda output: to.node("Add", [product, bias], f"{op.name}/add_bias", shape, output=output))


def _add(to: Printer, op: g.Add) -> None:
    total = to.node("Add", op.inputs, op.name, to.batched(op.output))
    to.result(op, total, clamp=op.clamp, mode=_ROUNDING_MODES[op.rounding])


def _requantize(to: Printer, op: g.Requantize) -> None:
    to.result(op, op.x, clamp=op.clamp, mode=_ROUNDING_MODES[op.rounding])


def _max_pool(to: Printer, op: g.MaxPool) -> None:
    to.move(op, "MaxPool", **_window(op))


def _average_pool(to: Printer, op: g.AveragePool) -> None:
    """`GlobalAveragePool` would do for the whole map, but qonnx's cost analysis does not know it."""
    mean = to.node("AveragePool", [op.x], op.name, to.batched(op.output), count_include_pad=1, **_window(op))
    to.result(op, mean, clamp=op.clamp, mode=_ROUNDING_MODES[op.rounding])


def _lookup(to: Printer, op: g.Lookup) -> None:
    """The table itself, of real numbers, at `round(x / scale + zero_point - qmin)`.

    Not the function that it was made from: a name does not define one, and its result could round to another integer.
    """
    grid, result, shape = to.graph.grid(op.x), to.graph.grid(op.output), to.batched(op.output)
    table: Array = (op.table - result.zero_point).astype(np.float32) * np.float32(result.scale)
    steps = to.node("Div", [op.x, to.constant(f"{op.x}/scale", grid.scale)], f"{op.name}/steps", shape)
    first = to.constant(f"{op.name}/first", grid.zero_point - grid.qmin)
    rounded = to.node("Round", [to.node("Add", [steps, first], f"{op.name}/shift", shape)], f"{op.name}/round", shape)
    index = to.node(
        "Cast", [rounded], f"{op.name}/index", shape, elements=onnx.TensorProto.INT64, to=onnx.TensorProto.INT64
    )
    found = to.node("Gather", [to.constant(f"{op.name}/table", table), index], op.name, shape, axis=0)
    to.result(op, found)


def _concat(to: Printer, op: g.Concat) -> None:
    to.move(op, "Concat", axis=op.axis + 1)


def _reshape(to: Printer, op: g.Reshape) -> None:
    # 0 takes the size of the input, here that of the batch.
    to.move(op, "Reshape", to.integers(f"{op.name}/shape", (0, *to.graph.tensors[op.output].shape)))


def _transpose(to: Printer, op: g.Transpose) -> None:
    to.move(op, "Transpose", perm=(0, *(axis + 1 for axis in op.order)))


def _slice(to: Printer, op: g.Slice) -> None:
    axes = range(1, len(op.start) + 1)
    parts = (("start", op.start), ("stop", op.stop), ("axes", axes), ("step", op.step))
    to.move(op, "Slice", *(to.integers(f"{op.name}/{name}", tuple(values)) for name, values in parts))


def _pad(to: Printer, op: g.Pad) -> None:
    pads = to.integers(f"{op.name}/pads", _pads(((0, 0), *op.padding)))
    to.move(op, "Pad", pads, to.constant("zero", 0.0), mode="constant")


def _softmax(to: Printer, op: g.Softmax) -> None:
    to.move(op, "Softmax", axis=-1)


_PRINTERS: dict[type, Callable[[Printer, Any], None]] = {
    g.QuantizeInput: _quantize_input,
    g.Conv: _conv,
    g.Linear: _linear,
    g.Add: _add,
    g.Requantize: _requantize,
    g.MaxPool: _max_pool,
    g.AveragePool: _average_pool,
    g.Lookup: _lookup,
    g.Concat: _concat,
    g.Reshape: _reshape,
    g.Transpose: _transpose,
    g.Slice: _slice,
    g.Pad: _pad,
    g.Softmax: _softmax,
}
