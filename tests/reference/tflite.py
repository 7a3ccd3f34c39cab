"""int8 .tflite files as integer graphs, and what LiteRT's reference kernels make of them: an oracle, no feature.

Activations of a file are (1, H, W, C); those of the graph have the channels first. A softmax at the end is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid, dequantize
from mixbit.integer.graph import GraphRounding, IntegerGraph, rounding_of

INTEGERS = {"INT8": (-128, 127), "UINT8": (0, 255)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A file as an integer graph."""

    graph: IntegerGraph
    indices: dict[str, int]
    """Tensor of the graph that the file has, too -> its index there."""
    input: str
    """The quantized input."""

    def real(self, integers: Array) -> Array:
        """Integers `(N, C, H, W)` of the input as the float32 that the graph reads; they are found again exactly."""
        return dequantize(integers.astype(np.int64), self.graph.grid(self.input))

    def random(self, count: int, seed: int = 0) -> Array:
        """Integers of the input, all equally likely."""
        grid, shape = self.graph.grid(self.input), self.graph.tensors[self.input].shape
        return np.random.default_rng(seed).integers(grid.qmin, grid.qmax + 1, (count, *shape))


def read(content: Path | bytes, rounding: GraphRounding = "litert") -> Imported:
    """The integer graph of a file, from its input to the tensor before the softmax.

    The output is that tensor as float32.
    """
    from ai_edge_litert import schema_py_generated as schema

    raw = content if isinstance(content, bytes) else content.read_bytes()
    return _Reader(schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0)), schema, rounding).imported()


def interpret(content: Path | bytes, integers: Array, imported: Imported) -> dict[str, Array]:
    """Every tensor of the graph that the file has, too, for integers `(N, C, H, W)`; by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    machine = Interpreter(
        model_content=content if isinstance(content, bytes) else content.read_bytes(),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    machine.allocate_tensors()
    (entry,) = machine.get_input_details()
    found: dict[str, list[Array]] = {name: [] for name in imported.indices}
    for one in integers:
        machine.set_tensor(entry["index"], _channels_last(one)[None].astype(entry["dtype"]))
        machine.invoke()
        for name, index in imported.indices.items():
            found[name].append(_channels_first(machine.get_tensor(index)[0]).astype(np.int32))
    return {name: np.stack(values) for name, values in found.items()}


def outputs(content: bytes, *inputs: Array) -> Array:
    """What LiteRT makes of the inputs of a file, in the file's own shapes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    machine = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    machine.allocate_tensors()
    for entry, values in zip(machine.get_input_details(), inputs, strict=True):
        machine.set_tensor(entry["index"], values.reshape(entry["shape"]).astype(np.int8))
    machine.invoke()
    found: Array = machine.get_tensor(machine.get_output_details()[0]["index"]).astype(np.int64)
    return found


def _channels_first(x: Array) -> Array:
    return np.moveaxis(x, -1, 0) if x.ndim > 1 else x


def _channels_last(x: Array) -> Array:
    return np.moveaxis(x, 0, -1) if x.ndim > 1 else x


@dataclass(slots=True)
class _Reader:
    """Operators to operations, one by one."""

    model: Any
    schema: Any
    rounding: GraphRounding
    tensors: dict[str, g.Tensor] = field(default_factory=dict)
    ops: list[g.Op] = field(default_factory=list)

    def imported(self) -> Imported:
        """The whole."""
        (source,) = self.file.inputs
        first = self.tensor(source)
        self.tensors["input"] = g.Tensor(name="input", shape=self.tensors[first].shape, grid=None, source="float")
        self.ops.append(g.QuantizeInput(name="input", inputs=("input",), output=first))
        last = first
        for operator in self.file.operators:
            kind = self.kind(operator)
            if kind == "SOFTMAX":
                break
            _READ[kind](self, operator)
            last = self.name(operator.outputs[0])
        self.dequantize(last)
        graph = IntegerGraph(
            input="input",
            output="output",
            tensors=self.tensors,
            ops=tuple(self.ops),
            fingerprint="tflite",
        )
        indices = {name: int(name[1:]) for name in self.tensors if name[1:].isdigit()}
        return Imported(graph=graph, indices=indices, input=first)

    # -- what the file says

    @property
    def file(self) -> Any:
        return self.model.subgraphs[0]

    def kind(self, operator: Any) -> str:
        """Name of an operator, e.g. CONV_2D."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        names = {value: name for name, value in vars(self.schema.BuiltinOperator).items() if isinstance(value, int)}
        return names[number]

    def constant(self, index: int, dtype: type) -> Array:
        """Values of a tensor that is in the file."""
        tensor = self.file.tensors[index]
        raw = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8).tobytes()
        return np.frombuffer(raw, dtype).reshape(tensor.shape)

    def shape(self, index: int) -> tuple[int, ...]:
        """Of one sample, channels first."""
        _, *rest = (int(size) for size in self.file.tensors[index].shape)
        return (rest[-1], *rest[:-1])

    def grid(self, index: int) -> Grid:
        """Scale, zero point and range of a tensor."""
        tensor = self.file.tensors[index]
        types = {value: name for name, value in vars(self.schema.TensorType).items() if isinstance(value, int)}
        low, high = INTEGERS[types[tensor.type]]
        quantization = tensor.quantization
        return Grid(
            scale=float(np.float32(quantization.scale[0])),
            zero_point=int(quantization.zeroPoint[0]),
            qmin=low,
            qmax=high,
        )

    def name(self, index: int) -> str:
        """Of a tensor in the graph."""
        return f"t{index}"

    def tensor(self, index: int) -> str:
        """An activation of the file as one of the graph."""
        name = self.name(index)
        shape = self.shape(index)
        self.tensors[name] = g.Tensor(name=name, shape=shape, grid=self.grid(index), source="trained")
        return name

    def common(self, operator: Any) -> dict[str, Any]:
        """Name, first input and output of an operation."""
        output = self.tensor(operator.outputs[0])
        return {"name": f"{len(self.ops)}", "inputs": (self.name(operator.inputs[0]),), "output": output}

    def clamp(self, operator: Any) -> g.Bounds | None:
        """Bounds of the fused activation on the grid of the result."""
        grid = self.grid(operator.outputs[0])
        names = {value: name for name, value in vars(self.schema.ActivationFunctionType).items() if name.isupper()}
        low, high = _ACTIVATIONS[names[operator.builtinOptions.fusedActivationFunction]]
        ends = [
            grid.zero_point + int(np.floor(np.float32(bound) / np.float32(grid.scale) + np.float32(0.5)))
            if np.isfinite(bound)
            else None
            for bound in (low, high)
        ]
        bounds = (
            grid.qmin if ends[0] is None else max(grid.qmin, ends[0]),
            grid.qmax if ends[1] is None else min(grid.qmax, ends[1]),
        )
        return None if bounds == (grid.qmin, grid.qmax) else bounds

    def rounded(self, kind: type[Any]) -> dict[str, Any]:
        return {"rounding": rounding_of(kind, self.rounding)}

    # -- one method a kind of operator

    def weighted(self, operator: Any, kind: type[Any], weight: Array) -> dict[str, Any]:
        """What convolutions and linear layers share."""
        quantization = self.file.tensors[operator.inputs[1]].quantization
        assert not np.any(quantization.zeroPoint), "weights with a zero point"
        outputs = len(weight)
        bias = np.zeros(outputs, np.int32)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self.constant(operator.inputs[2], np.int32)
        scale = np.broadcast_to(np.asarray(quantization.scale, np.float32), (outputs,)).copy()
        settings = {"weight": weight, "weight_bits": 8, "weight_scale": scale, "bias": bias, "shift": 0}
        return {**self.common(operator), **settings, "clamp": self.clamp(operator), **self.rounded(kind)}

    def conv(self, operator: Any) -> None:
        weight = np.moveaxis(self.constant(operator.inputs[1], np.int8), -1, 1)  # (O, H, W, I)
        self.convolution(operator, weight, 1)

    def depthwise(self, operator: Any) -> None:
        weight = np.moveaxis(self.constant(operator.inputs[1], np.int8), -1, 0)  # (1, H, W, O)
        self.convolution(operator, weight, self.shape(operator.inputs[0])[0])

    def convolution(self, operator: Any, weight: Array, groups: int) -> None:
        options = operator.builtinOptions
        dilation = (options.dilationHFactor or 1, options.dilationWFactor or 1)
        stride, padding = self.window(operator, weight.shape[2:], dilation)
        settings = self.weighted(operator, g.Conv, np.ascontiguousarray(weight))
        self.ops.append(g.Conv(**settings, stride=stride, padding=padding, dilation=dilation, groups=groups))

    def window(
        self, operator: Any, kernel: tuple[int, ...], dilation: tuple[int, int] = (1, 1)
    ) -> tuple[tuple[int, int], g.Padding]:
        """Stride, and padding: SAME puts the odd tap behind."""
        options = operator.builtinOptions
        stride = (int(options.strideH), int(options.strideW))
        if options.padding == self.schema.Padding.VALID:
            return stride, ((0, 0), (0, 0))
        sizes = zip(self.shape(operator.inputs[0])[1:], kernel, stride, dilation, strict=True)
        totals = [max((-(-size // by) - 1) * by + (k - 1) * apart + 1 - size, 0) for size, k, by, apart in sizes]
        return stride, tuple((total // 2, total - total // 2) for total in totals)

    def linear(self, operator: Any) -> None:
        weight = self.constant(operator.inputs[1], np.int8)
        self.ops.append(g.Linear(**self.weighted(operator, g.Linear, weight)))

    def add(self, operator: Any) -> None:
        settings = self.common(operator)
        settings["inputs"] = tuple(self.name(index) for index in operator.inputs)
        self.ops.append(g.Add(**settings, clamp=self.clamp(operator), **self.rounded(g.Add)))

    def average_pool(self, operator: Any) -> None:
        options = operator.builtinOptions
        kernel = (int(options.filterHeight), int(options.filterWidth))
        stride, padding = self.window(operator, kernel)
        assert not np.any(padding), "LiteRT leaves taps outside of the map out of the count"
        settings = {"kernel": kernel, "stride": stride, "padding": padding, "clamp": self.clamp(operator)}
        self.ops.append(g.AveragePool(**self.common(operator), **settings, **self.rounded(g.AveragePool)))

    def mean(self, operator: Any) -> None:
        """Over height and width."""
        axes = self.constant(operator.inputs[1], np.int32)
        ends = [self.grid(index) for index in (operator.inputs[0], operator.outputs[0])]
        assert sorted(axes.tolist()) == [1, 2] and operator.builtinOptions.keepDims
        assert ends[0] != ends[1], "between equal grids the graph has the rounding of an average pool"
        kernel = self.shape(operator.inputs[0])[1:]
        settings: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": ((0, 0), (0, 0)), "clamp": None}
        self.ops.append(g.AveragePool(**self.common(operator), **settings, **self.rounded(g.AveragePool)))

    def quantize(self, operator: Any) -> None:
        self.ops.append(g.Requantize(**self.common(operator), clamp=None, **self.rounded(g.Requantize)))

    def reshape(self, operator: Any) -> None:
        """In a file the channels are last, so a map of several places is turned first."""
        settings = self.common(operator)
        x = self.tensors[settings["inputs"][0]]
        if len(x.shape) > 1 and x.numel > x.shape[0]:
            turned = f"{x.name} turned"
            order = (*range(1, len(x.shape)), 0)
            shape = tuple(x.shape[axis] for axis in order)
            self.tensors[turned] = g.Tensor(name=turned, shape=shape, grid=x.grid, source="trained")
            self.ops.append(g.Transpose(name=turned, inputs=(x.name,), output=turned, order=order))
            settings |= {"inputs": (turned,), "name": f"{len(self.ops)}"}
        self.ops.append(g.Reshape(**settings))

    def dequantize(self, last: str) -> None:
        """The output as float32: a weight of 1 a channel, whose accumulators are the integers less the zero point."""
        x = self.tensors[last]
        features = x.numel
        self.tensors["column"] = g.Tensor(name="column", shape=(features, 1), grid=x.grid, source="trained")
        self.ops.append(g.Reshape(name="column", inputs=(last,), output="column"))
        self.tensors["output"] = g.Tensor(name="output", shape=(features, 1), grid=None, source="float")
        ones = np.ones((features, 1, 1), np.int8)
        scale, bias = np.ones(features, np.float32), np.zeros(features, np.int32)
        window: dict[str, Any] = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": features}
        given: dict[str, Any] = {"weight_scale": scale, "bias": bias, "shift": 0, "clamp": None, "rounding": "single"}
        ends: dict[str, Any] = {"name": "output", "inputs": ("column",), "output": "output"}
        self.ops.append(g.Conv(**ends, weight=ones, weight_bits=2, **given, **window))


_ACTIVATIONS = {
    "NONE": (-np.inf, np.inf),
    "RELU": (0.0, np.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}
_READ: dict[str, Callable[[_Reader, Any], None]] = {
    "CONV_2D": _Reader.conv,
    "DEPTHWISE_CONV_2D": _Reader.depthwise,
    "FULLY_CONNECTED": _Reader.linear,
    "ADD": _Reader.add,
    "AVERAGE_POOL_2D": _Reader.average_pool,
    "MEAN": _Reader.mean,
    "QUANTIZE": _Reader.quantize,
    "RESHAPE": _Reader.reshape,
}


# ------------------------------------------------------------------------------------------------ files of one operator


def constant(values: Array, scale: Array | float | None = None, axis: int = 0) -> dict[str, Any]:
    """A tensor of a file that `one_operator` makes: int8 or int32 values, with scales by channel or one."""
    return {"values": values, "shape": values.shape, "scale": scale, "axis": axis, "zero_point": 0}


def one_operator(
    kind: str, options: str, settings: dict[str, Any], inputs: list[dict[str, Any]], output: dict[str, Any]
) -> bytes:
    """A .tflite file of one operator.

    Args:
        kind: e.g. CONV_2D.
        options: name of its table of options, e.g. Conv2DOptions.
        settings: field of that table -> value.
        inputs: `constant(...)`, or shape, scale and zero_point of an int8 activation; the first is the input.
        output: shape, scale and zero_point.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, file, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = _VERSIONS[kind]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [file], [schema.BufferT()]
    file.tensors = [_tensor(schema, model, one) for one in (*inputs, output)]
    file.inputs, file.outputs = [at for at, one in enumerate(inputs) if "values" not in one], [len(inputs)]
    operator.inputs, operator.outputs = list(range(len(inputs))), [len(inputs)]
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, f"{options}T")()
    for name, value in settings.items():
        setattr(operator.builtinOptions, name, value)
    file.operators = [operator]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "MEAN": 2,
    "QUANTIZE": 2,
}


def _tensor(schema: Any, model: Any, given: dict[str, Any]) -> Any:
    tensor, values = schema.TensorT(), given.get("values")
    tensor.name, tensor.shape, tensor.buffer = b"x", list(given["shape"]), 0
    tensor.type = schema.TensorType.INT32 if values is not None and values.dtype == np.int32 else schema.TensorType.INT8
    if given["scale"] is not None:
        scales = np.atleast_1d(np.asarray(given["scale"], np.float32))
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales.tolist()
        tensor.quantization.zeroPoint = [given["zero_point"]] * len(scales)
        tensor.quantization.quantizedDimension = given.get("axis", 0)
    if values is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    return tensor
