"""A sheet on which an ONNX graph is written: nodes, initializers that are shared, and short names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mixbit.export._onnx_functions import DOMAIN, OPSET, functions
from mixbit.integer.arithmetic import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["INPUT", "IR_VERSION", "OUTPUT", "Role", "Sheet"]

IR_VERSION = 10
INPUT, OUTPUT = "input", "output"
Role: TypeAlias = Literal["weights", "scales", "biases", "grids", "tables", "shapes"]
_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Scales and zero points of activations recur, and so do shapes; comparing weights with each other would find nothing.
_SHARED: tuple[Role, ...] = ("grids", "shapes", "weights")


class Sheet:
    """Nodes in order of execution. Methods return the name of the tensor that they add."""

    def __init__(self) -> None:
        self.roles: dict[str, Role] = {}
        """What each initializer is for."""
        self._nodes: list[NodeProto] = []
        self._used: set[str] = set()
        self._initializers: list[TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names = _short_names()

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an ONNX operator, and name its output."""
        from onnx import helper

        output = next(self._names)
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def call(self, function: str, *inputs: str, **attributes: Any) -> str:
        """One of our functions, which comes into the file with all that it calls."""
        self._used.add(function)
        return self.node(function, *inputs, domain=DOMAIN, **attributes)

    def constant(self, value: Array, role: Role) -> str:
        """An initializer; equal grids, shapes and weights are one."""
        from onnx import numpy_helper

        key = (value.dtype.str, value.shape, value.tobytes() if role in _SHARED else b"")
        if role in _SHARED and key in self._known:
            return self._known[key]
        name = next(self._names)
        self._initializers.append(numpy_helper.from_array(value, name))
        self.roles[name] = role
        self._known[key] = name
        return name

    def number(self, value: float, dtype: type[np.generic], role: Role = "grids") -> str:
        """Add a scalar initializer, and give its name."""
        return self.constant(np.array(value, dtype), role)

    def shape(self, *numbers: int) -> str:
        """A list of int64: a shape, axes, or bounds along them."""
        return self.constant(np.array(numbers, np.int64), "shapes")

    def model(
        self, output: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], metadata: dict[str, str]
    ) -> ModelProto:
        """The ONNX model of all that was added.

        Args:
            output: the tensor that becomes the output of the model.
            shapes: of one sample, of input and output, both float32.
            metadata: goes into the file as properties of the model.
        """
        from onnx import helper

        from mixbit._version import __version__

        for node in self._nodes:
            _rename(node, output, OUTPUT)
        ends = [[_float(name, shape)] for name, shape in zip((INPUT, OUTPUT), shapes, strict=True)]
        graph = helper.make_graph(self._nodes, DOMAIN, *ends, initializer=self._initializers)
        called = functions(self._used)
        opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(DOMAIN, 1)] if called else [])
        found = helper.make_model(
            graph,
            opset_imports=opsets,
            functions=called,
            ir_version=IR_VERSION,
            producer_name=DOMAIN,
            producer_version=__version__,
        )
        helper.set_model_props(found, metadata)
        return found


def _float(name: str, shape: tuple[int, ...]) -> ValueInfoProto:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])


def _rename(node: NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        for at, name in enumerate(names):
            if name == old:
                names[at] = new


def _short_names() -> Iterator[str]:
    """a, b, ..., Z, aa, ab, ...: a name costs its length wherever it stands."""
    for number in count():
        name, rest = "", number
        while rest >= 0:
            name, rest = _ALPHABET[rest % 52] + name, rest // 52 - 1
        yield name
