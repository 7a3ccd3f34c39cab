"""Parameters that no choice of bits reaches: all that is no layer's weight, with the MACs that they take part in.

Two kinds are in no list, since lowering folds them into 32-bit biases, one an output channel, which no count of
weights has: biases of layers, and batch norms that read a layer's result alone. A parameter that the example does not
reach is in no file, and in no list either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import fx

from mixbit.network._layers import LayerFinder
from mixbit.network._ops import argument, is_shape_only, op_name, values
from mixbit.network._program import Program
from mixbit.network._records import FloatParameter

_NORMS = ("batch_norm", "native_batch_norm")


def float_parameters(program: Program, finder: LayerFinder, counts: Mapping[fx.Node, int]) -> list[FloatParameter]:
    """Every parameter that stays in float32, once each, and every buffer that a product reads as its weight.

    Args:
        program: the exported program.
        finder: the layers in it.
        counts: MACs of one sample, by operator; those of an operator with several parameters go to the first.
    """
    elsewhere = {found.parameter for found in finder.layers.values()} | set(_folded(program, finder))
    told: set[fx.Node] = set(finder.layers)
    found = []
    for name, parameter in program.model.named_parameters():
        reason = None if name in elsewhere else finder.why_float(name)
        if reason is not None:
            products = [node for node in finder.products(name) if node not in told]
            told.update(products)
            macs = sum(counts[node] for node in products)
            found.append(FloatParameter(name=name, size=parameter.numel(), macs=macs, reason=reason))
    for node, reason in finder.loose():
        weight = argument(node, 1, "weight")
        if node not in told and weight not in program.live:
            size = math.prod(next(values(weight)).shape)
            name = program.path(node) or op_name(node)
            found.append(FloatParameter(name=name, size=size, macs=counts[node], reason=reason))
    return found


def _folded(program: Program, finder: LayerFinder) -> Iterator[str]:
    """Parameters that become part of a layer's bias or of its step sizes."""
    for node in finder.layers:
        yield from _names(program, [argument(node, 2, "bias")])
    for node in program.calls:
        source = node.args[0] if op_name(node) in _NORMS else None
        if isinstance(source, fx.Node) and source in finder.layers and _only_reader(source, node):
            yield from _names(program, node.args[1:3])


def _only_reader(source: fx.Node, node: fx.Node) -> bool:
    return {user for user in source.users if not is_shape_only(user)} == {node}


def _names(program: Program, args: object) -> Iterator[str]:
    for arg in args if isinstance(args, list | tuple) else ():
        if isinstance(arg, fx.Node) and arg in program.parameters:
            yield program.parameters[arg]
