"""Integer graphs built by hand and at random, so that tests of executor and printers need no model and no training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid, Rounding, dequantize
from mixbit.integer.executor import accumulate, apply

FINGERPRINT = "sha256:0123456789abcdef"


def grid(bits: int, *, signed: bool = False, scale: float = 0.1, zero_point: int = 0) -> Grid:
    """The full range of `bits`, as the quantizers have it."""
    qmin = -(2 ** (bits - 1)) if signed else 0
    return Grid(scale=float(np.float32(scale)), zero_point=zero_point, qmin=qmin, qmax=qmin + 2**bits - 1)


def each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for each dimension: the same for all, or as they are."""
    return (value,) * count if isinstance(value, int) else tuple(value)


def _pairs(padding: int | g.Padding, count: int) -> g.Padding:
    """Before and after each dimension."""
    return ((padding, padding),) * count if isinstance(padding, int) else padding


class Builder:
    """Adds operations one by one, and gives each output a grid that suits what it sees on a few random samples.

    Methods return the name of the new tensor. `bits`, `signed` and `zero_point` are those of its grid; without a zero
    point a signed grid is symmetric.
    """

    def __init__(
        self, shape: Sequence[int], *, bits: int = 8, signed: bool = True, zero_point: int = 0, seed: int = 0
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.rounding: Rounding = "float32"
        self.wide = False
        self.least_scale = 1e-3  # of results that are all but zero
        self.samples = self.random.standard_normal((2, *shape)).astype(np.float32)
        self.tensors = {"x": g.Tensor(name="x", shape=tuple(shape), grid=None, source="float")}
        self.values: dict[str, Array] = {"x": self.samples}
        self.ops: list[g.Op] = []
        first = self._fit(self.samples, bits, signed, zero_point)
        self.first = self._push(g.QuantizeInput(name="quantize", inputs=("x",), output="xq"), first)

    # ------------------------------------------------------------------------------------------- weighted

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int | Sequence[int] = 3,
        *,
        weight_bits: int = 4,
        stride: int | Sequence[int] = 1,
        padding: int | g.Padding | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        clamp: g.Bounds | None = None,
        weight: Array | None = None,
        shift: int = 0,
        **of_grid: Any,
    ) -> str:
        """Padding is that which keeps the size, unless told otherwise."""
        spatial = len(self.tensors[x].shape) - 1
        size, strides, apart = (each(value, spatial) for value in (kernel, stride, dilation))
        if padding is None:
            padding = tuple(((k - 1) * by // 2, k * by // 2 if k > 1 else 0) for k, by in zip(size, apart, strict=True))
        pairs = _pairs(padding, spatial)
        shape = (channels, self.tensors[x].shape[0] // groups, *size)
        return self._weighted(
            lambda **rest: g.Conv(**rest, stride=strides, padding=pairs, dilation=apart, groups=groups),
            x,
            shape,
            weight_bits,
            clamp,
            weight,
            shift,
            of_grid,
        )

    def linear(
        self,
        x: str,
        features: int,
        *,
        weight_bits: int = 4,
        clamp: g.Bounds | None = None,
        weight: Array | None = None,
        shift: int = 0,
        **of_grid: Any,
    ) -> str:
        """`bits=None` gives a float32 output."""
        shape = (features, self.tensors[x].shape[-1])
        return self._weighted(lambda **rest: g.Linear(**rest), x, shape, weight_bits, clamp, weight, shift, of_grid)

    def _weighted(
        self,
        make: Any,
        x: str,
        shape: tuple[int, ...],
        bits: int,
        clamp: g.Bounds | None,
        weight: Array | None,
        shift: int,
        of_grid: dict[str, Any],
    ) -> str:
        if weight is None and bits == 1:
            weight = self.random.choice([-1, 1], shape)
        elif weight is None:
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
            weight = self.random.integers(low, high, shape)
        scales = self.random.uniform(0.005, 0.02, shape[0]).astype(np.float32)
        if len(scales) > 2:  # as a batch norm with a negative factor leaves it, and a channel that is its bias
            scales[0] *= -1
        if len(scales) > 2 and bits > 1:
            weight = np.concatenate([weight[:-1], np.zeros_like(weight[-1:])])
        reach = np.abs(weight).sum(axis=tuple(range(1, weight.ndim)))
        bias = np.rint(self.random.normal(0, 1, shape[0]) * reach).astype(np.int32)
        name = self._name()
        op: g.Weighted = make(
            name=name,
            inputs=(x,),
            output=name + "_out",
            weight=weight.astype(np.int8),
            weight_bits=bits,
            weight_scale=scales,
            bias=bias << shift,
            shift=shift,
            clamp=clamp,
            rounding=self.rounding,
        )
        acc = accumulate(self._graph(x), op, self.values[x])
        real = acc * self._along(self._graph(x).unit(op), op, acc.ndim)
        return self._push(op, self._output(real, **of_grid))

    @staticmethod
    def _along(scales: Array, op: g.Weighted, dimensions: int) -> Array:
        return scales if isinstance(op, g.Linear) else scales.reshape(-1, *[1] * (dimensions - 2))

    # ------------------------------------------------------------------------------------------ arithmetic

    def add(self, a: str, b: str, *, clamp: g.Bounds | None = None, **of_grid: Any) -> str:
        total = self.real(a) + self.real(b)
        name = self._name()
        op = g.Add(name=name, inputs=(a, b), output=name + "_out", clamp=clamp, rounding=self.rounding)
        return self._push(op, self._output(total, **of_grid))

    def requantize(self, x: str, *, clamp: g.Bounds | None = None, **of_grid: Any) -> str:
        name = self._name()
        op = g.Requantize(name=name, inputs=(x,), output=name + "_out", clamp=clamp, rounding=self.rounding)
        return self._push(op, self._output(self.real(x), **of_grid))

    def average_pool(
        self,
        x: str,
        kernel: int | Sequence[int] | None = None,
        *,
        stride: int | Sequence[int] | None = None,
        padding: int | g.Padding = 0,
        **of_grid: Any,
    ) -> str:
        """Without a kernel it is global."""
        spatial = len(self.tensors[x].shape) - 1
        size = self.tensors[x].shape[1:] if kernel is None else each(kernel, spatial)
        name = self._name()
        op = g.AveragePool(
            name=name,
            inputs=(x,),
            output=name + "_out",
            kernel=size,
            stride=size if stride is None else each(stride, spatial),
            padding=_pairs(padding, spatial),
            clamp=None,
            rounding=self.rounding,
        )
        real = self.real(x)
        return self._push(op, self._output(real.mean(axis=tuple(range(2, real.ndim)), keepdims=True), **of_grid))

    def lookup(self, x: str, **of_grid: Any) -> str:
        """Hardswish."""
        found = self._grid(x)
        real = dequantize(np.arange(found.qmin, found.qmax + 1), found)
        values = real * np.clip(real + 3, 0, 6) / 6
        result = self._output(values, **of_grid)
        assert result is not None
        table = np.clip(np.rint(values / result.scale) + result.zero_point, result.qmin, result.qmax).astype(np.int32)
        name = self._name()
        op = g.Lookup(name=name, inputs=(x,), output=name + "_out", function="hardswish", table=table)
        return self._push(op, result)

    # ---------------------------------------------------------------------------------------- data movement

    def max_pool(
        self,
        x: str,
        kernel: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 2,
        padding: int | g.Padding = 1,
    ) -> str:
        spatial = len(self.tensors[x].shape) - 1
        return self._same(
            g.MaxPool,
            x,
            kernel=each(kernel, spatial),
            stride=each(stride, spatial),
            padding=_pairs(padding, spatial),
        )

    def pad(self, x: str, padding: g.Padding) -> str:
        return self._same(g.Pad, x, padding=padding)

    def cut(self, x: str, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> str:
        return self._same(g.Slice, x, start=tuple(start), stop=tuple(stop), step=tuple(step))

    def transpose(self, x: str, order: Sequence[int]) -> str:
        return self._same(g.Transpose, x, order=tuple(order))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        name = self._name()
        op = g.Reshape(name=name, inputs=(x,), output=name + "_out")
        self.tensors[op.output] = g.Tensor(name=op.output, shape=tuple(shape), grid=self._grid(x), source="calibrated")
        return self._push(op, self._grid(x))

    def flatten(self, x: str) -> str:
        return self.reshape(x, (self.tensors[x].numel,))

    def concat(self, *xs: str, axis: int = 0) -> str:
        name = self._name()
        op = g.Concat(name=name, inputs=xs, output=name + "_out", axis=axis)
        return self._push(op, self._grid(xs[0]))

    def softmax(self, x: str) -> str:
        name = self._name()
        return self._push(g.Softmax(name=name, inputs=(x,), output=name + "_out"), None)

    def _same(self, kind: Any, x: str, **settings: Any) -> str:
        name = self._name()
        return self._push(kind(name=name, inputs=(x,), output=name + "_out", **settings), self._grid(x))

    # ---------------------------------------------------------------------------------------------- inside

    def finish(self, output: str) -> g.IntegerGraph:
        """The graph, which must end in float32."""
        return self._graph(output)

    def real(self, x: str) -> Array:
        """What the integers of the samples stand for."""
        return dequantize(self.values[x], self._grid(x))

    def _output(
        self,
        real: Array,
        *,
        bits: int | None = 8,
        signed: bool = False,
        zero_point: int = 0,
        scale: float | None = None,
    ) -> Grid | None:
        if bits is None:
            return None
        found = self._fit(real, bits, signed, zero_point)
        return found if scale is None else grid(bits, signed=signed, zero_point=zero_point, scale=scale)

    def _fit(self, real: Array, bits: int, signed: bool, zero_point: int) -> Grid:
        """A step at which about one in a hundred values saturates, so that both clamps have something to do."""
        empty = grid(bits, signed=signed, zero_point=zero_point)
        low, high = np.quantile(real, [0.01, 0.99])
        steps = [
            end / (bound - zero_point) for end, bound in ((low, empty.qmin), (high, empty.qmax)) if bound != zero_point
        ]
        scale = max([*steps, self.least_scale])
        return grid(bits, signed=signed, zero_point=zero_point, scale=scale)

    def _push(self, op: g.Op, of: Grid | None) -> str:
        known = self.tensors.get(op.output)
        self.tensors[op.output] = known or g.Tensor(name=op.output, shape=(), grid=of, source="calibrated")
        graph = self._graph(op.output)
        value = apply(graph, op, *(self.values[name] for name in op.inputs))
        source: g.Source = "float" if of is None else "calibrated"
        self.tensors[op.output] = g.Tensor(name=op.output, shape=value.shape[1:], grid=of, source=source)
        self.values[op.output] = value
        self.ops.append(op)
        return op.output

    def _grid(self, name: str) -> Grid:
        found = self.tensors[name].grid
        assert found is not None
        return found

    def _name(self) -> str:
        return f"op{len(self.ops)}"

    def _graph(self, output: str) -> g.IntegerGraph:
        return g.IntegerGraph(
            input="x", output=output, tensors=dict(self.tensors), ops=tuple(self.ops), fingerprint=FINGERPRINT
        )


def called_twice(*, weight_bits: int = 8, size: int = 6) -> g.IntegerGraph:
    """`b` reads its own result, so two operations have the same weights; then an unrelated convolution."""
    b = Builder((3, size, size))
    weight = b.random.integers(-(2 ** (weight_bits - 1)), 2 ** (weight_bits - 1), (6, 6, 3, 3))
    x = b.conv(b.first, 6, weight_bits=4)
    for _ in range(2):
        x = b.conv(x, 6, weight_bits=weight_bits, weight=weight)
    return b.finish(b.linear(b.flatten(b.conv(x, 6, weight_bits=weight_bits)), 4, bits=None))


def rounded(graph: g.IntegerGraph, rounding: Rounding) -> g.IntegerGraph:
    """The same operations with another rounding."""
    ops = tuple(
        dataclasses.replace(op, rounding=rounding)  # type: ignore[call-arg]
        if any(field.name == "rounding" for field in dataclasses.fields(op))
        else op
        for op in graph.ops
    )
    return dataclasses.replace(graph, ops=ops)


# ------------------------------------------------------------------------------------------------------- random


NAMES = (
    "scratch",
    "input",
    "output",
    "0",
    "1u",
    "int",
    "arena",
    "AT(0)",
    "model_input()",
    "scratch 0",
    "scratch 1",
    "zero",
    "bits_8",
    "zero_point_0",
    "input/scale",
    "scratch/weight",
    "a\nb*/ \\",
    "??/\r\x01 \\u",
    "gr\u00f6\u00dfe \u5c64",
    "x" * 6000,
)
"""What modules may be called: words of the generated C, literals, names that printers make up, other scripts."""


def renamed(graph: g.IntegerGraph, names: Sequence[str]) -> g.IntegerGraph:
    """The graph whose tensors and operations have these names, first come first served."""
    new = dict(zip(graph.tensors, names, strict=False))
    of = lambda name: new.get(name, name)  # noqa: E731
    ops = [
        dataclasses.replace(op, name=of(op.output), inputs=tuple(map(of, op.inputs)), output=of(op.output))
        for op in graph.ops
    ]
    tensors = {of(name): dataclasses.replace(one, name=of(name)) for name, one in graph.tensors.items()}
    return dataclasses.replace(graph, input=of(graph.input), output=of(graph.output), tensors=tensors, ops=tuple(ops))


def every_printer() -> g.IntegerGraph:
    """A pad, layers with scratch, an add, a concat, a table and a change of grid: all that prints names of tensors."""
    b = Builder((3, 6, 6), signed=False, bits=4, seed=5)
    x = b.conv(b.pad(b.first, ((0, 0), (1, 0), (0, 2))), 4, bits=4, clamp=(0, 12))
    x = b.add(b.lookup(x, bits=8), b.conv(x, 4, bits=4), bits=8)
    x = b.concat(x, x)
    x = b.average_pool(b.requantize(x, bits=4), 2, bits=8)
    return b.finish(b.linear(b.flatten(b.max_pool(x)), 3, bits=None))


def random_graph(seed: int, *, steps: int = 6, spatial: int = 2, wide: bool = False) -> g.IntegerGraph:
    """A chain of random operations with odd sizes, few and many bits, and zero points at the ends of the range.

    With `wide` weights may have 1 bit too, and tensors 1 and 9 to 16. Ends in a linear layer (of a vector, or along the
    last dimension), a convolution or a softmax.
    """
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 8)), *(int(size) for size in random.integers(5, 10, spatial)))
    b = Builder(shape, seed=seed, **_random_grid(random, wide))
    b.wide, x = wide, b.first
    for _ in range(steps):
        x = _STEPS[random.integers(len(_STEPS))](b, x, random)
    weight_bits, outputs = _random_bits(random, wide), int(random.integers(1, 6))
    if random.random() < 0.2:
        return b.finish(b.conv(x, outputs, 3, padding=1, weight_bits=weight_bits, bits=None))
    x = b.linear(b.flatten(x) if random.random() < 0.7 else x, outputs, weight_bits=weight_bits, bits=None)
    return b.finish(b.softmax(x) if random.random() < 0.2 else x)


def _random_bits(random: np.random.Generator, wide: bool) -> int:
    """Of weights."""
    return 1 if wide and random.random() < 0.4 else int(random.integers(2, 9))


def _random_grid(random: np.random.Generator, wide: bool = False) -> dict[str, Any]:
    bits, signed = int(random.choice([2, 3, 4, 5, 6, 7, 8, 8, 8])), bool(random.random() < 0.5)
    if wide and random.random() < 0.6:
        bits = int(random.choice([9, 12, 15, 16, 16, 16] if signed else [1, 9, 12, 16, 16, 16]))
    low = -(2 ** (bits - 1)) if signed else 0
    ends = [0, 0, low, low + 2**bits - 1, int(random.integers(low, low + 2**bits))]
    return {"bits": bits, "signed": signed, "zero_point": int(random.choice(ends))}


def _random_clamp(random: np.random.Generator, of: dict[str, Any]) -> g.Bounds | None:
    """A ReLU, or bounds anywhere."""
    full = grid(**of)
    kind = random.integers(3)
    if kind == 0 or full.zero_point == full.qmax:
        return None
    if kind == 1:
        return full.zero_point, full.qmax
    low = int(random.integers(full.qmin, full.qmax))
    return low, int(random.integers(low + 1, full.qmax + 1))


def _random_conv(b: Builder, x: str, random: np.random.Generator) -> str:
    channels, *sizes = b.tensors[x].shape
    kernel, dilation = _drawn(random, [1, 2, 3, 3, 5], len(sizes)), _drawn(random, [1, 1, 2], len(sizes))
    groups, outputs = 1, int(random.integers(1, 18))
    if random.random() < 0.4:
        groups = int(random.choice([size for size in range(1, channels + 1) if channels % size == 0]))
        outputs = groups * int(random.integers(1, 4))
    stride = _drawn(random, [1, 1, 2] if min(sizes) > 4 else [1], len(sizes))
    reach = [(k - 1) * by for k, by in zip(kernel, dilation, strict=True)]
    before = [int(random.integers(0, total + 1)) if random.random() < 0.5 else total // 2 for total in reach]
    padding = tuple((one, total - one) for one, total in zip(before, reach, strict=True))
    bits = _random_bits(random, b.wide)
    shift = int(random.integers(0, 9 - max(bits, 2))) if random.random() < 0.5 else 0
    of = _random_grid(random, b.wide)
    settings: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups, "shift": shift}
    settings["weight_bits"] = bits
    return b.conv(x, outputs, kernel, clamp=_random_clamp(random, of), padding=padding, **settings, **of)


def _drawn(random: np.random.Generator, of: Sequence[int], count: int) -> tuple[int, ...]:
    """One for each dimension."""
    return tuple(int(one) for one in random.choice(of, count))


def _random_add(b: Builder, x: str, random: np.random.Generator) -> str:
    other = b.requantize(x, **_random_grid(random, b.wide)) if random.random() < 0.5 else x
    of = _random_grid(random, b.wide)
    return b.add(x, other, clamp=_random_clamp(random, of), **of)


def _random_requantize(b: Builder, x: str, random: np.random.Generator) -> str:
    of = _random_grid(random, b.wide)
    return b.requantize(x, clamp=_random_clamp(random, of), **of)


def _random_max_pool(b: Builder, x: str, random: np.random.Generator) -> str:
    sizes = b.tensors[x].shape[1:]
    padding = tuple((int(random.integers(0, 2)), 1) for _ in sizes)
    kernel = tuple(min(k, size + 1) for k, size in zip(_drawn(random, [2, 3], len(sizes)), sizes, strict=True))
    return b.max_pool(x, kernel, stride=_drawn(random, [1, 2], len(sizes)), padding=padding)


def _random_average_pool(b: Builder, x: str, random: np.random.Generator) -> str:
    kernel = tuple(int(random.integers(1, size + 1)) for size in b.tensors[x].shape[1:])
    padding = tuple((int(random.integers(0, k // 2 + 1)), int(random.integers(0, k // 2 + 1))) for k in kernel)
    stride = _drawn(random, [1, 1, 2], len(kernel))
    return b.average_pool(x, kernel, stride=stride, padding=padding, **_random_grid(random, b.wide))


def _random_move(b: Builder, x: str, random: np.random.Generator) -> str:
    shape = b.tensors[x].shape
    kind = random.integers(4)
    if kind == 0:
        return b.pad(x, tuple((int(before), int(after)) for before, after in random.integers(0, 2, (len(shape), 2))))
    if kind == 1:
        stop = [int(random.integers(1, size + 1)) for size in shape]
        return b.cut(x, [0] * len(shape), stop, [int(step) for step in random.integers(1, 3, len(shape))])
    if kind == 2:
        return b.concat(x, x, axis=int(random.integers(len(shape))))
    order = [0, *(1 + random.permutation(len(shape) - 1))]
    return b.transpose(x, [int(axis) for axis in order])


def _random_lookup(b: Builder, x: str, random: np.random.Generator) -> str:
    return b.lookup(x, **_random_grid(random, b.wide))


_STEPS = (
    _random_conv,
    _random_conv,
    _random_conv,
    _random_add,
    _random_requantize,
    _random_max_pool,
    _random_average_pool,
    _random_move,
    _random_lookup,
)


# ------------------------------------------------------------------------------------------------------ networks


def resnet_cifar(
    *, blocks: int = 3, width: int = 16, weight_bits: int = 4, bits: int = 4, size: int = 32
) -> g.IntegerGraph:
    """`mixbit.models.resnet20` with random weights, first and last layer at 8 bits."""
    b = Builder((3, size, size), bits=8, signed=True)
    x = b.conv(b.first, width, weight_bits=8, bits=8)
    channels = width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut, out = x, channels * (2 if stride == 2 else 1)
            if stride == 2:
                _, high, wide = b.tensors[x].shape
                shortcut = b.cut(x, (0, 0, 0), (channels, high, wide), (1, 2, 2))
                shortcut = b.pad(shortcut, ((channels // 2, channels // 2), (0, 0), (0, 0)))
            y = b.requantize(x, bits=bits) if bits < 8 else x
            y = b.conv(y, out, weight_bits=weight_bits, stride=stride, padding=1, bits=bits)
            y = b.conv(y, out, weight_bits=weight_bits, bits=8, signed=True)
            x, channels = b.add(y, shortcut, bits=8), out
    y = b.flatten(b.average_pool(x))
    return b.finish(b.linear(y, 10, weight_bits=8, bits=None))


def resnet18(*, width: int = 64, weight_bits: int = 4, bits: int = 8, size: int = 224) -> g.IntegerGraph:
    """ResNet-18 for ImageNet, with random weights, first and last at 8 bits."""
    b = Builder((3, size, size), bits=8, signed=True)
    x = b.max_pool(b.conv(b.first, width, 7, weight_bits=8, stride=2, padding=3, bits=8))
    channels = width
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            shortcut, out = x, channels * stride
            y = b.requantize(x, bits=bits) if bits < 8 else x
            if stride == 2:
                shortcut = b.conv(y, out, 1, weight_bits=weight_bits, stride=2, padding=0, bits=8, signed=True)
            y = b.conv(y, out, weight_bits=weight_bits, stride=stride, padding=1, bits=bits)
            y = b.conv(y, out, weight_bits=weight_bits, bits=8, signed=True)
            x, channels = b.add(y, shortcut, bits=8), out
    y = b.flatten(b.average_pool(x))
    return b.finish(b.linear(y, 1000, weight_bits=8, bits=None))
