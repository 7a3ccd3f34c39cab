"""The feature map that belongs to each layer, and a run of the model that hands these maps out one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mixbit.network._ops import is_in_place, is_shape_only, is_view, op_name, words

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from mixbit.network._program import Program

__all__ = ["LayerMap", "LayerMaps", "layer_maps"]

_NORM, _DROPOUT, _VIEW = "batch_norm", "dropout", "view"
_ACTIVATIONS = words(
    """
    celu clamp clamp_max clamp_min elu gelu hardsigmoid hardswish hardtanh leaky_relu mish prelu relu relu6 rrelu selu
    sigmoid silu softplus tanh threshold
    """
)

See = Callable[[str, "torch.Tensor"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMap:
    """Which tensor is read as the map of a layer.

    Attributes:
        layer: name of the layer.
        tensor: name of the operation that yields it; the layer's own if nothing follows.
        after: what stands between layer and tensor, e.g. `("batch_norm", "add", "relu")`.
        shape: of one sample, without the batch.
        batch_dim: where the batch stands.
    """

    layer: str
    tensor: str
    after: tuple[str, ...]
    shape: tuple[int, ...]
    batch_dim: int


class LayerMaps:
    """A model that can be run so that every layer's map is seen once, when it is made; none is kept.

    Attributes:
        maps: layer -> which tensor.
        reason: why the layers' own outputs are read, where there is no graph of the model; else empty.
    """

    def __init__(
        self, maps: Mapping[str, LayerMap], run: Callable[[torch.Tensor, See], None], reason: str = ""
    ) -> None:
        self.maps = dict(maps)
        self.reason = reason
        self._run = run

    def run(self, x: torch.Tensor, see: See) -> None:
        """Forward a batch without gradients; `see(layer, tensor)` is called once for every layer, in execution order.

        `see` must not change the tensor, nor keep it: the model may write over it.
        """
        import torch

        with torch.no_grad():
            self._run(x, see)


def layer_maps(model: nn.Module, example: torch.Tensor, *, follow: bool = True) -> LayerMaps:
    """Find the map of every layer of a model: its output after the batch norm and activation that belong to it.

    From a layer the way goes on as long as the result is read by one operation alone (or, first of all, written over in
    place), through at most one batch norm and one activation. An add of two branches is followed only if an activation
    is its one reader, and only from the branch with more layers behind it, or from the one that is executed last where
    they are equal: the last convolution of a residual block is read after add and ReLU, the one on its shortcut before
    the add, and a linear bottleneck after its batch norm (our completion; the papers leave it open). Where the batch is
    folded into another dimension (the output projection of attention), the view that unfolds it is read.

    Models without a graph (branches on values) and graphs that cannot be replayed are run as they are, with the outputs
    of the layers' own modules as maps; `LayerMaps.reason` says so.

    Args:
        model: in evaluation mode; it is neither copied nor changed.
        example: inputs (N, ...), on the model's device.
        follow: False takes the layers' own outputs.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    >>> found = layer_maps(net, torch.randn(2, 3, 6, 6))
    >>> [(one.layer, one.tensor, one.after, one.shape) for one in found.maps.values()]
    [('0', '2', ('batch_norm', 'relu'), (8, 4, 4)), ('3', '3', (), (4, 4, 4))]
    """
    from mixbit.network.program import Unfollowable, evaluating
    from mixbit.network.program import follow as follow_model

    with evaluating(model):
        try:
            program = follow_model(model, example)
        except Unfollowable:
            return _from_modules(model, example, "the model has no one graph: its branches depend on values")
    if not program.sizes.symbols:
        return _from_modules(model, example, "the graph of the model holds for one batch size alone")
    if any(node.op == "get_attr" for node in _needed(program)):
        return _from_modules(model, example, "the graph of the model holds constants of nested blocks")
    return _from_program(program, follow)


# ---------------------------------------------------------------------------------------------- with a graph


def _from_program(program: Program, follow: bool) -> LayerMaps:
    from mixbit.network._layers import LayerFinder
    from mixbit.network._names import Names

    layers = {node: found.name for node, found in LayerFinder(program).layers.items()}
    finder, names = _Finder(program, layers), Names(program, layers.values())
    for node in program.calls:  # names are given in the order of execution, as capture gives them
        names.of(node)
    maps, wanted = {}, dict[Any, list[str]]()
    for node, layer in layers.items():
        end, after = finder.follow(node) if follow else (node, ())
        value = end.meta["val"]
        batch_dim = finder.batch_dim(end)
        name = layer if end is node else names.of(end)
        maps[layer] = LayerMap(
            layer=layer, tensor=name, after=after, shape=program.sizes.sample(value), batch_dim=batch_dim
        )
        wanted.setdefault(end, []).append(layer)
    return LayerMaps(maps, partial(_replay, program, wanted))


class _Finder:
    """Follows the graph from a layer to the tensor that is its map."""

    def __init__(self, program: Program, layers: Mapping[fx.Node, str]) -> None:
        self._program = program
        self._place = {node: at for at, node in enumerate(program.calls)}
        self._depth: dict[fx.Node, int] = {}
        self._last: dict[fx.Node, int] = {}
        for node in program.calls:
            above = list(node.all_input_nodes)
            self._depth[node] = max((self._depth.get(one, 0) for one in above), default=0) + (node in layers)
            own = self._place[node] if node in layers else -1
            self._last[node] = max([own, *(self._last.get(one, -1) for one in above)])

    def follow(self, node: fx.Node) -> tuple[fx.Node, tuple[str, ...]]:
        """The tensor, and the operations on the way to it."""
        at, end, passed = node, node, list[str]()
        while (step := self._step(at, passed)) is not None:
            at, word = step
            if word == _VIEW:
                end = at
            elif word != _DROPOUT:  # in evaluation it does nothing, but it may stand before what we look for
                end = at
                passed.append(word)
        return end, tuple(passed)

    def batch_dim(self, node: fx.Node) -> int:
        """Where the images of the batch stand; -1 where they are folded into another dimension."""
        return self._program.sizes.batch_dim(node.meta["val"])

    def _step(self, node: fx.Node, passed: list[str]) -> tuple[fx.Node, str] | None:
        reader = self._reader(node)
        if reader is None:
            return None
        name = op_name(reader)
        if is_view(reader) and self.batch_dim(node) < 0:
            return reader, _VIEW
        if name == _DROPOUT and is_view(reader):
            return reader, name
        if name == _NORM and _NORM not in passed:
            return reader, name
        if name in _ACTIVATIONS and not any(word in _ACTIVATIONS for word in passed):
            return reader, name
        if name == "add" and "add" not in passed and not any(word in _ACTIVATIONS for word in passed):
            return (reader, "add") if self._is_main(node, reader) and self._is_activated(reader) else None
        return None

    def _reader(self, node: fx.Node) -> fx.Node | None:
        """The one operation that reads a tensor, or the one that writes over it before all others."""
        users = sorted((user for user in node.users if not is_shape_only(user)), key=lambda user: self._order(user))
        if not users or users[0].op != "call_function":
            return None
        alone = len(users) == 1 or (is_in_place(users[0]) and users[0].args[0] is node)
        return users[0] if alone else None

    def _order(self, node: fx.Node) -> int:
        return self._place.get(node, len(self._place))

    def _is_main(self, node: fx.Node, add: fx.Node) -> bool:
        """Whether a tensor is the deeper one of two that are added."""
        others = [one for one in add.all_input_nodes if one is not node]
        if len(others) != 1:
            return False
        return (self._depth[node], self._last[node]) > (self._depth.get(others[0], 0), self._last.get(others[0], -1))

    def _is_activated(self, add: fx.Node) -> bool:
        reader = self._reader(add)
        return reader is not None and op_name(reader) in _ACTIVATIONS


def _replay(program: Program, wanted: Mapping[fx.Node, list[str]], x: torch.Tensor, see: See) -> None:
    """Run the operators of a program on real tensors, and show those of the layers."""
    from mixbit.network.program import interpret

    for node, value in interpret(program, x):
        for layer in wanted.get(node, ()):
            see(layer, value)


def _needed(program: Program) -> Iterator[fx.Node]:
    for node in program.calls:
        yield from node.all_input_nodes


# ------------------------------------------------------------------------------------------- without a graph


def _from_modules(model: nn.Module, example: torch.Tensor, reason: str) -> LayerMaps:
    """The outputs of the layers' own modules, which are all that hooks see."""
    import torch
    from torch import nn

    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
    }

    def hook(name: str, see: See) -> Callable[..., None]:
        def show(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            see(name, output)

        return show

    def run(x: torch.Tensor, see: See) -> None:
        handles = []
        for name, module in layers.items():
            handles.append(module.register_forward_hook(hook(name, see)))
        try:
            model(x)
        finally:
            for handle in handles:
                handle.remove()

    maps: dict[str, LayerMap] = {}

    def note(name: str, out: torch.Tensor) -> None:
        maps.setdefault(name, LayerMap(layer=name, tensor=name, after=(), shape=tuple(out.shape[1:]), batch_dim=0))

    with torch.no_grad():
        run(example, note)
    return LayerMaps(maps, run, reason)
