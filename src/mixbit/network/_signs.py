"""Which tensors can hold a negative number, by a forward pass over the graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from mixbit.network._ops import argument, is_in_place, op_name, words
from mixbit.network._program import Program

Signs = dict[fx.Node, bool]

# Never negative, whatever the input.
_NON_NEGATIVE = words(
    """
    _softmax abs bernoulli eq erfc exp ge gt hardsigmoid isfinite isinf isnan le logical_and logical_not logical_or lt
    ne new_ones new_zeros norm one_hot ones ones_like rand rand_like relu relu6 rsqrt sigmoid softmax sqrt square std
    var zeros zeros_like
    """
)
# Not negative if no tensor and no number among the arguments is.
_KEEPS_SIGN = words(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _to_copy _unsafe_view adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add amax amin
    avg_pool1d avg_pool2d avg_pool3d baddbmm bmm cat ceil celu channel_shuffle clone concat concatenate contiguous
    copy cumsum div divide dropout elu erf expm1 feature_dropout fill flip gather gelu getitem hardswish hstack im2col
    index index_add index_copy index_fill index_put index_select kthvalue leaky_relu lift_fresh_copy log1p masked_fill
    masked_select matmul max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices mean median min minimum mish mm mul multiply nan_to_num native_dropout pixel_shuffle
    pixel_unshuffle reciprocal reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d
    replication_pad2d round scatter scatter_add silu softshrink softsign sort stack sum take tanh tile to topk
    true_divide trunc type_as upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d vstack where
    """
)
# Among those, the operators whose plain numbers are values; elsewhere they are axes and sizes, where -1 is common.
_NUMBERS_ARE_VALUES = words(
    "add baddbmm div divide fill index_fill masked_fill mul multiply nan_to_num true_divide where"
)
# In evaluation these hand on what they are given; in training they put a negative number for what they drop.
_NEGATIVE_IN_TRAINING = words("alpha_dropout feature_alpha_dropout")


def can_be_negative(program: Program, inputs_signed: Signs) -> Signs:
    """Whether each node can yield a negative number.

    Parameters can, since training moves them; buffers are looked at. An operator that is not known can. The rules cover
    ReLU and its bounded kin, sigmoid, softmax, pools, and sums, products and concatenations of what is not negative.

    Args:
        program: the flat graph.
        inputs_signed: the answer for each of `program.inputs`.
    """
    signed = {**inputs_signed, **dict.fromkeys(program.parameters, True)}
    signed.update({node: has_negative(value) for node, value in program.constants.items()})
    before: Signs = {}
    while before != signed:
        before = dict(signed)
        for node in program.calls:
            _visit(program, node, signed)
    return signed


def has_negative(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds a negative number; True where that cannot be told (complex, meta)."""
    return tensor.is_complex() or tensor.is_meta or bool((tensor < 0).any())


def example_negative(tensor: torch.Tensor) -> bool:
    """Whether a model's input counts as signed: always, unless the example has positive numbers and no negative one.

    An example of zeros, which is often given for its shape alone, says nothing.
    """
    return has_negative(tensor) or not bool((tensor > 0).any())


def _visit(program: Program, node: fx.Node, signed: Signs) -> None:
    base = program.family[node]
    if op_name(node) in _NEGATIVE_IN_TRAINING and argument(node, 1, "p") != 0:
        signed[base] = signed[node] = True
        return
    if base is not node:
        # A view has what its base has; a write into a view can make the base negative.
        if is_in_place(node):
            signed[base] = signed.get(base, True) or _result(node, signed)
        signed[node] = signed.get(base, True)
        return
    # Once negative, always: a later write into this memory is seen in the next round.
    signed[node] = signed.get(node, False) or _result(node, signed)
    if is_in_place(node):
        written = program.family[node.all_input_nodes[0]]
        signed[written] = signed.get(written, True) or signed[node]


def _result(node: fx.Node, signed: Signs) -> bool:
    name = op_name(node)
    if name in _NON_NEGATIVE:
        return False
    if name in _RULES:
        return _RULES[name](node, signed)
    return name not in _KEEPS_SIGN or _any(node, signed)


def _any(node: fx.Node, signed: Signs) -> bool:
    numbers = [*node.args, *node.kwargs.values()] if op_name(node) in _NUMBERS_ARE_VALUES else []
    return any(map(_negative, numbers)) or any(signed.get(arg, True) for arg in node.all_input_nodes)


def _negative(value: object) -> bool:
    return isinstance(value, int | float) and value < 0


def _may_be_negative(value: object, signed: Signs) -> bool:
    """Of an argument that is a number, a tensor or nothing."""
    return signed.get(value, True) if isinstance(value, fx.Node) else _negative(value)


def _first(node: fx.Node, signed: Signs) -> bool:
    return signed.get(node.all_input_nodes[0], True)


def _clamp(node: fx.Node, signed: Signs) -> bool:
    """Clipped from below at 0 or more: not negative."""
    clips = op_name(node) == "hardtanh"
    low = argument(node, 1, "min_val" if clips else "min", -1.0 if clips else None)
    high = argument(node, 2, "max_val" if clips else "max", 1.0 if clips else None)
    bounded = low is not None and not _may_be_negative(low, signed)
    return _may_be_negative(high, signed) or (not bounded and _first(node, signed))


def _clamp_max(node: fx.Node, signed: Signs) -> bool:
    return _first(node, signed) or _may_be_negative(argument(node, 1, "max"), signed)


def _power(node: fx.Node, signed: Signs) -> bool:
    base, exponent = argument(node, 0, "self"), argument(node, 1, "exponent")
    return not (isinstance(exponent, int | float) and exponent % 2 == 0) and _may_be_negative(base, signed)


def _softplus(node: fx.Node, _signed: Signs) -> bool:
    return _negative(argument(node, 1, "beta", 1))


def _scatter(node: fx.Node, signed: Signs) -> bool:
    return _any(node, signed) or _negative(argument(node, 3, "value"))


def _index_add(node: fx.Node, signed: Signs) -> bool:
    return _any(node, signed) or _negative(argument(node, 4, "alpha", 1))


def _maximum(node: fx.Node, signed: Signs) -> bool:
    return all(signed.get(arg, True) for arg in node.all_input_nodes)


def _padding(node: fx.Node, signed: Signs) -> bool:
    value = argument(node, 3 if op_name(node) == "pad" else 2, "value", 0)
    return _any(node, signed) or _negative(value)


def _filled(node: fx.Node, signed: Signs) -> bool:
    value = argument(node, 2 if op_name(node) == "new_full" else 1, "fill_value")
    return not isinstance(value, int | float) or value < 0


def _arange(node: fx.Node, signed: Signs) -> bool:
    return any(map(_negative, node.args))


def _attention(node: fx.Node, signed: Signs) -> bool:
    """A mean of the values: attention's weights are not negative."""
    return signed.get(argument(node, 2, "value"), True)


_RULES: dict[str, Callable[[fx.Node, Signs], bool]] = {
    "arange": _arange,
    "clamp": _clamp,
    "clamp_max": _clamp_max,
    "clamp_min": _clamp,
    "clip": _clamp,
    "constant_pad_nd": _padding,
    "full": _filled,
    "full_like": _filled,
    "hardtanh": _clamp,
    "index_add": _index_add,
    "maximum": _maximum,
    "new_full": _filled,
    "pad": _padding,
    "pow": _power,
    "scaled_dot_product_attention": _attention,
    "scatter": _scatter,
    "softplus": _softplus,
}
