"""The schedule: which operator writes which buffer, who reads it, and from when to when it is alive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from mixbit.network._names import Names
from mixbit.network._ops import is_elementwise, is_in_place, is_item, is_view, read_nodes, values
from mixbit.network._program import Program
from mixbit.network._records import Tensor


@dataclass(slots=True)
class _Buffer:
    name: str
    shape: tuple[int, ...]
    first: int
    last: int
    readers: list[str] = field(default_factory=list)
    elsewhere: bool = False

    def frozen(self) -> Tensor:
        return Tensor(
            name=self.name,
            shape=self.shape,
            first_step=self.first,
            last_step=self.last,
            readers=tuple(self.readers),
            read_elsewhere=self.elsewhere,
        )


class Schedule:
    """Walks a program once and keeps, for every family of views, the buffer that holds it.

    A view lives in its source's buffer. An element-wise operator (batch norm, ReLU, dropout, a scale) writes over its
    input if nothing else reads that input, so that convolution, batch norm and ReLU are one buffer; otherwise it is a
    step with a buffer of its own. Everything else is a step that writes a buffer. An add is one too, however the user
    spelled it (`a + b` or `a += b`): costs must not depend on spelling.
    """

    def __init__(self, program: Program, layers: Mapping[fx.Node, str], names: Names) -> None:
        """`layers` maps the quantizable nodes to layer names."""
        self._program, self._layers, self._names = program, layers, names
        self._buffers: dict[fx.Node, _Buffer] = {}
        self.steps: list[str] = []
        self._readers = self._count_readers()
        for node in program.inputs:
            self._add_input(node)
        for node, value in program.constants.items():
            if node in program.live:  # a state that the model writes and reads, e.g. a cache
                self._buffers[node] = _Buffer(names.unique(node.name), tuple(value.shape), 0, 0)
        for node in program.calls:
            if node in program.live and program.family[node] is node and not is_item(node):
                self._visit(node)
            elif is_in_place(node) and program.family[node] in program.live:
                self._write_into(node)
        self._finish()

    def tensors(self) -> tuple[Tensor, ...]:
        """All buffers, in the order in which they are written."""
        return tuple(buffer.frozen() for buffer in {id(b): b for b in self._buffers.values()}.values())

    def buffer(self, node: fx.Node) -> str:
        """Name of the buffer that holds a node's values."""
        return self._buffers[self._program.family[node]].name

    def step(self, node: fx.Node) -> str:
        """Name of a node as a step, also if it is written over its input."""
        return self._layers.get(node) or self._names.of(node)

    def _count_readers(self) -> dict[fx.Node, set[fx.Node]]:
        """Family -> the nodes outside it that read its values; a partial write does not read what it writes into."""
        readers: dict[fx.Node, set[fx.Node]] = {}
        family = self._program.family
        for node in self._program.calls:
            if not (is_view(node) or is_item(node)):
                for arg in read_nodes(node):
                    if family[arg] is not family[node]:
                        readers.setdefault(family[arg], set()).add(node)
        for node in self._program.outputs:
            readers.setdefault(family[node], set()).add(node.graph.output_node())
        return readers

    def _add_input(self, node: fx.Node) -> None:
        alone = len(self._program.inputs) == 1
        name = self._names.unique("input" if alone else f"input:{node.name}")
        self._buffers[node] = _Buffer(name, self._shape(node), 0, 0)

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return self._program.sizes.sample(next(values(node)))

    def _visit(self, node: fx.Node) -> None:
        sources = self._program.live_inputs(node)
        if self._fits_over(node, sources):
            self._buffers[node] = self._buffers[sources[0]]
            return
        layer = self._layers.get(node)
        self.steps.append(layer or self._names.of(node))
        for at, source in enumerate(sources):
            # A layer's input comes first; a bias that the model computes is not quantized with it.
            self._read(source, layer if at == 0 else None)
        for result, shape, name in self._results(node):
            self._buffers[result] = _Buffer(name, shape, len(self.steps) - 1, len(self.steps) - 1)

    def _results(self, node: fx.Node) -> list[tuple[fx.Node, tuple[int, ...], str]]:
        """(node, shape, name) of every buffer that a step writes; several where it has several results."""
        step = self.steps[-1]
        found = list(values(node))
        if len(found) == 1 and not any(is_item(user) for user in node.users):
            return [(node, self._program.sizes.sample(found[0]), step)]
        picks = [user for user in node.users if is_item(user) and next(values(user), None) is not None]
        names = [step if not at else self._names.unique(f"{step}[{at}]") for at in range(len(picks))]
        return [(pick, self._shape(pick), name) for pick, name in zip(picks, names, strict=True)]

    def _fits_over(self, node: fx.Node, sources: list[fx.Node]) -> bool:
        """Whether the result is written over its only input."""
        if not is_elementwise(node, len(sources)) or self._readers.get(sources[0], set()) - {node}:
            return False
        old = self._buffers.get(sources[0])
        return old is not None and math.prod(self._shape(node)) <= math.prod(old.shape)

    def _write_into(self, node: fx.Node) -> None:
        """A write into a part of a buffer: a step, but no new buffer."""
        self.steps.append(self._names.of(node))
        for source in self._program.live_inputs(node):
            if source is not self._program.family[node]:
                self._read(source, None)
        self._buffers[self._program.family[node]].last = len(self.steps) - 1

    def _read(self, source: fx.Node, layer: str | None) -> None:
        buffer = self._buffers[source]
        buffer.last = len(self.steps) - 1
        if layer is None:
            buffer.elsewhere = True
        elif layer not in buffer.readers:
            buffer.readers.append(layer)

    def _finish(self) -> None:
        """The caller reads the outputs after the last step."""
        for node in self._program.outputs:
            buffer = self._buffers.get(self._program.family[node])
            if buffer is not None:
                buffer.last, buffer.elsewhere = max(len(self.steps) - 1, 0), True
