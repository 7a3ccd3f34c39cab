"""From the exported program of a fake-quantized model to the steps of `_steps`: batch norms and ReLUs folded.

An operator that changes nothing (dropout in evaluation, a cast between floats, a full slice, an equal reshape) makes no
wire of its own: who reads its result reads the wire before it, and counts as a reader of that wire. What is written in
place makes a new wire, which all that have the old one in the same memory read from there on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from mixbit._bits import is_binary
from mixbit.errors import ExportError
from mixbit.integer._constants import by_range, constant_values, latent, layer_names, layer_of, not_finite, quantizer_of
from mixbit.integer._folding import fold
from mixbit.integer._steps import (
    Affine,
    Average,
    FakeQuantize,
    Flow,
    Function,
    Limit,
    Move,
    Multiply,
    Probabilities,
    Step,
    Sum,
    Window,
    Wire,
)
from mixbit.integer.arithmetic import Array, Grid
from mixbit.integer.graph import Padding
from mixbit.network.program import Names, Program, argument, execute, is_in_place, is_shape_only, op_name, values, words

INFINITY = float("inf")

# Any function of one element can be a table; these are the ones that need no thought.
_FUNCTIONS = words(
    "abs celu elu erf exp gelu hardsigmoid hardshrink hardswish leaky_relu log_sigmoid mish neg selu sigmoid sign silu"
    " softplus softshrink softsign square tanh tanhshrink threshold"
)
_SCALARS = words("add sub mul div rsub")
_CASTS = words("_to_copy to type_as")
_DROPOUTS = words("alpha_dropout dropout feature_alpha_dropout feature_dropout")
_NOTHING = words("alias clone contiguous detach lift_fresh")
# Elements keep their order. Other views (unfold, as_strided, diagonal, expand) do not, or repeat some.
_RESHAPES = words("_unsafe_view flatten ravel reshape reshape_as squeeze unflatten unsqueeze view view_as")
# Dimensions change their places.
_TRANSPOSES = words("adjoint mH mT moveaxis movedim permute swapaxes swapdims transpose")
# No axis among their arguments: they mean the same where the batch is folded into the first of several dimensions.
_BY_ELEMENT = (
    _CASTS
    | _DROPOUTS
    | _NOTHING
    | _RESHAPES
    | _FUNCTIONS
    | _SCALARS
    | words("batch_norm clamp clamp_max clamp_min clip fake_quantize hardtanh linear relu relu6")
)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Reader:
    """Walks a program once. Every operator is a method of its name, or an error that names its module."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._constants = constant_values(program)
        self._names = Names(program, layer_names(program))
        self._read: set[str] = set()
        self._wires: dict[fx.Node, Wire] = {}
        self._overwritten: set[fx.Node] = set()
        self._memories: dict[int, int] = {}
        self._steps: list[Step] = []
        self._float_weights: list[str] = []

    def flow(self) -> Flow:
        """All steps of the network, in order.

        Raises:
            ExportError: several inputs or outputs, or an operator that has no integer form.
        """
        source = self._only(self._program.inputs, "inputs")
        self._wires[source] = first = Wire(name="input", shape=self._shape(source), node=source, step=None)
        for node in self._program.calls:
            if node in self._program.live and not is_shape_only(node):
                wire = self._visit(node)
                if is_in_place(node):
                    self._write(node.all_input_nodes[0], wire)
                self._wires[node] = wire
        end = self._only(self._program.outputs, "outputs")
        last = self._wire(end, end)
        steps = fold(self._used(last), last, self._error, self._names)
        weights, unique = self._float_weights, self._names.unique
        return Flow(input=first, output=last, steps=steps, float_weights=weights, unique=unique)

    def _layer_name(self, name: str) -> str:
        """That name, or with a number after it where the layer is called again."""
        if name in self._read:
            return self._names.unique(name)
        self._read.add(name)
        return name

    def _only(self, nodes: tuple[fx.Node, ...], what: str) -> fx.Node:
        if len(nodes) != 1:
            raise ExportError(f"the network has {len(nodes)} {what}. Legal: one tensor in, one tensor out.")
        return nodes[0]

    def _used(self, last: Wire) -> list[Step]:
        """Steps that the output depends on, in order."""
        wanted, found = {last}, []
        for step in reversed(self._steps):
            if step.output in wanted:
                wanted.update(step.inputs)
                found.append(step)
        kept = set(found)
        for step in found:
            step.output.readers = [reader for reader in step.output.readers if reader in kept]
        return found[::-1]

    # -- wires

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return self._program.sizes.sample(next(values(node)))

    def _x(self, node: fx.Node, index: int = 0) -> Wire:
        return self._wire(node.args[index], node)

    def _wire(self, found: Any, node: fx.Node) -> Wire:
        """The wire that `node` reads as `found`."""
        if found in self._overwritten:
            raise self._error(
                node, "it reads memory that was written in place through another view. Write out of place"
            )
        if not isinstance(found, fx.Node) or found not in self._wires:
            raise self._error(node, "its input is no activation of the network, but learned, constant or a number")
        return self._wires[found]

    def _write(self, target: fx.Node, wire: Wire) -> None:
        """After a write in place: all that stood for the same values read the result, other views are out of date."""
        old, memory = self._wires[target], self._memory(target)
        for node in [node for node in self._wires if self._memory(node) == memory]:
            if self._wires[node] is old:
                self._wires[node] = wire
            else:
                self._overwritten.add(node)

    def _memory(self, node: fx.Node) -> int:
        """The memory that holds a node's values in the run that export followed."""
        found = _storage(node)
        return self._memories.get(found, found)

    def _put(self, step: Step, node: fx.Node) -> Wire:
        step.output = Wire(name=step.name, shape=self._shape(node), node=node, step=step)
        for wire in step.inputs:
            wire.readers.append(step)
        self._steps.append(step)
        return step.output

    def _error(self, node: fx.Node, why: str) -> ExportError:
        path = self._program.path(node) or "the model's own forward"
        return ExportError(f"{path}: {op_name(node)} has no integer form: {why}. {_REMEDY}")

    # -- operators

    def _visit(self, node: fx.Node) -> Wire:
        name = op_name(node)
        self._check_result(node)
        handler: Callable[[fx.Node], Wire] | None = getattr(self, f"_do_{name}", None)
        if handler is not None:
            return handler(node)
        if name in _NOTHING or name in _CASTS:
            return self._x(node)
        if name in _DROPOUTS:
            return self._dropout(node)
        if name in _RESHAPES:
            return self._reshape(node)
        if name in _TRANSPOSES:
            return self._transpose(node)
        if name in _FUNCTIONS or (name in _SCALARS and self._one_live(node)):
            return self._function(node)
        raise self._error(node, "it is not among the supported operators")

    def _check_result(self, node: fx.Node) -> None:
        """Real numbers, of the samples of the batch in their order."""
        found = list(values(node))
        if len(found) != 1:
            raise self._error(node, f"it yields {len(found)} tensors")
        if found[0].dtype not in _FLOATS:
            raise self._error(node, f"it yields {str(found[0].dtype).removeprefix('torch.')}, no real numbers")
        if not self._batch_is_first(node):
            raise self._error(node, "it mixes or moves samples")

    def _dropout(self, node: fx.Node) -> Wire:
        wire = self._x(node)
        if argument(node, 2, "train") and argument(node, 1, "p"):
            raise self._error(node, "it is active in evaluation, too. Give it training=self.training")
        # In evaluation it hands its input on, whatever the run that export followed made of it.
        self._memories[_storage(node)] = self._memory(node.all_input_nodes[0])
        return wire

    def _one_live(self, node: fx.Node) -> bool:
        """Whether all but one of the operands are numbers."""
        live = [n for n in node.all_input_nodes if n in self._program.live]
        rest = [n for n in node.all_input_nodes if n not in self._program.live]
        return (
            len(live) == 1
            and all(isinstance(self._constants.get(n), torch.Tensor) for n in rest)
            and all(self._constants[n].numel() == 1 for n in rest)
        )

    def _do_fake_quantize(self, node: fx.Node) -> Wire:
        return self._put(FakeQuantize(name=self._names.of(node), inputs=[self._x(node)], grid=self._grid(node)), node)

    def _grid(self, node: fx.Node) -> Grid:
        step, zero, low, high = (self._constants[arg].flatten() for arg in node.args[1:5])  # type: ignore[index]
        if step.numel() != 1:
            raise self._error(node, "an activation has one step size, not one a channel")
        if self._array(node, node.args[1], "the step size of its activation") <= 0:
            raise self._error(node, f"the step size of its activation is {float(step):.4g}, legal is above 0")
        return Grid(scale=float(step), zero_point=int(zero), qmin=int(low), qmax=int(high))

    # -- layers

    def _do_conv2d(self, node: fx.Node) -> Wire:
        weight = self._weight(node)
        kernel = tuple(int(k) for k in weight[0].shape[2:])
        strides, pads, dilation = (argument(node, at, name, default) for at, name, default in _CONV)
        dilation = _spread(dilation, len(kernel))
        return self._multiply(
            node,
            weight,
            Window(
                kernel=kernel,
                stride=_spread(strides, len(kernel)),
                padding=_padding(pads, kernel, dilation),
                dilation=dilation,
                groups=int(argument(node, 6, "groups", 1)),
            ),
        )

    _do_conv1d = _do_conv2d

    def _do_linear(self, node: fx.Node) -> Wire:
        return self._multiply(node, self._weight(node), None)

    def _multiply(self, node: fx.Node, weight: tuple[Array, int, Array, str], window: Window | None) -> Wire:
        integers, bits, scale, name = weight
        given = argument(node, 2, "bias")
        bias = np.zeros(len(integers)) if given is None else self._array(node, given, "its bias")
        return self._put(
            Multiply(
                name=self._layer_name(name),
                inputs=[self._x(node)],
                integers=integers,
                bits=bits,
                scale=scale,
                bias=bias,
                window=window,
                rounded=name in self._float_weights,
            ),
            node,
        )

    def _weight(self, node: fx.Node) -> tuple[Array, int, Array, str]:
        """Integers, bits, scale by output channel, and the layer's name."""
        weight = argument(node, 1, "weight")
        quantizer = quantizer_of(weight) if weight not in self._program.live else None
        if quantizer is not None:
            source = latent(weight)
            parameter = None if source is None else self._program.parameters.get(source)
            integers, bits, scale = self._quantized(node, quantizer)
        else:
            parameter = self._program.parameters.get(weight)
            integers, bits, scale = by_range(self._array(node, weight, "its weight"))
            self._float_weights.append(layer_of(parameter or ""))
        if parameter is None:
            raise self._error(node, "its weight is no parameter of a module")
        return integers, bits, scale, layer_of(parameter)

    def _quantized(self, node: fx.Node, quantizer: fx.Node) -> tuple[Array, int, Array]:
        """The integers exactly as the fake-quantize operator finds them, in float32."""
        w, step, zero, low, high = (self._constants[arg].detach() for arg in quantizer.args[:5])  # type: ignore[index]
        if bool((zero != 0).any()):
            raise self._error(node, "its weights have a zero point. Legal: symmetric weights")
        self._array(node, quantizer.args[0], "its weight")
        if not self._array(node, quantizer.args[1], "the step size of its weight").all():
            raise self._error(node, "a step size of its weight is 0")
        shaped = step.reshape(-1, *[1] * (w.dim() - 1))
        q = torch.clamp(torch.round(w.float() / shaped), float(low), float(high))
        scale = step.double().flatten().expand(len(w)).numpy()
        if is_binary(float(low), float(high)):  # -1 and 0, half a step further up: -1 and 1 of half a step
            return (2 * q + 1).to(torch.int8).cpu().numpy(), 1, np.array(scale / 2)
        return q.to(torch.int8).cpu().numpy(), int(high - low).bit_length(), np.array(scale)

    def _array(self, node: fx.Node, source: Any, what: str) -> Array:
        """A constant of an operator, which has to be finite: `what` it is stands in the error."""
        if source not in self._constants:
            raise self._error(node, f"{what} depends on the input")
        found: Array = self._constants[source].detach().cpu().double().numpy()
        if not np.isfinite(found).all():
            raise not_finite(self._program.path(node) or "the model's own forward", what, found)
        return found

    def _do_batch_norm(self, node: fx.Node) -> Wire:
        wire = self._x(node)
        if not isinstance(wire.step, Multiply | Affine):
            raise self._error(node, "it does not follow a convolution or linear layer directly, so it cannot be folded")
        self._check_statistics(node, wire)
        gamma, beta, mean, var = (
            None if arg is None else self._array(node, arg, what)
            for arg, what in zip(node.args[1:5], _STATISTICS, strict=True)
        )
        if mean is None or var is None:
            raise self._error(node, "it has no running statistics")
        spread = var + float(argument(node, 7, "eps"))
        if (spread <= 0).any():
            raise self._error(node, f"its running variance is {var.min():.4g}, legal is 0 or more")
        scale = (1.0 if gamma is None else gamma) / np.sqrt(spread)
        shift = (0.0 if beta is None else beta) - mean * scale
        return self._put(Affine(name="", inputs=[wire], scale=scale, shift=shift), node)

    def _check_statistics(self, node: fx.Node, wire: Wire) -> None:
        """That a batch norm normalises the outputs of the layer before it, and by numbers that are known."""
        if argument(node, 5, "training"):
            raise self._error(node, "it has no running statistics, but takes those of the batch")
        dims, linear = next(values(node)).dim(), isinstance(wire.step, Multiply) and wire.step.window is None
        if linear and dims != 2:
            raise self._error(
                node, f"it normalises the first dimension of {wire.shape}, the layer's outputs are the last"
            )
        if not linear and dims != next(values(wire.node)).dim():
            raise self._error(node, "batch and outputs of the layer before it were folded into one dimension")

    # -- clamps

    def _do_relu(self, node: fx.Node) -> Wire:
        return self._clamp(node, 0.0, INFINITY)

    def _do_relu6(self, node: fx.Node) -> Wire:
        return self._clamp(node, 0.0, 6.0)

    def _do_hardtanh(self, node: fx.Node) -> Wire:
        return self._clamp(node, float(argument(node, 1, "min_val", -1.0)), float(argument(node, 2, "max_val", 1.0)))

    def _do_clamp(self, node: fx.Node) -> Wire:
        low, high = argument(node, 1, "min"), argument(node, 2, "max")
        if isinstance(low, fx.Node) or isinstance(high, fx.Node):
            raise self._error(node, "its bounds are tensors")
        return self._clamp(node, -INFINITY if low is None else float(low), INFINITY if high is None else float(high))

    _do_clip = _do_clamp

    def _do_clamp_min(self, node: fx.Node) -> Wire:
        return self._clamp(node, float(argument(node, 1, "min")), INFINITY)

    def _do_clamp_max(self, node: fx.Node) -> Wire:
        return self._clamp(node, -INFINITY, float(argument(node, 1, "max")))

    def _clamp(self, node: fx.Node, low: float, high: float) -> Wire:
        step = Limit(name="", inputs=[self._x(node)])  # named if it is not folded
        step.clamp(low, high)
        return self._put(step, node)

    # -- sums, pools, functions

    def _do_add(self, node: fx.Node) -> Wire:
        if self._one_live(node):
            return self._function(node)
        a, b = self._x(node, 0), self._x(node, 1)
        if a.shape != b.shape or argument(node, 2, "alpha", 1) != 1:
            raise self._error(node, f"shapes {a.shape} and {b.shape} differ, or alpha is not 1")
        return self._put(Sum(name=self._names.of(node), inputs=[a, b]), node)

    def _do_cat(self, node: fx.Node) -> Wire:
        parts: Any = node.args[0]
        wires = [self._wire(part, node) for part in parts]
        axis = int(argument(node, 1, "dim", 0)) % len(next(values(node)).shape)
        if axis == 0:
            raise self._error(node, "it joins samples")
        return self._put(
            Move(name=self._names.of(node), inputs=wires, kind="Concat", attributes={"axis": axis - 1}), node
        )

    _do_concat = _do_concatenate = _do_cat

    def _do_avg_pool2d(self, node: fx.Node) -> Wire:
        window = self._pool(node)
        pads_count = argument(node, 5, "count_include_pad", True) or not any(map(any, window.padding))
        if argument(node, 4, "ceil_mode", False) or not pads_count or argument(node, 6, "divisor_override") is not None:
            raise self._error(node, "ceil_mode, count_include_pad=False and divisor_override are not supported")
        return self._put(Average(name=self._names.of(node), inputs=[self._x(node)], window=window), node)

    _do_avg_pool1d = _do_avg_pool2d

    def _do_adaptive_avg_pool2d(self, node: fx.Node) -> Wire:
        sizes, result = self._x(node).shape[1:], self._shape(node)[1:]
        if any(size % out for size, out in zip(sizes, result, strict=True)):
            raise self._error(node, f"its windows overlap: {sizes} to {result}")
        kernel = tuple(size // out for size, out in zip(sizes, result, strict=True))
        return self._put(Average(name=self._names.of(node), inputs=[self._x(node)], window=_tiles(kernel)), node)

    _do_adaptive_avg_pool1d = _do_adaptive_avg_pool2d

    def _do_mean(self, node: fx.Node) -> Wire:
        wire = self._x(node)
        rank = len(wire.shape) + 1
        dims = argument(node, 1, "dim") or []
        if sorted(d % rank for d in dims) != list(range(2, rank)) or rank < 3:
            raise self._error(node, f"a mean over {dims} of {rank} dimensions. Legal: over all spatial ones")
        pool = Average(name=self._names.of(node), inputs=[wire], window=_tiles(wire.shape[1:]))
        pooled = self._put(pool, node)
        pooled.shape = (wire.shape[0], *(1 for _ in wire.shape[1:]))
        if argument(node, 2, "keepdim", False):
            return pooled
        name = self._names.unique(f"{pooled.name}.reshape")
        return self._put(Move(name=name, inputs=[pooled], kind="Reshape", attributes={}), node)

    def _do_max_pool2d(self, node: fx.Node) -> Wire:
        window = self._pool(node)
        if argument(node, 5, "ceil_mode", False) or set(_spread(argument(node, 4, "dilation", 1), 1)) != {1}:
            raise self._error(node, "ceil_mode and dilation are not supported")
        taken = {"kernel": window.kernel, "stride": window.stride, "padding": window.padding}
        return self._move(node, "MaxPool", taken)

    _do_max_pool1d = _do_max_pool2d

    def _pool(self, node: fx.Node) -> Window:
        rank = len(self._x(node).shape) - 1
        kernel = _spread(argument(node, 1, "kernel_size"), rank)
        stride = _spread(argument(node, 2, "stride") or kernel, rank)
        padding = tuple((p, p) for p in _spread(argument(node, 3, "padding", 0), rank))
        return Window(kernel=kernel, stride=stride, padding=padding, dilation=(1,) * rank)

    def _do_softmax(self, node: fx.Node) -> Wire:
        dim, rank = int(argument(node, 1, "dim")), len(self._x(node).shape) + 1
        if node not in self._program.outputs or dim % rank != rank - 1:
            raise self._error(node, "a softmax is supported at the end, over the last dimension")
        return self._put(Probabilities(name=self._names.of(node), inputs=[self._x(node)]), node)

    def _function(self, node: fx.Node) -> Wire:
        source = next(n for n in node.all_input_nodes if n in self._program.live)
        wire = self._wire(source, node)
        if wire.shape != self._shape(node):
            raise self._error(node, f"it changes the shape, from {wire.shape} to {self._shape(node)}")
        numbers = {n: self._constants[n].detach().cpu().reshape(()) for n in node.all_input_nodes if n is not source}

        def call(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                found: torch.Tensor = execute(node, lambda n: x if n is source else numbers[n])
            return found

        return self._put(Function(name=self._names.of(node), inputs=[wire], function=op_name(node), call=call), node)

    # -- moves

    def _move(self, node: fx.Node, kind: str, attributes: dict[str, Any]) -> Wire:
        step = Move(name=self._names.of(node), inputs=[self._x(node)], kind=kind, attributes=attributes)
        return self._put(step, node)

    def _reshape(self, node: fx.Node) -> Wire:
        wire = self._x(node)
        if self._shape(node) == wire.shape:
            return wire
        if math.prod(self._shape(node)) != math.prod(wire.shape):
            raise self._error(node, "it mixes samples")
        return self._move(node, "Reshape", {})

    def _do_expand(self, node: fx.Node) -> Wire:
        wire = self._x(node)
        if self._shape(node) != wire.shape:
            raise self._error(node, f"it repeats elements, from {wire.shape} to {self._shape(node)}")
        return wire

    def _do_select(self, node: fx.Node) -> Wire:
        if math.prod(self._shape(node)) != math.prod(self._x(node).shape):
            raise self._error(node, "it takes one of several. Take a slice of length one and flatten it")
        return self._reshape(node)

    def _batch_is_first(self, node: fx.Node) -> bool:
        """Whether samples follow each other: `(N, ...)`, or `(N T, ...)` where no axis is counted."""
        sizes, value = self._program.sizes, next(values(node))
        if not value.dim():
            return False
        by_element = op_name(node) in _BY_ELEMENT
        if not sizes.symbols:
            first = sizes.full(value)[0]
            return first == sizes.batch or (by_element and first % sizes.batch == 0)
        if sizes.batch_dim(value) == 0:
            return True
        size: Any = value.shape[0]
        return by_element and isinstance(size, torch.SymInt) and _is_multiple(size.node.expr, sizes.symbols)

    def _transpose(self, node: fx.Node) -> Wire:
        """Every operator that moves dimensions, read off what it does to a tensor whose sizes all differ."""
        sizes = range(2, 2 + len(self._x(node).shape) + 1)
        moved: Any = node.target
        shape = moved(torch.empty(*sizes, device="meta"), *node.args[1:], **node.kwargs).shape
        order = tuple(sizes.index(size) for size in shape)
        if order[0] != 0:
            raise self._error(node, "it moves the batch dimension")
        if order == tuple(range(len(sizes))):
            return self._x(node)
        return self._move(node, "Transpose", {"order": tuple(axis - 1 for axis in order[1:])})

    def _do_slice(self, node: fx.Node) -> Wire:
        wire, axis = self._x(node), int(argument(node, 1, "dim", 0)) % (len(self._x(node).shape) + 1)
        start, stop, step = (argument(node, at, name, default) for at, name, default in _SLICE)
        if axis == 0:
            if start or (isinstance(stop, int) and stop < 2**31) or step != 1:
                raise self._error(node, "it selects samples")
            return wire
        size = wire.shape[axis - 1]
        cut = slice(start, stop, step).indices(size)
        if cut == (0, size, 1):
            return wire
        cuts = [(0, n, 1) for n in wire.shape]
        cuts[axis - 1] = cut
        starts, stops, steps = zip(*cuts, strict=True)
        return self._move(node, "Slice", {"start": starts, "stop": stops, "step": steps})

    def _do_pad(self, node: fx.Node) -> Wire:
        if argument(node, 2, "mode", "constant") != "constant":
            raise self._error(node, "it pads with something other than zeros")
        return self._pad(node, argument(node, 3, "value"))

    def _do_constant_pad_nd(self, node: fx.Node) -> Wire:
        return self._pad(node, argument(node, 2, "value", 0))

    def _pad(self, node: fx.Node, value: Any) -> Wire:
        flat = [int(p) for p in argument(node, 1, "pad")]
        if value or min(flat) < 0:
            raise self._error(node, "it pads with something other than zeros, or crops")
        pairs = [(flat[at], flat[at + 1]) for at in range(0, len(flat), 2)][::-1]
        rank = len(self._x(node).shape)
        if len(pairs) > rank:
            raise self._error(node, "it pads the batch")
        return self._move(node, "Pad", {"padding": ((0, 0),) * (rank - len(pairs)) + tuple(pairs)})


_STATISTICS = ("its weight", "its bias", "its running mean", "its running variance")
_CONV = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
_SLICE = ((2, "start", None), (3, "end", None), (4, "step", 1))
_REMEDY = (
    "Supported: convolution, linear, add, concat, max, average and global pooling, ReLU, ReLU6, functions of one "
    "element, flatten, reshape, transpose, slice, zero padding, and softmax at the end."
)


def _is_multiple(size: Any, symbols: frozenset[Any]) -> bool:
    """Whether a size is a whole number of batches."""
    free = size.free_symbols
    return len(free) == 1 and free <= symbols and (size / next(iter(free))).is_Integer


def _storage(node: fx.Node) -> int:
    return int(next(values(node)).untyped_storage()._cdata)


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    """One number for all dimensions, or one each."""
    found = tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
    return found * rank if len(found) == 1 else found


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Padding:
    if value == "valid":
        value = 0
    if value == "same":
        reach = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return tuple((r // 2, r - r // 2) for r in reach)
    return tuple((p, p) for p in _spread(value, len(kernel)))


def _tiles(kernel: tuple[int, ...]) -> Window:
    """Windows side by side."""
    rank = len(kernel)
    return Window(kernel=kernel, stride=kernel, padding=((0, 0),) * rank, dilation=(1,) * rank)
