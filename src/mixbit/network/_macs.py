"""How many multiply-accumulates an operator takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from mixbit.network._ops import argument, namespace, op_name, values, words
from mixbit.network._sizes import Sizes

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution", "_convolution"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
# Counted by running the operator on tensors without memory under torch's own FlopCounterMode.
_MEASURED = words(
    "einsum gru gru_cell linalg_multi_dot lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell tensordot"
)


def macs(node: fx.Node, sizes: Sizes) -> int:
    """Multiply-accumulates of one sample; bias, normalisation, pooling and adds are not counted, as everywhere.

    A convolution takes `outputs * C_in / groups * k_h * k_w`, a product of matrices `outputs * inner size`, attention
    both of its products over all query heads (a causal mask saves nothing), a bilinear layer `outputs * C_1 * C_2`, a
    matrix of distances `outputs * size`. Recurrent layers, einsum and their like are run without memory under torch's
    FlopCounterMode.
    """
    name = op_name(node)
    rule = _RULES.get(name)
    if rule is None:
        return sizes.per_sample(_measured(node, sizes)) if name in _MEASURED else 0
    return sizes.per_sample(rule(node, sizes))


def multiplies(node: fx.Node) -> bool:
    """Whether the operator is one that `macs` counts."""
    return op_name(node) in _RULES or op_name(node) in _MEASURED


def factors(node: fx.Node) -> list[fx.Node]:
    """The arguments that are multiplied with each other: neither bias nor mask nor what is added to the product."""
    name = op_name(node)
    if name in _MEASURED:
        return list(node.all_input_nodes)
    first, last = _FACTORS.get(name, (0, 2))
    return [arg for arg in node.args[first:last] if isinstance(arg, fx.Node)]


def is_unknown(node: fx.Node) -> bool:
    """An operator from outside PyTorch: its MACs cannot be known."""
    return namespace(node) not in ("", "aten", "prim", "prims", "higher_order", "_c10d_functional", "profiler")


def limpq_area(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> int:
    """Output positions as LIMPQ's released code counts them: the product is truncated, not each side.

    `int(((H + 2p - k) / s + 1) * ((W + 2p - k) / s + 1))`, from the authors' cost table, not from the paper. With
    dilation, k is the extent `d (k - 1) + 1`: our completion.

    Args:
        size: height and width of the input (or its length).
        kernel: kernel size, of the same length as all that follow.
        stride: step of the kernel.
        padding: zeros on each side.
        dilation: distance of kernel taps.

    ResNet's first layer has 112 x 112 = 12544 positions, and is counted as 112.5 x 112.5:

    >>> limpq_area((224, 224), (7, 7), (2, 2), (3, 3), (1, 1))
    12656
    """
    # The sides are multiples of 1 / stride, so the truncation of the product is exact in integers.
    sides = [
        size + 2 * pad - extent + step
        for size, pad, extent, step in zip(
            size, padding, (d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)), stride, strict=True
        )
    ]
    return math.prod(sides) // math.prod(stride)


def limpq_macs(node: fx.Node, sizes: Sizes, exact: int) -> int:
    """MACs of one sample with LIMPQ's area; the exact count where that area does not exist (linear, padding="same")."""
    if op_name(node) not in ("conv1d", "conv2d", "convolution"):
        return exact
    size, weight, out = (_full(n, sizes) for n in (node.args[0], node.args[1], node))
    dims = len(weight) - 2
    stride, padding, dilation = (
        _spread(argument(node, at, name, default), dims)
        for at, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    if padding is None or stride is None or dilation is None:
        return exact
    area = limpq_area(size[-dims:], weight[2:], stride, padding, dilation)
    return exact // math.prod(out[-dims:]) * area


def _spread(value: Any, dims: int) -> tuple[int, ...] | None:
    """A number or a list of numbers for every dimension; "valid" is 0, and "same" has no number."""
    if isinstance(value, str):
        return (0,) * dims if value == "valid" else None
    if isinstance(value, int):
        return (value,) * dims
    return tuple(value) * (dims if len(value) == 1 else 1)


def _full(node: Any, sizes: Sizes) -> tuple[int, ...]:
    return sizes.full(next(values(node)))


def _convolution(node: fx.Node, sizes: Sizes) -> int:
    if op_name(node) in ("convolution", "_convolution") and argument(node, 6, "transposed", False):
        return _transposed(node, sizes)
    return math.prod(_full(node, sizes)) * math.prod(_full(argument(node, 1, "weight"), sizes)[1:])


def _transposed(node: fx.Node, sizes: Sizes) -> int:
    """Every input element meets the kernels of all outputs of its group."""
    return math.prod(_full(argument(node, 0, "input"), sizes)) * math.prod(
        _full(argument(node, 1, "weight"), sizes)[1:]
    )


def _inner(position: int, name: str) -> Callable[[fx.Node, Sizes], int]:
    """Products of matrices: outputs times the last size of the left operand."""

    def rule(node: fx.Node, sizes: Sizes) -> int:
        return math.prod(_full(node, sizes)) * _full(argument(node, position, name), sizes)[-1]

    return rule


def _bilinear(node: fx.Node, sizes: Sizes) -> int:
    """Every output takes the products of all pairs of its two inputs, `x1' W x2`."""
    return math.prod(_full(node, sizes)) * math.prod(_full(argument(node, 2, "weight"), sizes)[1:])


def _summed_over_batch(node: fx.Node, sizes: Sizes) -> int:
    """`sum over b of (B, N, M) x (B, M, P)`."""
    return math.prod(_full(argument(node, 1, "batch1"), sizes)) * _full(argument(node, 2, "batch2"), sizes)[-1]


def _attention(node: fx.Node, sizes: Sizes) -> int:
    """Queries times keys, `(..., H, L, E) x (..., H, S, E)`, and weights times values."""
    keys = _full(argument(node, 1, "key"), sizes)[-2]
    return (math.prod(_full(argument(node, 0, "query"), sizes)) + math.prod(_full(node, sizes))) * keys


_RULES: dict[str, Callable[[fx.Node, Sizes], int]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED, _transposed),
    "linear": _inner(0, "input"),
    "matmul": _inner(0, "self"),
    "mm": _inner(0, "self"),
    "bmm": _inner(0, "self"),
    "mv": _inner(0, "self"),
    "dot": _inner(0, "self"),
    "addmm": _inner(1, "mat1"),
    "addmv": _inner(1, "mat"),
    "baddbmm": _inner(1, "batch1"),
    "addbmm": _summed_over_batch,
    "bilinear": _bilinear,
    "cdist": _inner(0, "x1"),
    "inner": _inner(0, "self"),
    "scaled_dot_product_attention": _attention,
}


# Positions of the factors, where they are not the first two arguments.
_FACTORS = {
    **dict.fromkeys(("addbmm", "addmm", "addmv", "baddbmm"), (1, 3)),
    **dict.fromkeys(("bilinear", "scaled_dot_product_attention"), (0, 3)),
}


def _measured(node: fx.Node, sizes: Sizes) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    def without_memory(arg: Any) -> Any:
        value = arg.meta.get("val") if isinstance(arg, fx.Node) else arg
        if isinstance(value, torch.Tensor):
            return torch.empty(sizes.full(value), dtype=value.dtype, device="meta")
        return sizes.one(value) if isinstance(value, torch.SymInt) else value

    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), without_memory)
    with FlopCounterMode(display=False) as counter:
        node.target(*args, **kwargs)  # type: ignore[operator]
    return int(counter.get_total_flops()) // 2
