"""Readable, unique names for the steps of the schedule."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from mixbit.network._ops import op_name
from mixbit.network._program import Program


class Names:
    """Gives every operator a name: its module's path where the module is that operator, else path and operator."""

    def __init__(self, program: Program, reserved: Iterable[str]) -> None:
        """`reserved` names (those of the layers) are given to nothing else."""
        self._program = program
        self._layers = frozenset(reserved)
        self._taken = set(self._layers)
        self._given: dict[fx.Node, str] = {}

    def of(self, node: fx.Node) -> str:
        """`maxpool`, `layer1.0.add`, and `layer1.0.relu:2` where that module is called a second time."""
        if node not in self._given:
            self._given[node] = self.unique(self._wanted(node))
        return self._given[node]

    def unique(self, wanted: str) -> str:
        """That name, or with the first free number after it."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}:{count}"
        self._taken.add(name)
        return name

    def _wanted(self, node: fx.Node) -> str:
        path, module = next(self._program.modules(node), ("", self._program.model))
        # Beside the operator that is the layer, a layer's own forward can call others.
        is_leaf = path and path not in self._layers and not any(True for _ in module.children())
        return path if is_leaf else f"{path}.{op_name(node)}".removeprefix(".")
