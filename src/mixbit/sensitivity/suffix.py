"""A network run from a given layer on, with all that came before it cached.

Methods that change one or two layers at a time would run the unchanged front of the network again and again. Here the
exported graph of the model is interpreted operator by operator. Where it comes to a layer that was asked for, the
tensors that are still needed from there on are kept (`State`), and a later run starts at that layer.

Quantized weights take the place of the parameters and inputs are quantized where their layer reads them, so a run gives
the numbers of the quantized model. A model that has no such graph is run whole instead, and `Suffix.reason` says why.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from mixbit import _batch, _effort
from mixbit.cost import LayerBits
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task

if TYPE_CHECKING:
    from mixbit.network.program import Program

__all__ = ["State", "Suffix", "Unsupported", "Work"]


@dataclass(slots=True)
class Work:
    """Passes done, in images through the whole network; a pass from the middle is weighed by its layers' MACs."""

    passes: float = 0.0
    """What it would have been without a cache: images of all runs."""
    done: float = 0.0
    """What it was: images of the parts of runs that were made."""

    def __sub__(self, other: Work) -> Work:
        return Work(self.passes - other.passes, self.done - other.done)


@dataclass(frozen=True, slots=True)
class State:
    """All that the network needs to go on from a layer."""

    layer: str | None
    """None: from the input."""
    inputs: Any
    values: dict[fx.Node, Any] = field(default_factory=dict)


class Unsupported(Exception):
    """The graph of this model cannot be interpreted; the text says why."""


class Suffix:
    """Runs a task's model from any searched layer on.

    Args:
        task: its model is the float network; it is not changed.
        probe: the quantizers that `run` switches on.
        x: inputs to export the model with; two samples are enough.

    Attributes:
        order: the searched layers in the order in which the graph meets them.
        reason: why every run is a whole one, or None.
        work: passes so far.
    """

    def __init__(self, task: Task, probe: Perturbation, x: Any) -> None:
        self._probe = probe
        self._model = copy.deepcopy(task.model).eval()
        self._device = next(self._model.parameters()).device
        self._macs = {layer.name: layer.macs for layer in task.network.layers}
        self._weights: dict[tuple[str, int], Tensor] = {}
        self._graphs: dict[int | None, _Graph] = {}
        self.order = tuple(layer.name for layer in probe.layers)
        self.reason: str | None = None
        self.work = Work()
        graph = self._graph(_two(x))
        if graph is not None:
            self.order = tuple(sorted(self.order, key=graph.positions.__getitem__))

    def begin(self, x: Any) -> State:
        """The state before the first operator; `x` are inputs, see `mixbit.data.Batch`."""
        return State(None, _batch.move(x, self._device))

    @torch.no_grad()
    def run(
        self, state: State, chosen: Mapping[str, LayerBits], *, keep: Collection[str] = ()
    ) -> tuple[Any, dict[str, State]]:
        """Go on from `state` to the end, with these sides quantized and everything else in float.

        Args:
            state: of `begin`, or of an earlier run with the same bits on all layers before it.
            chosen: layer name -> bits, also of the layers before `state`.
            keep: layers at which the state is kept.

        Returns:
            The model's output, and layer name -> state.
        """
        graph, images = self._graph(state.inputs), _batch.samples(state.inputs)
        self.work.passes += images
        if graph is None:
            self.work.done += images
            with self._probe.chosen(chosen) as model:
                return _batch.call(model, state.inputs), {name: State(name, state.inputs) for name in keep}
        done = self.share(state.layer) * images
        self.work.done += done
        _effort.count_forward(done)
        return graph.run(state, _Swaps(self, chosen), frozenset(keep))

    def share(self, layer: str | None) -> float:
        """Part of the network's MACs (in layers) that a run from this layer on does; 1 without a graph."""
        graph = next(iter(self._graphs.values()), None)
        if self.reason is not None or graph is None or layer is None:
            return 1.0
        start = graph.positions[layer]
        total = sum(self._macs[name] for name in graph.positions)
        return sum(self._macs[name] for name, at in graph.positions.items() if at >= start) / total

    def bytes_per_image(self, x: Any) -> int:
        """Memory that the states of all searched layers take, for one image of `x`."""
        before = copy.copy(self.work)
        few = _two(x)
        _, states = self.run(self.begin(few), {}, keep=self.order)
        self.work = before
        kept = {id(v): v for s in states.values() for v in s.values.values() if isinstance(v, Tensor)}
        return sum(v.nbytes for v in kept.values()) // _batch.samples(few)

    def _graph(self, x: Any) -> _Graph | None:
        """The graph for a batch like `x`: one for all batches, or one a batch size where the model fixes it."""
        if self.reason is not None:
            return None
        size = _batch.samples(x)
        if None not in self._graphs and size not in self._graphs:
            try:
                graph = _Graph(self._model, _batch.move(x, self._device), self.order)
                self._graphs[None if graph.any_batch else size] = graph
            except Unsupported as why:
                self.reason = str(why)
                return None
        return self._graphs.get(None) or self._graphs[size]

    def quantized_weight(self, layer: str, bits: int) -> Tensor:
        """A layer's quantized weight `Q_b(W)`, made once."""
        if (layer, bits) not in self._weights:
            self._weights[layer, bits] = self._probe.quantized_weight(layer, bits)
        return self._weights[layer, bits]

    def quantized_input(self, layer: str, bits: int, x: Tensor) -> Tensor:
        """A layer's input at these bits."""
        bank = self._probe.input_bank(layer)
        bank.select(bits)
        bank.bypass = False
        try:
            return bank(x)  # type: ignore[no-any-return]
        finally:
            bank.bypass = True


@dataclass(frozen=True, slots=True)
class _Swaps:
    """What a layer reads instead of its float weight and input."""

    suffix: Suffix
    chosen: Mapping[str, LayerBits]

    def at(self, site: _Site, x: Any) -> dict[fx.Node, Any]:
        """Node -> value to read in its place."""
        bits = self.chosen.get(site.name)
        found: dict[fx.Node, Any] = {}
        if bits is not None and bits.weight_bits is not None:
            found[site.weight] = self.suffix.quantized_weight(site.name, bits.weight_bits)
        if bits is not None and bits.activation_bits is not None:
            found[site.source] = self.suffix.quantized_input(site.name, bits.activation_bits, x)
        return found


@dataclass(frozen=True, slots=True)
class _Site:
    """A layer's operator: its name and the nodes of its weight and input."""

    name: str
    weight: fx.Node
    source: fx.Node


class _Graph:
    """The exported operators of a model in order, with what must be kept to start at each layer.

    Raises:
        Unsupported: there is no one graph, it does something that cannot be repeated, or its numbers are others.
    """

    def __init__(self, model: nn.Module, x: Any, layers: Collection[str]) -> None:
        program, self._spec, self.any_batch = _export(model, x)
        self._nodes = program.calls
        self._index = {node: at for at, node in enumerate(self._nodes)}
        self._input = program.inputs[0]
        self._constants: dict[fx.Node, Any] = {n: model.get_parameter(name) for n, name in program.parameters.items()}
        self._constants.update(program.constants)
        self._output = _output(program)
        self._last = self._last_uses()
        self._written = self._writes()
        self._sites = _sites(program)
        self.positions = {site.name: self._index[node] for node, site in self._sites.items()}
        missing = [name for name in layers if name not in self.positions]
        if missing:
            raise Unsupported(f"its graph has no operator for {', '.join(missing)}")
        self._check(model, x)

    def run(self, state: State, swaps: _Swaps, keep: frozenset[str]) -> tuple[Any, dict[str, State]]:
        """Interpret all operators from `state` on."""
        start = 0 if state.layer is None else self.positions[state.layer]
        values = {self._input: _batch.tensors(state.inputs)[0]} if state.layer is None else state.values
        env = self._own(values, start)
        kept: dict[str, State] = {}
        for at in range(start, len(self._nodes)):
            node = self._nodes[at]
            site = self._sites.get(node)
            if site is not None and site.name in keep:
                kept[site.name] = State(site.name, state.inputs, self._own(self._live(env, at), at))
            swapped = {} if site is None else swaps.at(site, env.get(site.source))
            env[node] = self._call(node, env, swapped)
            for spent in self._ends.get(at, ()):
                env.pop(spent, None)
        return self._result(env), kept

    def _call(self, node: fx.Node, env: dict[fx.Node, Any], swapped: dict[fx.Node, Any]) -> Any:
        from mixbit.network.program import execute

        def read(n: fx.Node) -> Any:
            if n in swapped:
                return swapped[n]
            return env[n] if n in env else self._constants[n]

        return execute(node, read)

    def _result(self, env: dict[fx.Node, Any]) -> Any:
        from torch.utils import _pytree

        flat = [env[n] if n in env else self._constants[n] for n in self._output]
        return _pytree.tree_unflatten(flat, self._spec)

    def _live(self, env: dict[fx.Node, Any], at: int) -> dict[fx.Node, Any]:
        return {node: value for node, value in env.items() if self._last[node] >= at}

    def _own(self, values: dict[fx.Node, Any], at: int) -> dict[fx.Node, Any]:
        """The values, with copies of those that an operator from `at` on writes into; views of one memory stay so."""
        exposed = [node for node in values if self._written.get(node, -1) >= at]
        # One deepcopy of all: what shares memory keeps sharing it.
        copies = copy.deepcopy([values[node] for node in exposed])
        return {**values, **dict(zip(exposed, copies, strict=True))}

    def _last_uses(self) -> dict[fx.Node, int]:
        """Node -> position of the last operator that reads it; those of the result are read at the end."""
        last = {node: max((self._index.get(u, -1) for u in node.users), default=-1) for node in self._nodes}
        last[self._input] = max((self._index.get(u, -1) for u in self._input.users), default=-1)
        last.update(dict.fromkeys(self._output, len(self._nodes)))
        self._ends: dict[int, list[fx.Node]] = {}
        for node, at in last.items():
            self._ends.setdefault(max(at, self._index.get(node, -1)), []).append(node)
        return last

    def _writes(self) -> dict[fx.Node, int]:
        """Node -> last position at which something writes into memory that it may share."""
        base = _shared_memory(self._nodes)
        last: dict[fx.Node, int] = {}
        for at, node in enumerate(self._nodes):
            for target in _written_by(node):
                last[base.get(target, target)] = at
        constants = [n.name for n in last if n in self._constants]
        if constants:
            raise Unsupported(f"its graph writes into {', '.join(constants)}")
        return {node: last[base.get(node, node)] for node in (*base, *last) if base.get(node, node) in last}

    @torch.no_grad()
    def _check(self, model: nn.Module, x: Any) -> None:
        """The interpreted graph must give the model's own numbers."""
        nothing: frozenset[str] = frozenset()
        found, _ = self.run(State(None, x), _Swaps(None, {}), nothing)  # type: ignore[arg-type]
        wanted = _batch.call(model, x)
        if not isinstance(found, Tensor) or not isinstance(wanted, Tensor):
            raise Unsupported("its output is no single tensor")
        if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()), equal_nan=True):
            raise Unsupported("its exported graph gives other numbers than the model")


def _two(x: Any) -> Any:
    """The first two samples."""
    return _batch.cut(x, None, _batch.samples(x), slice(2))[0]


def _export(model: nn.Module, x: Any) -> tuple[Program, Any, bool]:
    """The flat program, the structure of its output, and whether it takes batches of any size."""
    from mixbit.network.program import Unfollowable, evaluating, follow

    with evaluating(model):
        try:
            program = follow(model, _batch.as_arguments(model, x))
        except Unfollowable as error:
            raise Unsupported(f"torch.export cannot follow it ({error.reason})") from error
    if len(program.inputs) != 1:
        raise Unsupported(f"it has {len(program.inputs)} inputs")
    return program, program.spec, bool(program.sizes.symbols)


def _output(program: Program) -> list[fx.Node]:
    """Nodes of the result, in the order of the model's output."""
    graph = program.calls[0].graph
    (node,) = (n for n in graph.nodes if n.op == "output")
    found = node.args[0]
    flat = list(found) if isinstance(found, tuple | list) else [found]
    if not all(isinstance(n, fx.Node) for n in flat):
        raise Unsupported("its output holds constants")
    extra = [n.name for n in graph.nodes if n.op == "get_attr" and n.users]
    if extra:
        raise Unsupported(f"its graph holds {', '.join(extra)}")
    return flat


def _sites(program: Program) -> dict[fx.Node, _Site]:
    """Operator -> the layer that it is."""
    from mixbit.network.program import LayerFinder, argument

    return {
        node: _Site(found.name, argument(node, 1, "weight"), argument(node, 0, "input"))
        for node, found in LayerFinder(program).layers.items()
    }


def _shared_memory(nodes: tuple[fx.Node, ...]) -> dict[fx.Node, fx.Node]:
    """Node -> the first node whose memory its result may share, as far as operators tell; on the safe side."""
    from mixbit.network.program import is_item, op_name

    base: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        source = next(iter(node.all_input_nodes), None)
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
        # Dropout in evaluation returns its input, which its schema does not say.
        if source is not None and (aliases or is_item(node) or "dropout" in op_name(node)):
            base[node] = base.get(source, source)
    return base


def _written_by(node: fx.Node) -> Iterator[fx.Node]:
    """Arguments that an operator writes into."""
    schema = getattr(node.target, "_schema", None)
    for at, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[at] if at < len(node.args) else node.kwargs.get(argument.name)
            if isinstance(value, fx.Node):
                yield value
