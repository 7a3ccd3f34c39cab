"""Whether the installed ONNX Runtime saturates on this machine: asked of the runtime itself, with a tiny model."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mixbit.errors import MissingExtra
from mixbit.export._onnx_session import load_session
from mixbit.export._onnx_sheet import IR_VERSION

__all__ = ["runtime_saturates"]

_CHANNELS, _OPSET = 32, 21
_LARGEST, _WEIGHT = 255, 127


@cache
def runtime_saturates() -> bool:
    """Whether sums of two products of uint8 and int8 saturate here, in a convolution or in a matrix product.

    Both kernels multiply the largest integers, 255 and 127. Where two products are added in int16, 64770 becomes 32767.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
    """
    session = load_session(_model())
    pixels = np.full((1, _CHANNELS, 3, 3), _LARGEST, np.uint8)
    found = session.run(None, {"pixels": pixels, "row": pixels[:, :, 0, 0]})
    return any(not np.array_equal(one, np.full_like(one, wanted)) for one, wanted in zip(found, _WANTED, strict=True))


# The convolution's result is in steps of what one weight adds, so that it fits into uint8.
_WANTED = (_CHANNELS, _CHANNELS * _LARGEST * _WEIGHT)


def _model() -> bytes:
    """A quantized convolution and an integer matrix product, all of their weights at the upper end of int8."""
    try:
        from onnx import TensorProto, helper
    except ImportError as cause:
        raise MissingExtra("Asking the runtime needs onnx: pip install 'mixbit[export]'.") from cause
    kernel, matrix = (np.full(shape, _WEIGHT, np.int8) for shape in (_KERNEL, _MATRIX))
    numbers = {"one": 1.0, "step": float(_LARGEST * _WEIGHT), "zero": np.uint8(0), "weight_zero": np.int8(0)}
    grid = ["one", "zero"]
    nodes = [
        helper.make_node("QLinearConv", ["pixels", *grid, "kernel", "one", "weight_zero", "step", "zero"], ["map"]),
        helper.make_node("MatMulInteger", ["row", "matrix", "zero", "weight_zero"], ["sums"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("pixels", TensorProto.UINT8, [1, _CHANNELS, 3, 3]),
            ("row", TensorProto.UINT8, [1, _CHANNELS]),
            ("map", TensorProto.UINT8, None),
            ("sums", TensorProto.INT32, None),
        )
    ]
    graph = helper.make_graph(nodes, "probe", ends[:2], ends[2:], _constants(kernel, matrix, numbers))
    opsets = [helper.make_opsetid("", _OPSET)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return content


_KERNEL, _MATRIX = (_CHANNELS, _CHANNELS, 1, 1), (_CHANNELS, _CHANNELS)


def _constants(kernel: Any, matrix: Any, numbers: dict[str, Any]) -> list[Any]:
    from onnx import numpy_helper

    scalars = {name: np.float32(one) if isinstance(one, float) else one for name, one in numbers.items()}
    values = {"kernel": kernel, "matrix": matrix, **scalars}
    return [numpy_helper.from_array(np.asarray(one), name) for name, one in values.items()]
