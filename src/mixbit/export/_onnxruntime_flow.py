"""Which layer each operation of ONNX Runtime's optimized network serves."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mixbit.errors import ExportError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Flow", "tagged"]

_TAG = re.compile(r"layer\.(\d+)")
_PRODUCTS = ("Conv", "Gemm", "ConvInteger", "MatMul", "MatMulInteger")
_SCALING = ("Add", "Cast", "Mul")
# With one input that a sample decides; an addition is then a change of scale, a product that of a float32 result.
_ELEMENTWISE = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "Clip",
        "Transpose",
        "Cast",
        "QLinearAdd",
        "Add",
        "Mul",
        "Sub",
        "Reshape",
        "Squeeze",
    ]
)
# Attributes that decide the time of an operation on given shapes.
_DECISIVE = frozenset(["channels_last", "dilations", "group", "kernel_shape", "pads", "perm", "strides"])


def tagged(model: ModelProto, layers: int) -> ModelProto:
    """The model with all functions written out and every node named; those that hold a layer's weights by number.

    The runtime keeps the names of nodes when it fuses them, so its optimized network tells which node was which. A
    layer whose input takes two bytes has two products, one right after the other; what adds and scales exact sums is
    its own.
    """
    from onnx import inliner

    plain = inliner.inline_local_functions(model)
    makers = {output: node for node in plain.graph.node for output in node.output}
    stored = {tensor.name for tensor in plain.graph.initializer}
    count, before, tags = 0, None, dict[str, str]()
    for at, node in enumerate(plain.graph.node):
        tag = None
        if node.op_type in _PRODUCTS and _root(node.input[1], makers) in stored:
            count += before is None or _operands(before) != _operands(node)
            tag = f"layer.{count - 1}"
        elif node.op_type in _SCALING:
            moving = {tags.get(name) for name in node.input if _root(name, makers) == plain.graph.input[0].name}
            tag = moving.pop() if len(moving) == 1 else None
        node.name = f"node.{at}" if tag is None else f"{tag}.{at}"
        tags |= {} if tag is None else dict.fromkeys(node.output, tag)
        before = node
    if count != layers:
        raise ExportError(f"{count} products with weights were written for {layers} layers. Please report it.")
    return plain


def _operands(node: NodeProto) -> tuple[str, list[str]]:
    """What is done, and with which weights."""
    return node.op_type, list(node.input[1:2])


def _root(name: str, makers: Mapping[str, NodeProto]) -> str:
    """Where a tensor comes from, by first inputs: weights come from an initializer, whatever unpacks them."""
    while name in makers and makers[name].input:
        name = makers[name].input[0]
    return name


class Flow:
    """The runtime's optimized network: what reads what."""

    def __init__(self, model: ModelProto, layers: Sequence[str]) -> None:
        self.nodes: list[NodeProto] = list(model.graph.node)
        self._layers = layers
        self._input = model.graph.input[0].name
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {output: node for node in self.nodes for output in node.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in self._moving(node):
                self._readers[name].append(node)

    def owner(self, node: NodeProto) -> str | None:
        """The layer that an operation serves.

        A layer has its own product, and what only brings one tensor to it: clamps, changes of scale or layout. What
        leads elsewhere belongs to the layer that it comes from. All else (adds, pools, the input) is nobody's.
        """
        if (mine := self._layer(node)) is not None or not self._brings(node):
            return mine
        readers = [self._layer(one) for one in self._ends(node)]
        if readers and all(reader is not None for reader in readers):
            return readers[0]
        return self._layer(self._source(node))

    def details(self, node: NodeProto) -> str:
        """What else decides the time: shapes of weights, and attributes. Numbers in tensors do not."""
        sizes = [
            f"{'x'.join(map(str, tensor.dims))} "
            for name in node.input
            if (tensor := self._constants.get(name)) is not None and len(tensor.dims) > 1
        ]
        return "".join(sizes) + "".join(f"{text} " for text in sorted(_attributes(node)))

    def _layer(self, node: NodeProto | None) -> str | None:
        tag = None if node is None else _TAG.match(node.name)
        return None if tag is None else self._layers[int(tag[1])]

    def _moving(self, node: NodeProto) -> list[str]:
        """Inputs that a sample decides."""
        return [name for name in node.input if name == self._input or name in self._makers]

    def _brings(self, node: NodeProto) -> bool:
        """Whether it hands one tensor on, element by element; a graph input is quantized for the whole network."""
        moving = self._moving(node)
        return len(moving) == 1 and moving[0] != self._input and node.op_type in _ELEMENTWISE

    def _ends(self, node: NodeProto) -> Iterator[NodeProto]:
        """The first readers down the flow that do more than hand on."""
        for reader in (one for output in node.output for one in self._readers[output]):
            if self._layer(reader) is None and self._brings(reader):
                yield from self._ends(reader)
            else:
                yield reader

    def _source(self, node: NodeProto) -> NodeProto | None:
        """The first operation up the flow that does more than hand on."""
        maker: NodeProto | None = node
        while maker is not None and self._layer(maker) is None and self._brings(maker):
            maker = self._makers.get(self._moving(maker)[0])
        return maker


def _attributes(node: NodeProto) -> Iterator[str]:
    from onnx import helper

    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name in _DECISIVE:
            yield f"{attribute.name}={value}".replace(" ", "")
