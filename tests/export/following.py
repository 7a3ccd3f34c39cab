"""A fake-quantized network in float64 beside the integers that the executor makes of it, map by map.

The network runs as PyTorch runs it. Behind every part and every quantizer the executor's integers are held against the
real number, and stand in its place from there on: so no difference adds up, and every integer has to be the nearest to
its real number, but for a bias (rounded to steps of the accumulator) and for ties. Nothing of lowering's own comparison
is used: maps are found by the names of modules alone.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config

from mixbit.errors import MixbitError
from mixbit.integer import executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid
from mixbit.integer.lowering import lower
from mixbit.quantizers import Quantizer
from tests.export.modules import Part, RandomNet, lowerable

Hook = Callable[..., Tensor | None]

TIES, WIDE_TIES = 2e-3, 0.05
"""Part of a step by which float32 and fixed point may miss a tie: at 8 bits, and at 16."""


@dataclass
class Seen:
    """How many integers were held against real numbers, and how many were the nearest."""

    elements: int = 0
    nearest: int = 0
    off: list[str] = field(default_factory=list)
    """What parted, in words."""


def lowered(
    seed: int, *, steps: int = 4, compare: bool = True, wide: bool = False
) -> tuple[RandomNet, g.IntegerGraph, Tensor]:
    """A random network, its graph in ONNX Runtime's rounding (see `rounded` for others), and its batch.

    The second batch of calibration holds smaller numbers: the ends are those of the first.
    """
    model, network, x = lowerable(seed, steps=steps, wide=wide)
    try:
        # PyTorch keeps what an operator makes of a shape, and no two operators of such a network are alike.
        with dynamo_config.patch(fake_tensor_cache_enabled=False):
            return model, lower(model, network, [x, 0.3 * x], rounding="float32", compare=compare), x
    except MixbitError as error:
        raise AssertionError(f"{model}\nis refused: {error}") from error


def hold(seed: int, *, steps: int | None = None) -> None:
    """A random network by executor and by ONNX Runtime, where that is installed, against the network itself."""
    model, graph, x = lowered(seed, steps=steps or 3 + seed % 2, compare=seed % 3 == 0)
    off = ranges(model, graph, [x, 0.3 * x])
    for rounding in ("float32", g.GRAPH_ROUNDINGS[seed % len(g.GRAPH_ROUNDINGS)]):
        seen = follow(model, rounded(graph, rounding), x)
        off += [f"with {rounding}: {words}" for words in seen.off]
        assert seen.nearest > 0.9 * seen.elements
    off += in_onnx_runtime(graph, x)
    assert not off, "\n".join([str(model), *off])


def hold_wide(seed: int) -> None:
    """A random network with activations of up to 16 bits by the executor, and by ONNX Runtime as `hold` has it."""
    model, graph, x = lowered(seed, steps=3 + seed % 2, wide=True)
    off = ranges(model, graph, [x, 0.3 * x])
    for rounding in ("single", "away"):
        seen = follow(model, rounded(graph, rounding), x)
        off += [f"with {rounding}: {words}" for words in seen.off]
        assert seen.nearest > 0.9 * seen.elements
    off += in_onnx_runtime(graph, x)
    assert not off, "\n".join([str(model), *off])


def in_onnx_runtime(graph: g.IntegerGraph, x: Tensor) -> list[str]:
    """Whether the file gives the executor's numbers, bit for bit but for a softmax; nothing without the runtime."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return []
    from mixbit.export.onnx import build_onnx, load_session, written_graph

    found = load_session(build_onnx(graph).SerializeToString()).run(None, {"input": x.numpy()})[0]
    wanted = executor.run(written_graph(graph), x.numpy())
    may = 1e-6 if isinstance(graph.ops[-1], g.Softmax) else 0.0
    return [] if np.allclose(found, wanted, rtol=0, atol=may) else [f"ONNX Runtime: {np.abs(found - wanted).max()}"]


def rounded(graph: g.IntegerGraph, rounding: g.GraphRounding) -> g.IntegerGraph:
    """The graph with another rounding, which is an attribute of its operations and of nothing else."""
    ops = tuple(
        replace(op, rounding=g.rounding_of(type(op), rounding)) if hasattr(op, "rounding") else op for op in graph.ops
    )
    return replace(graph, ops=ops)


@torch.no_grad()
def follow(model: RandomNet, graph: g.IntegerGraph, x: Tensor) -> Seen:
    """Hold the executor's integers for `x` against the network's real numbers; `off` is empty where all is well."""
    own = copy.deepcopy(model).double()
    _round_float_weights(own)
    following = _Following(own, graph, executor.trace(graph, x.numpy()))
    hooks = following.hooks()
    try:
        own(following.input(x))
    finally:
        for hook in hooks:
            hook.remove()
    return following.seen


@torch.no_grad()
def ranges(model: RandomNet, graph: g.IntegerGraph, batches: Sequence[Tensor]) -> list[str]:
    """Whether calibrated grids hold what the network computed for the batches, and are not three times as wide.

    The ends are rounded to whole zero points: a step at most is cut. A grid is wider than the values where its step is
    an odd part of a reader's.
    """
    own, seen = copy.deepcopy(model).double(), dict[int, tuple[float, float]]()
    following = _Following(own, graph, {})

    def look(number: int) -> Hook:
        def hook(part: Part, args: tuple[Tensor, ...], output: Tensor) -> None:
            low, high = seen.get(number, (0.0, 0.0))
            seen[number] = min(low, float(output.min())), max(high, float(output.max()))

        return hook

    for number, (_, part) in enumerate(following.parts):
        part.register_forward_hook(look(number))
    for batch in batches:
        own(batch.double())
    joint: dict[Grid, tuple[float, float]] = {}
    for source, number in following.last.items():
        op = following.own[source]
        tensor = graph.tensors[op.output] if op else None
        if (
            tensor is not None
            and tensor.grid is not None
            and tensor.source == "calibrated"
            and tensor.grid.scale != 1.0
        ):
            low, high = joint.get(tensor.grid, (0.0, 0.0))
            joint[tensor.grid] = min(low, seen[number][0]), max(high, seen[number][1])
    off = []
    for grid, (low, high) in joint.items():
        first, last = (grid.scale * (end - grid.zero_point) for end in (grid.qmin, grid.qmax))
        if first - grid.scale > low or last + grid.scale < high:
            off.append(f"a grid of {first:.4g} to {last:.4g} for values of {low:.4g} to {high:.4g}")
    return off


def _round_float_weights(model: nn.Module) -> None:
    """Weights that training left in float get 8 bits by the largest magnitude of each output channel."""
    for layer in model.modules():
        if getattr(layer, "weight_quantizer", layer) is None:
            step = layer.weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (layer.weight.dim() - 1)) / 127
            layer.weight.copy_(torch.round(layer.weight / step) * step)


class _Following:
    def __init__(self, model: RandomNet, graph: g.IntegerGraph, made: dict[str, Array]) -> None:
        self.seen, self._graph, self._made = Seen(), graph, made
        twice = any(getattr(op, "rounding", "") == "double" for op in graph.ops)
        wide = any(one.grid.bits > 8 for one in graph.tensors.values() if one.grid is not None)
        self._half = (0.76 if twice else 0.5) + (WIDE_TIES if wide else TIES)
        self.parts = [(f"parts.{n}", part) for n, part in enumerate(model.parts)] + [("head", model.head)]
        self.own = [self._operation(path) for path, _ in self.parts]
        self.read = self._read()
        self.last = self._where_compared()

    def _operation(self, path: str) -> g.Op | None:
        """The last operation that stems from a part."""
        return next((op for op in self._graph.ops[::-1] if re.match(rf"{re.escape(path)}(\D|$)", op.name)), None)

    def _read(self) -> set[int]:
        """The parts on whose results the output depends: a graph has no others."""
        found, open_ones = set[int](), [len(self.parts) - 1]
        while open_ones:
            number = open_ones.pop()
            if number >= 0 and number not in found:
                found.add(number)
                open_ones += [read - 1 for read in self.parts[number][1].reads]
        return found

    def _where_compared(self) -> dict[int, int]:
        """Part that made a tensor -> the last clamp that was folded into it, whose result that tensor holds."""
        found = {}
        for number, (_, part) in enumerate(self.parts):
            source = self._root(number) if number in self.read else None
            if source is not None and (source == number or (self.own[number] is None and part.kind == "clamp")):
                found[source] = number
        return found

    def _root(self, number: int) -> int | None:
        """The part that made what a part hands on; None is the input."""
        while self.own[number] is None:
            number = self.parts[number][1].reads[0] - 1
            if number < 0:
                return None
        return number

    def hooks(self) -> list[torch.utils.hooks.RemovableHandle]:
        found = []
        for number, (path, part) in enumerate(self.parts):
            for name, module in part.named_modules():
                if isinstance(module, Quantizer) and name.endswith("input_quantizer"):
                    layer = f"{path}.{name.removesuffix('.input_quantizer')}"
                    found.append(module.register_forward_hook(self._quantizer(layer)))
            found.append(part.register_forward_hook(self._part(number)))
        return found

    def input(self, x: Tensor) -> Tensor:
        """The network's input as the graph has it."""
        tensor = self._graph.ops[0].output
        found = self._hold("input", x.double(), tensor, np.zeros(1))
        found.raw, found.lost = x.double(), self._lost(tensor, np.zeros(1))
        return found

    def _quantizer(self, layer: str) -> Hook:
        op = next((op for op in self._graph.weighted() if op.name == layer), None)

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if op is None:  # the output does not depend on it
                return None
            step, zero = float(module.steps.min()), float(module.zero_points)
            low, high = ((float(end) - zero) * step for end in (module.qmins, module.qmaxs))
            # Compared before it is rounded: two roundings of a tie may differ.
            found = self._hold(layer, args[0].clamp(low, high), op.x, np.zeros(1))
            raw = getattr(args[0], "raw", None)
            if raw is not None and step > 1e-7:
                self._of_raw(layer, (found - raw.clamp(low, high)).abs() - 1.01 * args[0].lost, step)
            return found

        return hook

    def _of_raw(self, name: str, off: Tensor, step: float) -> None:
        """A tensor that was kept finer on its way to a quantizer has lost no more by it than its own step."""
        most = float(off.max()) / step - self._half
        if most > 0:
            self.seen.off.append(f"{name} reads what was rounded away before: off by {most:.3g} steps more than it may")

    def _part(self, number: int) -> Hook:
        def hook(part: Part, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            source = self._root(number) if number in self.read else None
            if source is None or self.last.get(source) != number:
                return None
            op = self.own[source]
            assert op is not None
            found = self._hold(str(part), output, op.output, self._may(op))
            if found is not None:
                raws = [getattr(one, "raw", None) for one in args]
                moved = part.kind in ("move", "concat") and all(one is not None for one in raws)
                found.raw = part.forward(*raws) if moved else output
                before = max(one.lost for one in args) if moved else 0.0
                found.lost = before + self._lost(op.output, self._may(op))
            return found

        return hook

    def _lost(self, tensor: str, may: Array) -> float:
        """What a finer grid than that of the reader, and rounded biases, may have taken."""
        of = self._graph.tensors[tensor]
        return float(may.max()) + (of.grid.scale if of.grid and of.source == "calibrated" else 0.0)

    def _may(self, op: g.Op) -> Array:
        """Half a step of the accumulator, to which a bias is rounded, by channel."""
        if isinstance(op, g.Softmax):
            op = next(one for one in self._graph.ops if one.output == op.x)
        if not isinstance(op, g.Weighted):
            return np.zeros(1)
        digits = 2.0 ** max(7 - op.weight_bits, 0)
        found = 0.5 * self._graph.grid(op.x).scale * np.abs(op.weight_scale.astype(float)) / digits
        return found.reshape(-1, *[1] * len(op.stride)) if isinstance(op, g.Conv) else found

    def _hold(self, name: str, real: Tensor, tensor: str, may: Array) -> Tensor:
        """Compare, and give what the executor has."""
        made, grid, wanted = self._made[tensor], self._graph.tensors[tensor].grid, real.numpy()
        if made.shape != wanted.shape:
            self.seen.off.append(f"{name}: shape {made.shape}, the network has {wanted.shape}")
            return real
        if grid is None:
            off = np.abs(made - wanted) - may - 2e-5 * np.abs(wanted).max()
            self._count(name, off, np.abs(made - wanted) <= may + 1e-4)
            return torch.from_numpy(made.astype(np.float64))
        steps = np.clip(wanted / grid.scale + grid.zero_point, grid.qmin, grid.qmax)
        self._count(name, np.abs(made - steps) - self._half - may / grid.scale, made == np.rint(steps))
        return torch.from_numpy((made.astype(np.float64) - grid.zero_point) * grid.scale)

    def _count(self, name: str, off: Array, nearest: Array) -> None:
        self.seen.elements += nearest.size
        self.seen.nearest += int(nearest.sum())
        if (off > 0).any():
            at = tuple(map(int, np.unravel_index(int(off.argmax()), off.shape)))
            many = f"{(off > 0).sum()} of {off.size}"
            self.seen.off.append(f"{name}: {many} are off, at {at} by {off.max():.3g} more than they may")
