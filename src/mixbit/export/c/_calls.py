"""Operations of the integer graph as calls of C kernels: their structures, arrays and scratch bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixbit.errors import ExportError, MixbitError
from mixbit.export.c import _scratch
from mixbit.export.c._checks import INT32, check_16_bits, check_accumulator, check_scaled, check_wide
from mixbit.export.c._options import COptions
from mixbit.export.c._storage import Stored, strides
from mixbit.export.c.packing import pack_fields, pack_rows, row_bytes
from mixbit.integer import executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, FixedPoint, Grid, factor, fixed_point, mean_factor
from mixbit.integer.graph import IntegerGraph

ROUNDINGS = {"single": "MIXBIT_SINGLE", "double": "MIXBIT_DOUBLE", "away": "MIXBIT_AWAY"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blob:
    """A constant array of the model."""

    role: str
    """`weights`, `bias`, `multiplier`, `exponent` or `table`."""
    ctype: str
    values: Array

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes in flash."""
        return int(self.values.nbytes)


@dataclass(frozen=True, slots=True)
class At:
    """A tensor as an argument: a pointer to where the plan puts it. Its name is the user's, and is never printed."""

    name: str


@dataclass(frozen=True, slots=True)
class OwnScratch:
    """The layer's scratch as an argument."""


SCRATCH = OwnScratch()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One call of a kernel."""

    function: str
    struct: str
    """Type of its settings, or empty."""
    fields: dict[str, Any]
    """Field -> number, name of a constant, `@role` for one of the blobs, or a nested dictionary."""
    arguments: tuple[At | OwnScratch | str, ...]
    """Tensors and scratch by their place; text stands for itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Printed:
    """What an operation becomes."""

    calls: tuple[Call, ...]
    blobs: tuple[Blob, ...] = ()
    scratch_bytes: int = 0
    macs: int = 0
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Role -> name of the array of an earlier layer that holds the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Context:
    """What a printer of one operation may look at."""

    graph: IntegerGraph
    options: COptions
    tensors: Mapping[str, Stored]
    folded: Mapping[str, g.Requantize] = field(default_factory=dict)
    """Tensor that is never stored -> the operation that would make it."""


def print_op(context: Context, op: g.Op) -> Printed:
    """The calls of one operation.

    Raises:
        ExportError: the device cannot do it exactly; the message names it.
    """
    rounding = getattr(op, "rounding", "single")
    if rounding not in ROUNDINGS:
        raise ExportError(
            f"{op.name}: rounding={rounding!r} is float arithmetic, which C kernels do not do. Legal: "
            f"{', '.join(ROUNDINGS)}. Lower with rounding='single'."
        )
    try:
        return _trimmed(context, op, _PRINT[type(op)](context, op))
    except ExportError:
        raise
    except MixbitError as error:
        raise ExportError(f"{op.name}: {error}") from error


def _trimmed(context: Context, op: g.Op, printed: Printed) -> Printed:
    """Bits behind the last field of a packed tensor are cleared, so that its bytes are the same on every device."""
    y = context.tensors.get(op.output)
    if y is None or not printed.calls or y.numel * y.bits % 8 == 0:
        return printed
    trim = Call(function="mixbit_trim", struct="", fields={}, arguments=(At(op.output), f"{y.numel}u", str(y.bits)))
    return replace(printed, calls=(*printed.calls, trim))


# ------------------------------------------------------------------------------------------------ weighted layers


def _conv(context: Context, op: g.Conv) -> Printed:
    read, x = _read(context, op)
    if x.bits == 16:
        return _conv_wide(context, op, x)
    depthwise = op.is_depthwise
    # (out, in, *kernel) -> (out, *kernel, in): the order in which a column is filled.
    weight = np.moveaxis(op.weight, 1, -1).reshape(len(op.weight), -1)
    rows, blobs = _rows(context, op, x, weight, stream=depthwise)
    kernel, stride, dilation = (_two(pair, 1) for pair in (op.weight.shape[2:], op.stride, op.dilation))
    padding = op.padding if len(op.padding) == 2 else ((0, 0), *op.padding)
    if any(map(any, padding)) and not -128 <= x.zero <= 127:
        raise ExportError(f"{op.name}: the padded zero ({x.grid.zero_point}) does not fit the 8 bits of its input.")
    output = context.graph.tensors[op.output]
    table = _table(context, op)
    settings = {
        "rows": rows,
        "table": "@table" if table else "0",
        **_sizes("x", read.shape),
        **_sizes("y", output.shape),
        **_pair("kernel", kernel),
        **_pair("stride", stride),
        **_pair("dilation", dilation),
        "pad_top": padding[0][0],
        "pad_left": padding[1][0],
        "groups": op.groups,
        "pad": x.zero if -128 <= x.zero <= 127 else 0,
        "x_low": read.low,
        "x_bits": read.bits,
        "y_bits": _bits(context, op.output),
    }
    direct = kernel == (1, 1) and not any(map(any, padding)) and read.bits == 8 and not table
    kernels, channels = context.options.kernels, op.weight.shape[1]
    scratch = (
        _scratch.depthwise(kernels, taps=weight.shape[1], channels=len(weight), direct=_is_plain(op, read, table))
        if depthwise
        else _scratch.conv(kernels, kernel=kernel, channels=channels, direct=direct)
    )
    check_16_bits(op, settings)
    name = "mixbit_depthwise" if depthwise else "mixbit_conv"
    arguments = (At(read.name), At(op.output), SCRATCH)
    call = Call(function=name, struct="mixbit_conv_layer", fields=settings, arguments=arguments)
    places = int(np.prod(output.shape[1:]))
    return Printed(calls=(call,), blobs=(*blobs, *table), scratch_bytes=scratch, macs=op.weight.size * places)


def _is_plain(op: g.Conv, read: Stored, table: tuple[Blob, ...]) -> bool:
    """Whether a depthwise kernel can read its inputs where they are: bytes, one output a channel."""
    return len(op.weight) == op.groups and read.bits == 8 and not table


def _linear(context: Context, op: g.Linear) -> Printed:
    read, x = _read(context, op)
    if x.bits == 16:
        return _linear_wide(context, op, x)
    weight = op.weight
    if len(read.shape) == 1:
        # A flattened map may still lie channels last: its weights move instead.
        weight = weight[:, read.order]
    rows, blobs = _rows(context, op, x, weight, stream=False)
    outer, inner = int(np.prod(read.shape[1:-1])), (read.shape[0] if len(read.shape) > 1 else 1)
    table = _table(context, op)
    direct = inner == 1 and read.bits == 8 and not table
    settings = {
        "rows": rows,
        "table": "@table" if table else "0",
        "outer": outer,
        "features": weight.shape[1],
        "outputs": len(weight),
        "inner": inner,
        "x_low": read.low,
        "x_bits": read.bits,
        "y_bits": _bits(context, op.output),
    }
    call = Call(
        function="mixbit_linear",
        struct="mixbit_linear_layer",
        fields=settings,
        arguments=(At(read.name), At(op.output), SCRATCH),
    )
    scratch = _scratch.linear(context.options.kernels, features=weight.shape[1], direct=direct)
    return Printed(calls=(call,), blobs=(*blobs, *table), scratch_bytes=scratch, macs=weight.size * outer * inner)


def _conv_wide(context: Context, op: g.Conv, x: Stored) -> Printed:
    """A convolution of any kind that reads 16 bits: no column, no scratch."""
    weight = np.moveaxis(op.weight, 1, -1).reshape(len(op.weight), -1)
    rows, blobs = _rows(context, op, x, weight, stream=op.is_depthwise)
    output = context.graph.tensors[op.output]
    padding = op.padding if len(op.padding) == 2 else ((0, 0), *op.padding)
    settings = {
        "rows": rows,
        **_sizes("x", x.shape),
        **_sizes("y", output.shape),
        **_pair("kernel", _two(op.weight.shape[2:], 1)),
        **_pair("stride", _two(op.stride, 1)),
        **_pair("dilation", _two(op.dilation, 1)),
        "pad_top": padding[0][0],
        "pad_left": padding[1][0],
        "groups": op.groups,
        "x_zero": x.zero,
        "x_bits": x.bits,
        "y_bits": _bits(context, op.output),
    }
    found = _one(op, "conv_wide", settings, (op.x,))
    return replace(found, blobs=blobs, macs=op.weight.size * int(np.prod(output.shape[1:])))


def _linear_wide(context: Context, op: g.Linear, x: Stored) -> Printed:
    """A linear layer that reads 16 bits."""
    weight = op.weight[:, x.order] if len(x.shape) == 1 else op.weight
    rows, blobs = _rows(context, op, x, weight, stream=False)
    outer, inner = int(np.prod(x.shape[1:-1])), (x.shape[0] if len(x.shape) > 1 else 1)
    settings = {
        "rows": rows,
        "outer": outer,
        "features": weight.shape[1],
        "outputs": len(weight),
        "inner": inner,
        "x_zero": x.zero,
        "x_bits": x.bits,
        "y_bits": _bits(context, op.output),
    }
    return replace(_one(op, "linear_wide", settings, (op.x,)), blobs=blobs, macs=weight.size * outer * inner)


def _read(context: Context, op: g.Op) -> tuple[Stored, Stored]:
    """The tensor in memory, and the one whose integers the layer multiplies: they differ where a table is between."""
    folded = context.folded.get(op.x)
    return context.tensors[op.x if folded is None else folded.x], context.tensors[op.x]


def _table(context: Context, op: g.Op) -> tuple[Blob, ...]:
    folded = context.folded.get(op.x)
    if folded is None:
        return ()
    grid, result = context.graph.grid(folded.x), context.tensors[op.x]
    values = executor.apply(context.graph, folded, np.arange(grid.qmin, grid.qmax + 1)[None])[0]
    return (Blob(role="table", ctype="int8_t", values=(values - result.offset).astype(np.int8)),)


def _rows(
    context: Context, op: g.Weighted, x: Stored, weight: Array, *, stream: bool
) -> tuple[dict[str, Any], tuple[Blob, ...]]:
    """The `mixbit_rows` of a layer: packed weights, biases with the zero point folded in, fixed-point factors."""
    alignment = context.options.row_alignment
    try:
        packed = (
            pack_fields(weight, op.weight_bits)
            if stream
            else pack_rows(weight, op.weight_bits, alignment=alignment).ravel()
        )
    except ExportError as error:
        raise ExportError(f"{op.name}: {error}") from error
    sums = weight.astype(np.int64)
    bias = op.bias.astype(np.int64)
    if x.bits == 16:
        check_wide(context.graph, op)
    else:
        bias = bias - ((x.zero * sums.sum(axis=1)) << op.shift)
        check_accumulator(op, np.abs(bias) + ((128 * np.abs(sums).sum(axis=1)) << op.shift))
    blobs = [
        Blob(role="weights", ctype="uint8_t", values=packed),
        Blob(role="bias", ctype="int32_t", values=bias.astype(np.int32)),
    ]
    settings: dict[str, Any] = {
        "weights": "@weights",
        "bias": "@bias",
        "multiplier": "0",
        "exponent": "0",
        "row_bytes": 0 if stream else row_bytes(weight.shape[1], op.weight_bits, alignment),
        "bits": op.weight_bits,
        "shift": op.shift,
        "rounding": ROUNDINGS[op.rounding],
        "low": 0,
        "high": 0,
        "zero": 0,
    }
    if context.graph.tensors[op.output].grid is not None:
        result = context.tensors[op.output]
        factors = factor(context.graph.unit(op), result.grid.scale, op.rounding)
        fixed = fixed_point(factors)
        reached = np.abs(op.bias.astype(np.int64)) + ((_reach(x.grid) * np.abs(sums).sum(axis=1)) << op.shift)
        check_scaled(op.name, reached, factors, op.rounding, result.bits)
        blobs += [
            Blob(role="multiplier", ctype="int32_t", values=fixed.multiplier.astype(np.int32)),
            Blob(role="exponent", ctype="int8_t", values=fixed.exponent.astype(np.int8)),
        ]
        settings |= {"multiplier": "@multiplier", "exponent": "@exponent", **_bounds(op, result), "zero": result.zero}
    return settings, tuple(blobs)


# ------------------------------------------------------------------------------------------------ arithmetic


def _add(context: Context, op: g.Add) -> Printed:
    a, b, y = (context.tensors[name] for name in (*op.inputs, op.output))
    reach = max(_reach(a.grid) + _reach(b.grid), 4)  # 4 keeps at least one binary digit in the fixed point of ratios
    if op.rounding == "double":
        twice = 2 * max(a.grid.scale, b.grid.scale)
        factors = np.array([a.grid.scale / twice, b.grid.scale / twice, twice / (2**20 * y.grid.scale)])
        fixed, shift = fixed_point(factors), 0
        multiplier, exponent = fixed.multiplier, fixed.exponent
        check_scaled(op.name, (reach << 19), factors[2:], "double")
    else:
        ratios = np.array([a.grid.scale / y.grid.scale, b.grid.scale / y.grid.scale])
        shift = 30 - int(max(np.frexp(ratios)[1].max(), 0))
        check_scaled(op.name, reach, ratios, "single", y.bits)
        multiplier, exponent = np.append(np.rint(ratios * 2.0**shift).astype(np.int64), 0), np.zeros(3, np.int64)
    settings = {
        "count": y.numel,
        "multiplier": multiplier.tolist(),
        "exponent": exponent.tolist(),
        "shift": shift,
        "rounding": ROUNDINGS[op.rounding],
        **_bounds(op, y),
        "a_zero": a.zero,
        "b_zero": b.zero,
        "y_zero": y.zero,
        "a_bits": a.bits,
        "b_bits": b.bits,
        "y_bits": y.bits,
    }
    return _one(op, "add", settings, tuple(op.inputs))


def _requantize(context: Context, op: g.Requantize) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    settings = {
        "count": y.numel,
        **_change(op, _reach(x.grid), factor(x.grid.scale, y.grid.scale, op.rounding), y),
        **_bounds(op, y),
        **_ends(x, y),
    }
    return _one(op, "requantize", settings, (op.x,))


def _max_pool(context: Context, op: g.MaxPool) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    change = {"multiplier": 0, "exponent": 0, "rounding": 0}
    settings = {**_window(op, x, y), **change, "low": x.low, "high": x.high, **_ends(x, y)}
    return _one(op, "max_pool", settings, (op.x,), struct="mixbit_pool_layer")


def _average_pool(context: Context, op: g.AveragePool) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    taps = int(np.prod(op.kernel))
    if taps * (_reach(x.grid) + (1 << (max(x.bits, 8) - 1)) + abs(x.grid.zero_point)) >= INT32:
        raise ExportError(f"{op.name}: the sum of {taps} taps can leave int32. Pool smaller windows.")
    change = _mean(op, x.grid, y, taps)
    settings = {**_window(op, x, y), **change, **_bounds(op, y), **_ends(x, y)}
    return _one(op, "average_pool", settings, (op.x,), struct="mixbit_pool_layer")


def _mean(op: g.AveragePool, grid: Grid, y: Stored, taps: int) -> dict[str, Any]:
    """How the sum becomes the mean, see `mixbit.integer.arithmetic.mean`."""
    bound, result = taps * _reach(grid), y.grid
    if op.rounding != "double":
        return _change(op, bound, np.asarray(grid.scale / (result.scale * taps)), y)
    if (grid.scale, grid.zero_point) == (result.scale, result.zero_point):
        return {"multiplier": grid.zero_point - grid.centre, "exponent": 0, "rounding": "MIXBIT_DIVIDE"}
    fixed = mean_factor(grid.scale / result.scale, taps)
    return _change(op, bound, np.asarray(grid.scale / (result.scale * taps)), y, fixed)


def _lookup(context: Context, op: g.Lookup) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    wide = 16 in (x.bits, y.bits)
    ctype, dtype = ("int16_t", np.int16) if wide else ("int8_t", np.int8)
    table = Blob(role="table", ctype=ctype, values=(op.table - y.offset).astype(dtype))
    settings = {"table": "@table", "count": y.numel, "x_low": x.low, "x_bits": x.bits, "y_bits": y.bits}
    found = _one(op, "lookup_wide" if wide else "lookup", settings, (op.x,))
    return Printed(calls=found.calls, blobs=(table,))


def _change(
    op: g.Requantize | g.AveragePool, bound: int, factors: Array, y: Stored, fixed: FixedPoint | None = None
) -> dict[str, Any]:
    fixed = fixed or fixed_point(factors)
    check_scaled(op.name, bound, factors, op.rounding, y.bits)
    return {
        "multiplier": int(fixed.multiplier),
        "exponent": int(fixed.exponent),
        "rounding": ROUNDINGS[op.rounding],
    }


# ------------------------------------------------------------------------------------------------ moves


def _concat(context: Context, op: g.Concat) -> Printed:
    y = context.tensors[op.output]
    calls, at = [], 0
    for name in op.inputs:
        x = context.tensors[name]
        y_start = at * strides(y.shape)[op.axis]
        calls.append(_move(op, x, y, x.shape, 0, strides(x.shape), y_start, strides(y.shape)))
        at += x.shape[op.axis]
    return Printed(calls=tuple(calls))


def _slice(context: Context, op: g.Slice) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    steps = strides(x.shape)
    start = sum(begin * step for begin, step in zip(op.start, steps, strict=True))
    x_steps = tuple(by * step for by, step in zip(op.step, steps, strict=True))
    return Printed(calls=(_move(op, x, y, y.shape, start, x_steps, 0, strides(y.shape)),))


def _pad(context: Context, op: g.Pad) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    if not y.holds(y.zero):
        raise ExportError(f"{op.name}: the padded zero ({y.grid.zero_point}) does not fit {max(y.bits, 8)} bits.")
    start = sum(before * step for (before, _), step in zip(op.padding, strides(y.shape), strict=True))
    fill = Call(
        function="mixbit_fill",
        struct="",
        fields={},
        arguments=(At(op.output), f"{y.numel}u", str(y.zero), str(y.bits)),
    )
    return Printed(calls=(fill, _move(op, x, y, x.shape, 0, strides(x.shape), start, strides(y.shape))))


def _transpose(context: Context, op: g.Transpose) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    steps = strides(x.shape)
    return Printed(calls=(_move(op, x, y, y.shape, 0, tuple(steps[axis] for axis in op.order), 0, strides(y.shape)),))


def _reshape(context: Context, op: g.Reshape) -> Printed:
    x, y = context.tensors[op.x], context.tensors[op.output]
    if np.array_equal(x.order, y.order):
        return Printed(calls=())
    settings = {
        "count": y.numel,
        "x_channels": x.shape[0] if len(x.shape) > 1 else 1,
        "y_channels": y.shape[0] if len(y.shape) > 1 else 1,
        "x_bits": x.bits,
        "y_bits": y.bits,
    }
    return _one(op, "reshape", settings, (op.x,))


def _move(
    op: g.Op,
    x: Stored,
    y: Stored,
    shape: tuple[int, ...],
    x_start: int,
    x_steps: tuple[int, ...],
    y_start: int,
    y_steps: tuple[int, ...],
) -> Call:
    if len(shape) > 4:
        raise ExportError(f"{op.name}: {op.kind} of {len(shape)} dimensions has no kernel in C. Legal: up to 4.")
    # Channels, which lie side by side, are the innermost loop.
    turned = [(*values[1:], values[0]) for values in (shape, x_steps, y_steps)]
    sizes, x_strides, y_strides = (_four(values, fill) for values, fill in zip(turned, (1, 0, 0), strict=True))
    settings = {
        "size": sizes,
        "x_start": x_start,
        "y_start": y_start,
        "x_stride": x_strides,
        "y_stride": y_strides,
        "x_bits": x.bits,
        "y_bits": y.bits,
    }
    arguments = (At(x.name), At(y.name))
    return Call(function="mixbit_move", struct="mixbit_move_layer", fields=settings, arguments=arguments)


# ------------------------------------------------------------------------------------------------ small parts


def _one(
    op: g.Op, kernel: str, settings: dict[str, Any], inputs: tuple[str, ...], *, struct: str | None = None
) -> Printed:
    call = Call(
        function=f"mixbit_{kernel}",
        struct=struct or f"mixbit_{kernel}_layer",
        fields=settings,
        arguments=tuple(At(name) for name in (*inputs, op.output)),
    )
    check_16_bits(op, settings)
    return Printed(calls=(call,))


def _window(op: g.MaxPool | g.AveragePool, x: Stored, y: Stored) -> dict[str, Any]:
    padding = op.padding if len(op.padding) == 2 else ((0, 0), *op.padding)
    x_sizes, y_sizes = _sizes("x", x.shape), _sizes("y", y.shape)
    return {
        "x_height": x_sizes["x_height"],
        "x_width": x_sizes["x_width"],
        "channels": x_sizes["x_channels"],
        "y_height": y_sizes["y_height"],
        "y_width": y_sizes["y_width"],
        **_pair("kernel", _two(op.kernel, 1)),
        **_pair("stride", _two(op.stride, 1)),
        "pad_top": padding[0][0],
        "pad_left": padding[1][0],
    }


def _two(sizes: tuple[int, ...], fill: int) -> tuple[int, int]:
    """Height and width; a sequence is a map of height 1."""
    found = sizes if len(sizes) == 2 else (fill, *sizes)
    return (int(found[0]), int(found[1]))


def _four(values: tuple[int, ...], fill: int) -> list[int]:
    return [*[fill] * (4 - len(values)), *map(int, values)]


def _sizes(prefix: str, shape: tuple[int, ...]) -> dict[str, Any]:
    height, width = _two(shape[1:], 1)
    return {f"{prefix}_height": height, f"{prefix}_width": width, f"{prefix}_channels": shape[0]}


def _pair(prefix: str, pair: tuple[int, int]) -> dict[str, Any]:
    return {f"{prefix}_height": pair[0], f"{prefix}_width": pair[1]}


def _bounds(op: g.Weighted | g.Add | g.Requantize | g.AveragePool, y: Stored) -> dict[str, Any]:
    low, high = op.clamp or (y.grid.qmin, y.grid.qmax)
    return {"low": low - y.offset, "high": high - y.offset}


def _ends(x: Stored, y: Stored) -> dict[str, Any]:
    return {"x_zero": x.zero, "y_zero": y.zero, "x_bits": x.bits, "y_bits": y.bits}


def _bits(context: Context, name: str) -> int:
    return 8 if context.graph.tensors[name].grid is None else context.tensors[name].bits


def _reach(grid: Grid) -> int:
    return max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))


_PRINT: dict[type, Callable[[Context, Any], Printed]] = {
    g.Conv: _conv,
    g.Linear: _linear,
    g.Add: _add,
    g.Requantize: _requantize,
    g.MaxPool: _max_pool,
    g.AveragePool: _average_pool,
    g.Lookup: _lookup,
    g.Concat: _concat,
    g.Reshape: _reshape,
    g.Slice: _slice,
    g.Pad: _pad,
    g.Transpose: _transpose,
}
