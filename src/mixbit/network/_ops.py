"""What the operators of an exported graph do to memory: views, element-wise operators, factories, writes in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx


def words(text: str) -> frozenset[str]:
    """The words of a text: names of operators."""
    return frozenset(text.split())


# Element-wise in one tensor: the result can be written over the input.
_UNARY = words(
    """
    _to_copy abs alpha_dropout batch_norm bernoulli ceil celu clamp clamp_max clamp_min clip clone contiguous cos
    dropout elu erf exp expm1 fake_quantize_per_channel_affine fake_quantize_per_tensor_affine feature_alpha_dropout
    feature_dropout floor gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log log1p log_sigmoid logit mish
    nan_to_num native_batch_norm neg negative prelu reciprocal relu relu6 round rrelu rsqrt selu sigmoid sign silu sin
    softplus softshrink softsign sqrt square tanh tanhshrink threshold to trunc type_as
    """
)
# Element-wise in several tensors: as good as unary where all but one are constants of the model.
_ELEMENTWISE = words(
    """
    add addcdiv addcmul copysign div divide floor_divide fmod lerp masked_fill maximum minimum mul multiply pow
    remainder rsub sub subtract true_divide where
    """
)
# In evaluation these return their input.
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
# Only the shape of the input is read.
_SHAPE_ONLY = words(
    "new_empty new_empty_strided new_full new_ones new_zeros sym_numel sym_size sym_storage_offset sym_stride"
)
# Of their second tensor, only the shape or the type is read.
_LIKE_ANOTHER = words("expand_as reshape_as type_as view_as")
# Annotated as views in their schema, but they copy, or may.
_COPIES = {"contiguous", "to", "type_as"}


def op_name(node: fx.Node) -> str:
    """Operator name without overload and without the underscore of writing in place: `aten.relu_.default` -> `relu`."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    name = str(schema.name).rpartition("::")[2]
    return name[:-1] if is_in_place(node) and name.endswith("_") else name


def namespace(node: fx.Node) -> str:
    """Library of the operator, e.g. `aten`; empty for Python functions."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[0]


def is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes into its first argument."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.arguments:
        return False
    alias = schema.arguments[0].alias_info
    return alias is not None and alias.is_write


def is_view(node: fx.Node) -> bool:
    """Whether the result shares memory with the first argument and has its values; dropout in evaluation counts."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.returns or is_in_place(node):
        return False
    name = op_name(node)
    if name in _DROPOUTS:
        return len(node.args) > 2 and node.args[2] is False
    return name not in _COPIES and schema.returns[0].alias_info is not None


def is_shape_only(node: fx.Node) -> bool:
    """Whether the operator reads no value of its tensors: sizes, factories like another tensor, assertions."""
    name = op_name(node)
    return name in _SHAPE_ONLY or name.endswith("_like") or name.startswith("_assert")


def read_nodes(node: fx.Node) -> list[fx.Node]:
    """Nodes whose values the operator reads: not those that lend it a shape or a type."""
    if is_shape_only(node):
        return []
    return list(node.all_input_nodes)[: 1 if op_name(node) in _LIKE_ANOTHER else None]


def is_elementwise(node: fx.Node, live_inputs: int) -> bool:
    """Whether the result can be written over the one input that depends on the sample."""
    name = op_name(node)
    return live_inputs == 1 and (name in _UNARY or name in _ELEMENTWISE)


def tensor_nodes(node: fx.Node) -> list[fx.Node]:
    """Arguments that are results of other nodes, in order, each once."""
    return list(node.all_input_nodes)


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """An argument by position or by name."""
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def is_item(node: fx.Node) -> bool:
    """Whether the node picks one result of an operator with several."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def values(node: fx.Node) -> Iterator[torch.Tensor]:
    """Fake tensors that a node yields: one, several or none."""
    found = node.meta.get("val")
    for value in found if isinstance(found, tuple | list) else [found]:
        if isinstance(value, torch.Tensor):
            yield value
