"""The integer graph: what lowering makes, what the reference executor runs, and what every printer prints.

Tensors are named; shapes are those of one sample, without the batch, channels first. Integers are those of the
quantizers: a signed 4-bit tensor holds -8 to 7 and an unsigned one 0 to 15, and every printer chooses the container.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from mixbit.errors import ExportError, MixbitError
from mixbit.integer.arithmetic import ROUNDINGS, Array, Grid, Rounding

__all__ = [
    "GRAPH_ROUNDINGS",
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "GraphRounding",
    "IntegerGraph",
    "Linear",
    "Lookup",
    "MaxPool",
    "Note",
    "Op",
    "Pad",
    "QuantizeInput",
    "Requantize",
    "Reshape",
    "Slice",
    "Softmax",
    "Tensor",
    "Transpose",
    "Weighted",
    "rounding_of",
]

Bounds: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[tuple[int, int], ...]
Source: TypeAlias = Literal["trained", "calibrated", "float"]
Kind: TypeAlias = Literal[
    "calibrated", "widened", "dead channels", "dead input", "coarse channels", "requantized", "not compared"
]
GraphRounding: TypeAlias = Rounding | Literal["litert"]
GRAPH_ROUNDINGS: tuple[GraphRounding, ...] = (*ROUNDINGS, "litert")
"""How a whole graph rounds: all operations alike, or each as LiteRT does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An activation tensor: its shape, and its grid where it is integers."""

    name: str
    shape: tuple[int, ...]
    """Shape of one sample: `(C, H, W)`, `(C, L)` or `(features,)`."""
    grid: Grid | None
    """None is float32: the input before it is quantized, and the output."""
    source: Source
    """Who chose the grid: a quantizer of the trained network, or calibration."""

    @property
    def numel(self) -> int:
        """Elements of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Op:
    """One operation; `name` is the path of the module that it came from, made unique."""

    kind: ClassVar[str]
    name: str
    inputs: tuple[str, ...]
    output: str

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__

    @property
    def x(self) -> str:
        """Name of the first input."""
        return self.inputs[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizeInput(_Op):
    """Float input to integers: `clamp(round(x / scale) + zero_point)`, ties to even, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighted(_Op):
    """What `Conv` and `Linear` share: `acc = 2^shift sum w (x - x_zero) + bias`, then a change of scale by channel.

    With `unit = x_scale * weight_scale / 2^shift`, one step of the accumulator:
    `y = clamp(change_scale(acc, unit / y_scale) + y_zero)`; a float32 output is `acc * unit` instead.

    At few bits the products are coarse: one step of a 2-bit weight times a 3-bit input can be ten steps of the output,
    and a bias rounded to it would be wrong by as much. The shift gives the bias the digits that it needs; a runtime
    whose containers hold 8 bits shifts the weights instead of the sum.
    """

    weight: Array
    """int8, `(out, in / groups, *kernel)` or `(out, in)`; two's complement integers of `weight_bits`, -1 and 1 at 1."""
    weight_bits: int
    weight_scale: Array
    """float32 `(out,)`. Negative where a folded batch norm turns a channel's sign."""
    bias: Array
    """int32 `(out,)`, in steps of the accumulator."""
    shift: int
    """0 to 6; the shifted weights fit into int8."""
    clamp: Bounds | None
    """Bounds of the result that are tighter than its grid (ReLU, ReLU6); None takes the grid's."""
    rounding: Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv(Weighted):
    """Convolution over one or two spatial dimensions; padding taps hold the input's zero point."""

    stride: tuple[int, ...]
    padding: Padding
    """(before, after) of each spatial dimension."""
    dilation: tuple[int, ...]
    groups: int

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel of several."""
        return self.groups > 1 and self.weight.shape[1] == 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear(Weighted):
    """Linear layer over the last dimension."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Add(_Op):
    """Sum of two tensors of one shape."""

    clamp: Bounds | None
    rounding: Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requantize(_Op):
    """The same real numbers on another grid: `clamp(change_scale(x - x_zero, x_scale / y_scale) + y_zero)`."""

    clamp: Bounds | None
    rounding: Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaxPool(_Op):
    """Largest integer of a window; grid of the input. Padding never wins."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AveragePool(_Op):
    """Mean of a window of `n` taps: `change_scale(sum (x - x_zero), x_scale / (n y_scale))`; padding counts as zero.

    A global pool has the kernel of the whole map.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    clamp: Bounds | None
    rounding: Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lookup(_Op):
    """Any function of one element: `y = table[x - x_qmin]`."""

    function: str
    """Its name, e.g. hardswish."""
    table: Array
    """int32, one entry an integer of the input's range."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Concat(_Op):
    """Tensors of one grid, one after the other."""

    axis: int
    """Axis of one sample: 0 is the channels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reshape(_Op):
    """Another shape for the same elements, that of the output tensor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transpose(_Op):
    """Other order of the dimensions of one sample."""

    order: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice(_Op):
    """Every `step`-th element from `start` to before `stop`, along each dimension of one sample."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pad(_Op):
    """Real zeros (the zero point) around a tensor; a (before, after) for each dimension of one sample."""

    padding: Padding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Softmax(_Op):
    """Softmax over the last dimension of the float32 output."""


Op: TypeAlias = (
    QuantizeInput
    | Conv
    | Linear
    | Add
    | Requantize
    | MaxPool
    | AveragePool
    | Lookup
    | Concat
    | Reshape
    | Transpose
    | Slice
    | Pad
    | Softmax
)


def rounding_of(kind: type[_Op], rounding: GraphRounding) -> Rounding:
    """How an operation rounds where the graph rounds as `rounding` says.

    LiteRT's reference kernels round twice in convolutions, additions, pools and changes of grid, and once, ties away
    from zero, in linear layers (measured with its int8 kernels, version 2.3.0).

    >>> rounding_of(Conv, "litert"), rounding_of(Linear, "litert"), rounding_of(Linear, "single")
    ('double', 'away', 'single')
    """
    if rounding != "litert":
        return rounding
    return "away" if issubclass(kind, Linear) else "double"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that the user should know of a tensor or layer: calibrated, widened, dead, coarse."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerGraph:
    """A network in integers, in order of execution."""

    input: str
    """Name of the float32 input tensor."""
    output: str
    """Name of the float32 output tensor."""
    tensors: dict[str, Tensor]
    ops: tuple[Op, ...]
    fingerprint: str
    """Fingerprint of the captured network, see `mixbit.network.Network.fingerprint`."""
    notes: tuple[Note, ...] = field(default=())

    def __post_init__(self) -> None:
        made = {self.input}
        for op in self.ops:
            unknown = [name for name in op.inputs if name not in made]
            if unknown or op.output in made or op.output not in self.tensors:
                what = f"reads {unknown[0]!r} before it is made" if unknown else f"makes {op.output!r} twice or unnamed"
                raise ExportError(f"{op.name}: {op.kind} {what}. Legal: every tensor has one name and one maker.")
            made.add(op.output)
        twice = [name for name, count in Counter(op.name for op in self.ops).items() if count > 1]
        if twice:
            raise ExportError(f"{twice[0]}: several operations have that name. Legal: a name of its own for each.")

    def weighted(self) -> tuple[Weighted, ...]:
        """Convolutions and linear layers, in order."""
        return tuple(op for op in self.ops if isinstance(op, Weighted))

    def grid(self, name: str) -> Grid:
        """Grid of a quantized tensor.

        Raises:
            MixbitError: there is no such tensor, or it is float32.
        """
        found = self.tensors.get(name)
        if found is None or found.grid is None:
            raise MixbitError(f"tensor {name!r} is {'unknown' if found is None else 'float32'}: it has no grid.")
        return found.grid

    def unit(self, op: Weighted) -> Array:
        """One step of a layer's accumulator by channel, float64 `(out,)`: `x_scale * weight_scale / 2^shift`."""
        found: Array = self.grid(op.x).scale * op.weight_scale.astype(np.float64) / 2**op.shift
        return found

    @property
    def weight_bits(self) -> int:
        """Sum over layers of weights times bits, of a layer that is called again once; biases are not in it."""
        again = self.called_again()
        return sum(op.weight.size * op.weight_bits for op in self.weighted() if op.output not in again)

    def called_again(self) -> dict[str, str]:
        """Output of each layer whose weights an earlier one has already -> that layer's name: files hold them once."""
        first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        found: dict[str, str] = {}
        for op in self.weighted():
            key = op.weight_bits, op.weight.shape, op.weight.tobytes()
            if key in first:
                found[op.output] = first[key]
            first.setdefault(key, op.name)
        return found

    def readers(self, name: str) -> tuple[Op, ...]:
        """Operations that read a tensor."""
        return tuple(op for op in self.ops if name in op.inputs)
