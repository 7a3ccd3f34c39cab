"""A model as one flat graph of operators: the one export call, the one way to run an operator, what nodes stand for.

Capture, lowering, maps of layers and runs of a suffix all begin at `follow` and go on with `Program`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from mixbit.network import _export
from mixbit.network._export import ExportFailed, evaluating, is_data_dependent
from mixbit.network._inputs import Inputs, read_inputs
from mixbit.network._layers import LayerFinder
from mixbit.network._names import Names
from mixbit.network._ops import argument, is_in_place, is_item, is_shape_only, op_name, values, words
from mixbit.network._program import Program, read_program
from mixbit.network._sizes import DataDependent

__all__ = [
    "LayerFinder",
    "Names",
    "Program",
    "Unfollowable",
    "argument",
    "evaluating",
    "execute",
    "follow",
    "interpret",
    "is_data_dependent",
    "is_in_place",
    "is_item",
    "is_shape_only",
    "op_name",
    "values",
    "words",
]


class Unfollowable(Exception):
    """There is no one graph of the model; the cause is what PyTorch, or the reading of its graph, raised."""

    @property
    def reason(self) -> str:
        """What the cause says."""
        return str(self.__cause__)


def follow(model: nn.Module, example: Any) -> Program:
    """The operators of a model in order of execution, from one call of `torch.export`; call it under `evaluating`.

    Args:
        model: in evaluation mode.
        example: inputs as the model is called with, see `mixbit.data.Batch`; or `Inputs`. Two samples keep the batch a
            symbol, where the model allows that.

    Raises:
        Unfollowable: PyTorch cannot export the model, or its graph branches or loops on values.

    >>> program = follow(nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval(), torch.zeros(2, 2))
    >>> [op_name(node) for node in program.calls]
    ['linear', 'relu']
    """
    inputs = example if isinstance(example, Inputs) else read_inputs(example)
    try:
        return read_program(model, *_export.export(model, inputs))
    except (DataDependent, ExportFailed) as error:
        raise Unfollowable from (error.__cause__ or error)


def execute(node: fx.Node, read: Callable[[fx.Node], Any]) -> Any:
    """Run one operator on the values that `read` gives of the nodes that it reads.

    >>> program = follow(nn.Sequential(nn.ReLU()).eval(), torch.zeros(2, 2))
    >>> execute(program.calls[0], lambda node: torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), read)
    return node.target(*args, **kwargs)  # type: ignore[operator]


@torch.no_grad()
def interpret(program: Program, batch: Tensor) -> Iterator[tuple[fx.Node, Tensor]]:
    """Run a program of one input operator by operator: nodes and their tensors; a value goes after its last reader.

    A value holds until the next one is asked for: a later operator may write into it. Neither the batch nor a buffer of
    the model is written into.
    """
    env: dict[fx.Node, Any] = {n: program.model.get_parameter(name) for n, name in program.parameters.items()}
    env.update((node, value.clone()) for node, value in program.constants.items())
    env[program.inputs[0]] = batch.clone()
    yield program.inputs[0], env[program.inputs[0]]
    spent = _spent(program)
    for node in program.calls:
        env[node] = execute(node, env.__getitem__)
        if isinstance(env[node], Tensor):
            yield node, env[node]
        for one in spent.get(node, ()):
            del env[one]


def _spent(program: Program) -> dict[fx.Node, list[fx.Node]]:
    """Operator -> the values that nothing reads after it, and that depend on the input."""
    last: dict[fx.Node, fx.Node] = {}
    for node in program.calls:
        last.update(dict.fromkeys([node, *node.all_input_nodes], node))
    spent: dict[fx.Node, list[fx.Node]] = {}
    for one, node in last.items():
        if one in program.live:
            spent.setdefault(node, []).append(one)
    return spent
