"""ONNX files from outside: what one may hold, looked at before a runtime or the qonnx package opens it.

A file is data. Nothing that it names is imported, no other file is read for it, it has no loops, and its tensors are of
a size that this machine holds. The qonnx package imports the Python module that a node's domain names, and a runtime
follows loops and allocates what a shape says: so the look comes first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit.errors import ExportError, MissingExtra, shown
from mixbit.export import _onnx_functions

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

__all__ = ["QONNX_DOMAIN", "Foreign", "read_foreign"]

QONNX_DOMAIN = "qonnx.custom_op.general"
"""Domain of the operators that QONNX adds to ONNX."""
_LARGEST_FILE = 2**31 - 1
_LARGEST_TENSOR = 2**28
_FIRST_BYTE = b"\x08"
"""A serialized model starts with the field of its IR version."""

# Without branches and loops. A tensor of constants has a size that a number in the file gives: see `_check_sizes`.
_NAMES = (
    "Abs Add AveragePool BatchNormalization BitShift BitwiseAnd BitwiseOr Cast Ceil Clip Concat Constant"
    " ConstantOfShape Conv ConvInteger DequantizeLinear Div Dropout Elu Equal Erf Exp Flatten Floor Gather"
    " GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater HardSigmoid HardSwish Identity"
    " LayerNormalization LeakyRelu Less Log LogSoftmax MatMul MatMulInteger Max MaxPool Min Mish Mod Mul Neg Not"
    " PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum"
    " Relu Reshape Round Selu Shape Sigmoid Sign Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish"
    " Tanh Transpose Unsqueeze Where"
)
_OPERATORS = frozenset(_NAMES.split())
_QONNX_OPERATORS = frozenset(("Quant", "BipolarQuant", "Trunc"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A file that was looked at."""

    path: Path
    content: bytes
    model: ModelProto
    qonnx: bool
    """Whether it has operators of QONNX, which no runtime knows."""


def read_foreign(path: str | os.PathLike[str]) -> Foreign:
    """Read an ONNX or QONNX file.

    Raises:
        MissingExtra: onnx is not installed.
        ExportError: it is no regular file, no whole ONNX model, or holds what a file of `mixbit export` never holds:
            operators of unknown domains or kinds, loops and branches, weights in other files, tensors beyond all
            memory.
    """
    try:
        from onnx import ModelProto
    except ImportError as cause:
        raise MissingExtra("Reading an ONNX file needs onnx: pip install 'mixbit[export]'.") from cause
    name = shown(str(path))
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size > _LARGEST_FILE:
        raise ExportError(f"{name} has {size} bytes. Legal: at most {_LARGEST_FILE}, which is all that protobuf holds.")
    content = _io.read_bytes(path, error=ExportError)
    if not content.startswith(_FIRST_BYTE):
        raise ExportError(f"{name} is no ONNX model. Legal: a file of `mixbit export`, or any other ONNX file.")
    try:
        model = ModelProto.FromString(content)
    except Exception as cause:  # protobuf's DecodeError; protobuf ships no types
        raise _damaged(name, content) from cause
    if not model.graph.node or not model.opset_import or not model.graph.output:
        raise _damaged(name, content)
    qonnx = any(node.domain == QONNX_DOMAIN for node in model.graph.node)
    _check_operators(name, model, qonnx=qonnx)
    _check_tensors(name, model)
    _check_sizes(name, model)
    return Foreign(path=Path(path), content=content, model=model, qonnx=qonnx)


def _damaged(name: str, content: bytes) -> ExportError:
    return ExportError(f"{name} is truncated or damaged ({len(content)} bytes). Export or copy it again.")


def _check_operators(name: str, model: ModelProto, *, qonnx: bool) -> None:
    """Operators of known domains and kinds, without graphs of their own."""
    functions = frozenset(function.name for function in model.functions)
    strange = [function.domain for function in model.functions if qonnx or function.domain != _onnx_functions.DOMAIN]
    if strange:
        raise _refused(name, f"defines a function of the domain {shown(strange[0])}")
    own = (QONNX_DOMAIN, _QONNX_OPERATORS) if qonnx else (_onnx_functions.DOMAIN, functions)
    for node in model.graph.node:
        _check_node(name, node, {"": _OPERATORS, own[0]: own[1]})
    for function in model.functions:
        for node in function.node:
            _check_node(name, node, {"": _OPERATORS})


def _check_node(name: str, node: NodeProto, known: dict[str, frozenset[str]]) -> None:
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise _refused(name, f"has a loop or a branch ({shown(node.op_type)})")
    if node.domain not in known:
        raise _refused(name, f"has an operator of the domain {shown(node.domain)}")
    if node.op_type not in known[node.domain]:
        raise _refused(name, f"has the operator {shown(node.op_type)}" + (f" of {node.domain}" if node.domain else ""))


def _check_tensors(name: str, model: ModelProto) -> None:
    """Weights are in the file itself."""
    for tensor in _tensors(model):
        if tensor.data_location != type(tensor).DEFAULT or tensor.external_data:
            raise _refused(name, f"keeps the tensor {shown(tensor.name)} in another file")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    bodies: list[Iterable[Any]] = [model.graph.node, *(function.node for function in model.functions)]
    for nodes in bodies:
        for node in nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def _check_sizes(name: str, model: ModelProto) -> None:
    """Tensors of one sample, as far as shapes can be told beforehand; those of constants always."""
    from onnx import inliner, shape_inference

    try:
        whole = inliner.inline_local_functions(model) if model.functions else model
        graph = shape_inference.infer_shapes(whole, data_prop=True).graph
    except Exception as cause:  # whatever the C++ of onnx makes of a damaged model
        raise _refused(name, f"has no consistent shapes ({str(cause).strip().splitlines()[0]})") from cause
    known = set()
    for value in (*graph.value_info, *graph.output, *graph.input):
        shape = value.type.tensor_type.shape
        sizes = [dim.dim_value for dim in shape.dim if dim.HasField("dim_value")]
        if math.prod(sizes) > _LARGEST_TENSOR or any(size < 0 for size in sizes):
            raise _refused(name, f"makes the tensor {shown(value.name)} of {math.prod(sizes)} elements")
        if value.type.tensor_type.HasField("shape") and len(sizes) == len(shape.dim):
            known.add(value.name)
    unknown = [one for one in graph.node if one.op_type == "ConstantOfShape" and one.output[0] not in known]
    if unknown:
        raise _refused(name, f"makes the tensor {shown(unknown[0].output[0])} of a size that cannot be told")


def _refused(name: str, what: str) -> ExportError:
    return ExportError(
        f"{name} {what}, which no file of `mixbit export` does, so it is not run. Legal: what `mixbit export` wrote; "
        "export the network again."
    )
