"""Adds and concats, and the layers whose outputs meet in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from mixbit.network._macs import multiplies
from mixbit.network._ops import op_name
from mixbit.network._program import Program
from mixbit.network._records import Join
from mixbit.network._tensors import Schedule

_ADDS = {"add"}
_CONCATS = {"cat", "concat", "concatenate", "hstack", "stack", "vstack"}


def find_joins(program: Program, layers: Mapping[fx.Node, str], schedule: Schedule) -> Iterator[Join]:
    """Every add and concat of two or more tensors that depend on the input, with the nearest layers above each.

    The way up goes through everything that has no weights of its own: batch norm, activations, views, pools, other
    adds. It ends at a layer, at a product of matrices and at a skipped operation.
    """
    above: dict[fx.Node, dict[str, None]] = {}
    for node in program.calls:
        if node not in program.live:
            continue
        met: dict[str, None] = {}
        for arg in node.all_input_nodes:
            met.update(above.get(arg, {}))
        above[node] = {layers[node]: None} if node in layers else {} if multiplies(node) else met
        kind = op_name(node)
        if kind in _ADDS | _CONCATS and len(program.live_inputs(node)) > 1:
            order = tuple(name for name in layers.values() if name in met)
            yield Join(name=schedule.step(node), kind="add" if kind in _ADDS else "concat", layers=order)
