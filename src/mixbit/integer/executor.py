"""The reference executor: an integer graph in NumPy. Its results are the definition of correct.

Accumulators are exact: products are summed in float32 or float64 (which NumPy hands to a BLAS) only where a bound on
the sum shows that every intermediate is a whole number which that type holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mixbit.errors import MixbitError
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, add, change_scale, dequantize, factor, mean, quantize, saturate
from mixbit.integer.graph import IntegerGraph

__all__ = ["accumulate", "accumulator_bound", "apply", "run", "trace"]


def run(graph: IntegerGraph, x: Array) -> Array:
    """The output for a batch.

    Args:
        graph: from `mixbit.export.lower`.
        x: `(N, *input shape)` float32.

    Returns:
        float32 `(N, *output shape)`.
    """
    return trace(graph, x, keep=False)[graph.output]


def trace(graph: IntegerGraph, x: Array, *, keep: bool = True) -> dict[str, Array]:
    """Every tensor for a batch: int32 where it is quantized, float32 at both ends.

    Args:
        graph: from `mixbit.export.lower`.
        x: `(N, *input shape)` float32.
        keep: False drops a tensor after its last reader; the output is always there.

    Raises:
        MixbitError: the batch has another shape.
    """
    wanted = graph.tensors[graph.input].shape
    if x.shape[1:] != wanted:
        raise MixbitError(f"input of shape {x.shape}, legal is (N, {', '.join(map(str, wanted))}). Reshape the batch.")
    values: dict[str, Array] = {graph.input: np.asarray(x, np.float32)}
    last = {name: at for at, op in enumerate(graph.ops) for name in op.inputs}
    for at, op in enumerate(graph.ops):
        values[op.output] = _KERNELS[type(op)](graph, op, *(values[name] for name in op.inputs))
        if not keep:
            for name in set(op.inputs):
                if last[name] == at:
                    del values[name]
    return values


def apply(graph: IntegerGraph, op: g.Op, *inputs: Array) -> Array:
    """The result of one operation.

    Args:
        graph: the graph of `op`.
        op: the operation.
        inputs: its inputs with the batch first, as `trace` keeps them.
    """
    found: Array = _KERNELS[type(op)](graph, op, *inputs)
    return found


def _quantize_input(graph: IntegerGraph, op: g.QuantizeInput, x: Array) -> Array:
    return quantize(x, graph.grid(op.output))


def _weighted(graph: IntegerGraph, op: g.Weighted, x: Array) -> Array:
    result, acc = graph.tensors[op.output].grid, accumulate(graph, op, x)
    scales = graph.unit(op)
    if op.rounding == "float32" or result is None:  # a runtime multiplies the two scales in float32
        weight_scale = op.weight_scale.astype(np.float32) / np.float32(2**op.shift)
        scales = np.float32(graph.grid(op.x).scale) * weight_scale
    if isinstance(op, g.Conv):
        scales = scales.reshape(-1, *[1] * len(op.stride))
    if result is None:
        return (acc.astype(np.float32) * scales.astype(np.float32)).astype(np.float32)
    q = change_scale(acc, factor(scales, result.scale, op.rounding), op.rounding)
    return saturate(q, result.zero_point, op.clamp or (result.qmin, result.qmax))


def accumulate(graph: IntegerGraph, op: g.Weighted, x: Array) -> Array:
    """`2^shift sum w (x - x_zero) + bias`, int64, before the change of scale.

    Args:
        graph: the graph of `op`.
        op: a convolution or a linear layer.
        x: integers `(N, *shape)` of its input tensor.
    """
    grid = graph.grid(op.x)
    dtype = np.float32 if accumulator_bound(graph, op) < 2**24 else np.float64
    centred = (x - grid.zero_point).astype(dtype)
    if isinstance(op, g.Conv):
        total, bias = _convolve(op, centred), op.bias.reshape(-1, *[1] * len(op.stride))
    else:
        total, bias = centred @ op.weight.T.astype(dtype), op.bias
    found: Array = (total.astype(np.int64) << op.shift) + bias
    return found


def accumulator_bound(graph: IntegerGraph, op: g.Weighted) -> int:
    """Largest `|acc|` that any input can give: `max over channels of |bias| + 2^shift max |x - x_zero| sum |w|`."""
    grid = graph.grid(op.x)
    reach = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))
    sums = np.abs(op.weight.astype(np.int64)).reshape(len(op.weight), -1).sum(axis=1)
    return int((np.abs(op.bias.astype(np.int64)) + (reach * sums << op.shift)).max(initial=0))


def _convolve(op: g.Conv, x: Array) -> Array:
    """`(N, I, *spatial)` to `(N, O, *spatial)`, as one matrix product a group, or tap by tap where that is leaner."""
    spatial = len(op.stride)
    windows = _windows(x, op.weight.shape[2:], op.stride, op.padding, op.dilation)
    per_group, outputs = op.weight.shape[1], len(op.weight) // op.groups
    weight = op.weight.astype(x.dtype)
    if per_group == 1:
        return _depthwise(windows, weight, outputs, spatial)
    parts = []
    for group in range(op.groups):
        block = windows[:, group * per_group : (group + 1) * per_group]
        # (N, I, *out, *kernel) -> (N, *out, I, *kernel), then rows of one window each.
        block = np.moveaxis(block, 1, 1 + spatial)
        rows = block.reshape(-1, weight[0].size)
        product = rows @ weight[group * outputs : (group + 1) * outputs].reshape(outputs, -1).T
        parts.append(np.moveaxis(product.reshape(*block.shape[: 1 + spatial], outputs), -1, 1))
    return np.concatenate(parts, axis=1)


def _depthwise(windows: Array, weight: Array, outputs: int, spatial: int) -> Array:
    """One input channel a group: a sum over taps."""
    channels = np.repeat(windows, outputs, axis=1) if outputs > 1 else windows
    total: Any = 0
    for tap in np.ndindex(*weight.shape[2:]):
        total = total + channels[(..., *tap)] * weight[(slice(None), 0, *tap)].reshape(-1, *[1] * spatial)
    return np.asarray(total)


def _windows(
    x: Array, kernel: tuple[int, ...], stride: tuple[int, ...], padding: g.Padding, dilation: tuple[int, ...]
) -> Array:
    """`(N, C, *out, *kernel)`, a view where nothing is padded."""
    spatial = len(kernel)
    if any(any(pair) for pair in padding):
        x = np.pad(x, ((0, 0), (0, 0), *padding))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    found = sliding_window_view(x, reach, axis=tuple(range(2, 2 + spatial)))
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in stride))
    return found[(*steps, *(slice(None, None, d) for d in dilation))]


def _add(graph: IntegerGraph, op: g.Add, a: Array, b: Array) -> Array:
    first, second, result = (graph.grid(name) for name in (*op.inputs, op.output))
    total = add(a, b, (first, second, result), op.rounding)
    return saturate(total, result.zero_point, op.clamp or (result.qmin, result.qmax))


def _requantize(graph: IntegerGraph, op: g.Requantize, x: Array) -> Array:
    grid, result = graph.grid(op.x), graph.grid(op.output)
    if op.rounding == "float32":  # a runtime dequantizes and quantizes: two roundings in float32
        q = quantize(dequantize(x, grid), result)
        return np.clip(q, *(op.clamp or (result.qmin, result.qmax))).astype(np.int32)
    q = change_scale(x - grid.zero_point, factor(grid.scale, result.scale, op.rounding), op.rounding)
    return saturate(q, result.zero_point, op.clamp or (result.qmin, result.qmax))


def _max_pool(graph: IntegerGraph, op: g.MaxPool, x: Array) -> Array:
    spatial = len(op.kernel)
    lowest = graph.grid(op.x).qmin
    padded = np.pad(x, ((0, 0), (0, 0), *op.padding), constant_values=lowest)
    windows = _windows(padded, op.kernel, op.stride, ((0, 0),) * spatial, (1,) * spatial)
    found: Array = windows.max(axis=tuple(range(-spatial, 0)))
    return found


def _average_pool(graph: IntegerGraph, op: g.AveragePool, x: Array) -> Array:
    grid, result, spatial = graph.grid(op.x), graph.grid(op.output), len(op.kernel)
    windows = _windows(x - grid.zero_point, op.kernel, op.stride, op.padding, (1,) * spatial)
    sums = windows.sum(axis=tuple(range(-spatial, 0)), dtype=np.int64)
    q = mean(sums, int(np.prod(op.kernel)), (grid, result), op.rounding)
    return saturate(q, result.zero_point, op.clamp or (result.qmin, result.qmax))


def _lookup(graph: IntegerGraph, op: g.Lookup, x: Array) -> Array:
    found: Array = op.table[x - graph.grid(op.x).qmin]
    return found


def _concat(graph: IntegerGraph, op: g.Concat, *xs: Array) -> Array:
    return np.concatenate(xs, axis=op.axis + 1)


def _reshape(graph: IntegerGraph, op: g.Reshape, x: Array) -> Array:
    return x.reshape(len(x), *graph.tensors[op.output].shape)


def _transpose(graph: IntegerGraph, op: g.Transpose, x: Array) -> Array:
    return x.transpose(0, *(axis + 1 for axis in op.order))


def _slice(graph: IntegerGraph, op: g.Slice, x: Array) -> Array:
    cuts: Iterator[slice] = (slice(*cut) for cut in zip(op.start, op.stop, op.step, strict=True))
    return x[(slice(None), *cuts)]


def _pad(graph: IntegerGraph, op: g.Pad, x: Array) -> Array:
    return np.pad(x, ((0, 0), *op.padding), constant_values=graph.grid(op.x).zero_point)


def _softmax(graph: IntegerGraph, op: g.Softmax, x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    found: Array = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return found


_KERNELS: dict[type, Callable[..., Any]] = {
    g.QuantizeInput: _quantize_input,
    g.Conv: _weighted,
    g.Linear: _weighted,
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
