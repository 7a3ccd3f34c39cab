"""QONNX: the integer graph as a float ONNX graph whose `Quant` nodes carry scale, zero point and bits of any width.

A format of interchange and reference: other tools read its bits, and the qonnx package runs it. Weights are float32, so
the file is as large as the float model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mixbit import _io
from mixbit._version import __version__
from mixbit.errors import ExportError, MissingExtra, shown
from mixbit.export._foreign import QONNX_DOMAIN, read_foreign
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import Conv, IntegerGraph, Weighted

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["DOMAIN", "QonnxFile", "QonnxLayer", "build_qonnx", "render_qonnx", "trace_qonnx", "write_qonnx"]

DOMAIN = QONNX_DOMAIN

# What qonnx 1.0 writes itself: ONNX operators of opset 11, and its own of opset 1.
_OPSET, _QONNX_OPSET = 11, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QonnxLayer:
    """What was written of one convolution or linear layer."""

    name: str
    kind: str
    """The ONNX operator: `Conv`, or `MatMul` for a linear layer."""
    weight_bits: int
    activation_bits: int
    """Bits of the layer's input."""
    weights: int
    """Number of its weights."""
    macs: int
    """Multiply-accumulates of one sample."""
    size_bytes: int
    """Bytes of weights, scales and biases in the file, all float32."""
    again: str | None = None
    """The earlier layer whose weights these are, where a layer is called again; the file holds them once."""

    @property
    def bitops(self) -> int:
        """`macs * weight_bits * activation_bits`."""
        return self.macs * self.weight_bits * self.activation_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class QonnxFile:
    """A QONNX file that was written.

    >>> layer = QonnxLayer(name="fc", kind="MatMul", weight_bits=3, activation_bits=4, weights=640, macs=640,
    ...     size_bytes=2640)
    >>> found = QonnxFile(path=Path("net.onnx"), size_bytes=4000, layers=(layer,))
    >>> found.bitops, found.weight_bits                                               # 640*3*4 and 640*3
    (7680, 1920)
    """

    path: Path
    size_bytes: int
    layers: tuple[QonnxLayer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bitops(self) -> int:
        """Sum over layers of MACs * weight bits * activation bits."""
        return sum(layer.bitops for layer in self.layers)

    @property
    def weight_bits(self) -> int:
        """Sum over layers of weights * bits; the file itself spends 32 bits on each weight."""
        return sum(layer.weights * layer.weight_bits for layer in self.layers if layer.again is None)


def write_qonnx(graph: IntegerGraph, path: Path) -> QonnxFile:
    """Write a QONNX file, whole or not at all.

    Args:
        graph: from `mixbit.export.lower`.
        path: the file, by custom `.onnx`.

    Returns:
        Its size, and what was written of each layer.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: an operation has no QONNX form; the message names it. No file is written then.
    """
    content = render_qonnx(graph)
    _io.write_bytes(path, content)
    return QonnxFile(path=path, size_bytes=len(content), layers=_layers(graph))


def render_qonnx(graph: IntegerGraph) -> bytes:
    """What `write_qonnx` writes, without writing it; the same graph gives the same bytes.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: as in `write_qonnx`.
    """
    content: bytes = build_qonnx(graph).SerializeToString(deterministic=True)
    return content


def build_qonnx(graph: IntegerGraph) -> ModelProto:
    """A QONNX model in memory, for a batch of one sample.

    Every tensor of `graph` is there under its name, as the real numbers `scale * (q - zero_point)`. A layer computes
    `x * Quant(w) + bias * graph.unit(op)`, then Relu or Clip where its clamp is tighter than its grid, then `Quant`.

    Args:
        graph: from `mixbit.export.lower`.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: an operation has no QONNX form; the message names it.

    >>> from mixbit.integer.graph import Grid, QuantizeInput, Tensor
    >>> x = Tensor(name="x", shape=(4,), grid=None, source="float")
    >>> y = Tensor(name="y", shape=(4,), grid=Grid(scale=0.5, zero_point=0, qmin=0, qmax=7), source="trained")
    >>> op = QuantizeInput(name="input", inputs=("x",), output="y")
    >>> model = build_qonnx(IntegerGraph(input="x", output="y", tensors={"x": x, "y": y}, ops=(op,), fingerprint=""))
    >>> [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node]
    [('Quant', ['x', 'y/scale', 'zero_point_0', 'bits_3'], ['y'])]
    """
    _import_onnx()
    from onnx import TensorProto, checker, helper

    from mixbit.export._qonnx_nodes import Printer

    printer = Printer(graph)
    for op in graph.ops:
        printer.print_op(op)
    ends = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *graph.tensors[name].shape])]
        for name in (graph.input, graph.output)
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, _QONNX_OPSET)]
    model: ModelProto = helper.make_model(
        helper.make_graph(printer.nodes, "mixbit", *ends, printer.initializers, value_info=printer.shapes),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True),
        producer_name="mixbit",
        producer_version=__version__,
    )
    helper.set_model_props(model, {"fingerprint": graph.fingerprint})
    checker.check_model(model)
    return model


def _layers(graph: IntegerGraph) -> tuple[QonnxLayer, ...]:
    first: dict[tuple[int, tuple[int, ...], bytes, bytes], str] = {}
    found = []
    for op in graph.weighted():
        key = op.weight_bits, op.weight.shape, op.weight.tobytes(), op.weight_scale.tobytes()
        found.append(_layer(graph, op, first.get(key)))
        first.setdefault(key, op.name)
    return tuple(found)


def _layer(graph: IntegerGraph, op: Weighted, again: str | None) -> QonnxLayer:
    from mixbit.export._qonnx_nodes import quant_bits

    shape = graph.tensors[op.output].shape
    positions = math.prod(shape[1:] if isinstance(op, Conv) else shape[:-1])
    return QonnxLayer(
        name=op.name,
        kind="Conv" if isinstance(op, Conv) else "MatMul",
        weight_bits=op.weight_bits,
        activation_bits=quant_bits(graph.grid(op.x))[0],
        weights=op.weight.size,
        macs=op.weight.size * positions,
        size_bytes=4 * (op.weight.size * (again is None) + op.weight_scale.size + op.bias.size),
        again=again,
    )


def trace_qonnx(path: Path, x: Array) -> dict[str, Array]:
    """Run a file with the executor of the qonnx package.

    Args:
        path: a QONNX file; its batch size does not matter.
        x: `(N, *input shape)` float32.

    Returns:
        Every tensor and constant of the file by name, as real numbers; see `mixbit.integer.executor.trace`.

    Raises:
        MissingExtra: qonnx is not installed.
        ExportError: the file is no ONNX file, or the input has another shape.
    """
    _import_onnx()
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.change_batchsize import ChangeBatchSize
        from qonnx.transformation.infer_shapes import InferShapes
    except ImportError as cause:
        raise MissingExtra("Running a QONNX file needs qonnx: pip install 'mixbit[export]'.") from cause
    looked = read_foreign(path)
    if not looked.qonnx:
        raise ExportError(f"{shown(str(path))} has no operator of QONNX. Legal: a file of `mixbit export --to qonnx`.")
    try:
        model = ModelWrapper(looked.model)
        name = model.graph.input[0].name
        wanted = tuple(model.get_tensor_shape(name)[1:])
    except Exception as cause:  # qonnx raises whatever comes
        raise ExportError(f"{shown(str(path))} is damaged: its input has no shape. Export it again.") from cause
    if x.shape[1:] != wanted:
        raise ExportError(f"input of shape {x.shape}, legal is (N, {', '.join(map(str, wanted))}). Reshape the batch.")
    try:
        model = model.transform(ChangeBatchSize(len(x))).transform(InferShapes())
        found: dict[str, Array] = execute_onnx(model, {name: x.astype("float32")}, return_full_exec_context=True)
    except Exception as cause:
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise ExportError(f"qonnx cannot run {shown(str(path))}: {reason}. Export it again.") from cause
    return found


def _import_onnx() -> ModuleType:
    try:
        import onnx
    except ImportError as cause:
        raise MissingExtra("QONNX files need onnx: pip install 'mixbit[export]'.") from cause
    found: ModuleType = onnx
    return found
