"""Which operators are layers that can be quantized, and why all other weights are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from mixbit.network._macs import TRANSPOSED, factors, multiplies
from mixbit.network._ops import argument, is_shape_only, op_name, values
from mixbit.network._program import Program
from mixbit.network._records import LayerKind
from mixbit.network.carriers import why_not

# Operator -> the module whose weight it may use, and the kind of layer.
_KINDS: dict[str, tuple[type[nn.Module], LayerKind]] = {
    "conv1d": (nn.Conv1d, "conv1d"),
    "conv2d": (nn.Conv2d, "conv2d"),
    "linear": (nn.Linear, "linear"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A quantizable operator of the exported graph."""

    name: str
    kind: LayerKind
    parameter: str
    source: fx.Node
    """What the module is given."""


class LayerFinder:
    """Looks at every operator with a weight, and says of each weight what becomes of it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._readers = self._find_readers()
        self._origins = self._find_origins()
        self.layers: dict[fx.Node, Found] = {}
        for node in program.calls:
            found = self._layer(node)
            if found is not None:
                self.layers[node] = found

    def _find_readers(self) -> dict[str, list[fx.Node]]:
        """Parameter -> nodes that read it itself."""
        readers: dict[str, list[fx.Node]] = {}
        for node, name in self._program.parameters.items():
            readers.setdefault(name, []).extend(user for user in node.users if not is_shape_only(user))
        return readers

    def _find_origins(self) -> dict[fx.Node, tuple[str, ...]]:
        """Node that does not depend on the user's inputs -> the parameters that it is computed from."""
        origins: dict[fx.Node, tuple[str, ...]] = {node: (name,) for node, name in self._program.parameters.items()}
        for node in self._program.calls:
            if node not in self._program.live and not is_shape_only(node):
                names = (name for arg in node.all_input_nodes for name in origins.get(arg, ()))
                origins[node] = tuple(dict.fromkeys(names))
        return origins

    def _layer(self, node: fx.Node) -> Found | None:
        weight = argument(node, 1, "weight") if op_name(node) in _KINDS else None
        parameter = self._program.parameters.get(weight) if isinstance(weight, fx.Node) else None
        if parameter is None or self._objection(node, parameter):
            return None
        kind = _KINDS[op_name(node)][1]
        path, owner = self._program.owner(parameter)
        if isinstance(owner, nn.MultiheadAttention):
            return Found(f"{path}.in_proj".removeprefix("."), "attention_in_proj", parameter, node.all_input_nodes[0])
        return Found(parameter.removesuffix(".weight"), kind, parameter, self._before_padding(node, owner))

    def _objection(self, node: fx.Node, parameter: str) -> str | None:
        """Why a convolution or linear that reads a parameter is no layer, or None."""
        if len(self._readers[parameter]) > 1:
            return self._used_often(parameter)
        _, owner = self._program.owner(parameter)
        wanted, leaf = _KINDS[op_name(node)][0], parameter.rpartition(".")[2]
        packed = isinstance(owner, nn.MultiheadAttention) and leaf == "in_proj_weight" and op_name(node) == "linear"
        if not packed and not (isinstance(owner, wanted) and leaf == "weight"):
            return f"functional weight: no module's own weight, but an argument of {op_name(node)}"
        if not any(module is owner or _projects_with(module, owner) for _, module in self._program.modules(node)):
            return f"functional weight: used outside its module's forward, by {op_name(node)} in {self._place(node)}"
        if argument(node, 0, "input") not in self._program.live:
            return "its input does not depend on the example: the result is a constant"
        return why_not(self._program.model, parameter)

    def _before_padding(self, node: fx.Node, owner: nn.Module) -> fx.Node:
        """What the module is given. A pad that only convolutions read is part of them, like their own padding.

        So it lives in the buffer that it pads. If the module pads by itself (padding_mode="reflect"), it is given the
        tensor before; if the user's code pads with zeros (TensorFlow's SAME), it is given the padded one.
        """
        source = node.all_input_nodes[0]
        if op_name(source) != "pad" or not all(op_name(user) in _KINDS for user in source.users):
            return source
        inside = next(self._program.modules(source), ("", None))[1] is owner
        constant = argument(source, 2, "mode", "constant") == "constant"
        if argument(source, 3, "value") or not (inside or constant):
            return source
        before = source.all_input_nodes[0]
        self._program.family[source] = self._program.family[before]
        return before if inside else source

    def _used_often(self, parameter: str) -> str:
        readers = self._readers[parameter]
        places = dict.fromkeys(self._place(node) for node in readers)
        return f"weight used {len(readers)} times (in {', '.join(places)})"

    def _place(self, node: fx.Node) -> str:
        return self._program.path(node) or "the model's own forward"

    def left_out(self) -> Iterator[tuple[str, str, list[fx.Node]]]:
        """(name, reason, products with it) of every parameter with two or more dimensions that is no layer's."""
        taken = {found.parameter for found in self.layers.values()}
        for name, parameter in self._program.model.named_parameters():
            if parameter.dim() >= 2 and name not in taken and name.rpartition(".")[2] != "bias":
                products = self.products(name)
                yield _shown(name), self._reason(name, products), products

    def why_float(self, parameter: str) -> str | None:
        """Why a parameter that is no layer's stays in float32; None for one that nothing reads."""
        return self._reason(parameter, self.products(parameter)) if self._readers.get(parameter) else None

    def products(self, parameter: str) -> list[fx.Node]:
        """Operators that multiply with a parameter, itself or computed from it."""
        return [
            node
            for node in self._program.calls
            if multiplies(node) and any(parameter in self._origins.get(arg, ()) for arg in factors(node))
        ]

    def _reason(self, parameter: str, products: list[fx.Node]) -> str:
        readers = self._readers.get(parameter, [])
        if not readers:
            return "not reached by the example"
        if len(readers) > 1 and products:
            return self._used_often(parameter)
        if not products:
            table = op_name(readers[0]) in ("embedding", "embedding_bag")
            what = "a table that is looked up" if table else "no weight of a convolution or linear"
            return f"{what}: read by {op_name(readers[0])}"
        if readers[0] is not products[0]:
            return self._computed(parameter, readers[0])
        name = op_name(products[0])
        if name in TRANSPOSED or name not in _KINDS:
            return f"{name} is not supported: layers are conv1d, conv2d, linear and packed attention projections"
        return self._objection(products[0], parameter) or "not a layer"

    def _computed(self, parameter: str, reader: fx.Node) -> str:
        if isinstance(self._program.owner(parameter)[1], nn.MultiheadAttention):
            return "cross-attention: parts of the packed weight are applied to different inputs"
        return f"weight is computed before use, by {op_name(reader)}"

    def loose(self) -> Iterator[tuple[fx.Node, str]]:
        """(operator, reason) of convolutions and linears whose weight comes from no parameter."""
        for node in self._program.calls:
            weight = argument(node, 1, "weight")
            if (op_name(node) in _KINDS or op_name(node) in TRANSPOSED) and isinstance(weight, fx.Node):
                if weight in self._program.live:
                    yield node, "functional weight: computed from the input"
                elif not self._origins.get(weight):
                    yield node, "functional weight: a buffer or constant"


def groups(node: fx.Node) -> int:
    """Groups of a convolution; 1 for anything else."""
    return int(argument(node, 6, "groups", 1)) if op_name(node) in ("conv1d", "conv2d") else 1


def result(node: fx.Node) -> torch.Tensor:
    """The fake tensor that a node yields."""
    return next(values(node))


def _projects_with(module: nn.Module, owner: nn.Module) -> bool:
    """nn.MultiheadAttention reads the weight of its output projection without calling it."""
    return isinstance(module, nn.MultiheadAttention) and module.out_proj is owner


def _shown(parameter: str) -> str:
    """Module name of a weight; the parameter's own name if it is called otherwise."""
    if ".parametrizations." in parameter:
        return parameter.partition(".parametrizations.")[0]
    if parameter.endswith("in_proj_weight"):
        return parameter.removesuffix("_weight")
    return parameter.removesuffix(".weight")
