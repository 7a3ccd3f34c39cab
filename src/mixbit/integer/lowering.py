"""Lowering: from a trained fake-quantized model to an integer graph with the same numbers.

Batch norms are folded into the layers before them and clamps into whatever they follow. Activations that a trained
quantizer reads keep its grid; all others (residual adds, pools) get 8 bits from real batches, or 16 in a network in
which a layer reads more than 8, and are listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mixbit import _batch
from mixbit.data import inputs_of
from mixbit.errors import ExportError
from mixbit.integer import graph as g
from mixbit.integer._biases import units
from mixbit.integer._comparing import compare as compare_with
from mixbit.integer._concats import separate
from mixbit.integer._constants import FLOAT_WEIGHT_BITS
from mixbit.integer._dead import mark_dead
from mixbit.integer._grids import Chosen, choose
from mixbit.integer._reading import Reader
from mixbit.integer._steps import (
    Average,
    Clamped,
    FakeQuantize,
    Flow,
    Function,
    Limit,
    Move,
    Multiply,
    Probabilities,
    Step,
    Sum,
    Wire,
)
from mixbit.integer.arithmetic import Grid, dequantize, quantize
from mixbit.integer.executor import accumulator_bound
from mixbit.integer.graph import GRAPH_ROUNDINGS, Bounds, GraphRounding, IntegerGraph, Note, Tensor, rounding_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mixbit.network import Network
    from mixbit.network.program import Program

__all__ = ["lower"]


def lower(
    model: nn.Module,
    network: Network,
    batches: Iterable[torch.Tensor],
    *,
    rounding: GraphRounding = "single",
    strict: bool = False,
    compare: bool = True,
    apart: bool = False,
) -> IntegerGraph:
    """The integer graph of a model that carries quantizers.

    Args:
        model: quantized by `mixbit.quantize` (one bit-width a layer), trained or calibrated; it comes back as it was.
        network: what capture learned of it.
        batches: real inputs `(N, ...)`, for the tensors that no quantizer reads; at least one batch, of the size
            that the model holds if it holds one. Of a loader of (inputs, targets) the inputs are taken.
        rounding: how results are rounded, see `mixbit.integer.arithmetic`; "float32" is ONNX Runtime's. "litert" gives
            each operation the rounding of LiteRT's reference kernels, see `mixbit.integer.graph.rounding_of`.
        strict: refuse layers that training left in float, instead of giving them 8 bits.
        compare: check every operation against the fake-quantized model on two samples of the first batch, see
            `docs/lowering.md`. False leaves it out, and a note says so.
        apart: copy every tensor that a concat shares with others to the concat's grid, whatever their ranges on these
            batches: what is laid out so has room for whatever training makes of them.

    Raises:
        ExportError: the model carries no quantizers, several at once, or does something that has no integer form; the
            message names the module. Or the integer graph and the model part by more than their grids explain: it
            names the first layer where they do.

    >>> import torch
    >>> from torch import nn
    >>> from mixbit.network import capture
    >>> from mixbit.policy import Policy
    >>> from mixbit.quantization import calibrate, quantize
    >>> from mixbit.integer.executor import run
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    >>> x = torch.randn(8, 1, 6, 6)
    >>> network = capture(model, x)
    >>> _ = quantize(model, Policy.uniform(network, 4, 4), network)
    >>> calibrate(model, [x])
    >>> graph = lower(model, network, [x])
    >>> [(op.kind, op.name) for op in graph.ops]
    [('QuantizeInput', 'input'), ('Conv', '0'), ('Reshape', '3'), ('Linear', '4')]
    >>> bool(np.allclose(run(graph, x.numpy()), model(x).detach().numpy(), atol=1e-4))
    True
    """
    from mixbit.network.program import evaluating

    if rounding not in GRAPH_ROUNDINGS:
        raise ExportError(f"rounding={rounding!r} is unknown. Legal: {', '.join(GRAPH_ROUNDINGS)}.")
    _check(model)
    samples = [_one_tensor(inputs) for inputs in inputs_of(batches, model)]
    if not samples:
        raise ExportError("there is no calibration batch. Give at least one batch of real inputs.")
    with evaluating(model):
        program, traced = _traced(model, samples[0])
        with _one_batch_size(program, samples):
            flow = Reader(program).flow()
            if strict:
                _check_strict(flow)
            dead = mark_dead(flow, program, samples)
            copies = separate(flow, program, samples, always=apart)
            chosen = choose(flow, program, samples, _floats(flow))
            printer = _Printer(flow, replace(chosen, notes=(*chosen.notes, *dead, *copies)), rounding)
            graph = printer.graph(network.fingerprint)
            if compare:
                compare_with(graph, flow, printer.names, program, traced)
                return graph
    note = Note(name=graph.output, kind="not compared", reason="compare=False: the fake-quantized model was not run")
    return replace(graph, notes=(*graph.notes, note))


def _traced(model: nn.Module, batch: torch.Tensor) -> tuple[Program, torch.Tensor]:
    """The graph of the model, and what it was made of: two samples, or the whole batch of a model that takes no other.

    Raises:
        ExportError: with what PyTorch says.
    """
    from mixbit.network.program import Unfollowable, follow

    try:
        return follow(model, batch[:2]), batch[:2]
    except Unfollowable as error:
        if len(batch) > 2:
            with suppress(Unfollowable):
                return follow(model, batch), batch
        cause = error.__cause__
        tried = " and ".join(dict.fromkeys(f"{len(part)}" for part in (batch[:2], batch)))
        raise ExportError(
            f"the model cannot be exported: {next(iter(str(cause).splitlines()), type(cause).__name__)}. It was tried "
            f"with {tried} samples: {_ANY_SIZE}."
        ) from error


_ANY_SIZE = (
    "where it holds a batch size, give batches of that size, or let it take any (x.flatten(1) for x.reshape(8, -1))"
)


@contextmanager
def _one_batch_size(program: Program, samples: Sequence[torch.Tensor]) -> Iterator[None]:
    """What PyTorch raises where a graph that holds a batch size is run on a batch of another, in words."""
    try:
        yield
    except RuntimeError as error:
        if program.sizes.symbols:
            raise
        sizes = ", ".join(str(size) for size in dict.fromkeys(len(one) for one in samples))
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExportError(f"the model does not run on batches of {sizes} samples: {told}; {_ANY_SIZE}.") from error


def _one_tensor(inputs: Any) -> torch.Tensor:
    """The one input that an integer graph has."""
    found = _batch.tensors(inputs)
    if len(found) != 1:
        raise ExportError(
            f"the model takes {_batch.describe(inputs)}. Legal: one tensor; an integer graph has one input."
        )
    return found[0]


def _check(model: nn.Module) -> None:
    """At least one quantizer, one bit-width each, and weights on grids of integers."""
    from mixbit.quantization import quantized_layers, quantizers

    banks = quantizers(model)
    if not banks:
        raise ExportError(
            "the model carries no quantizers: there is nothing to lower. Quantize and train it first "
            "(mixbit train --policy), or call mixbit.quantize and mixbit.calibrate."
        )
    several = [name for name, bank in banks.items() if len(bank.bits) > 1]
    if several:
        raise ExportError(
            f"{len(several)} quantizers hold several bit-widths ({several[0]}: {list(banks[several[0]].bits)}). "
            "Quantize with a policy, which gives every layer one, or settle what is selected (mixbit.supernet.settle)."
        )
    without = [name for name, bank in banks.items() if bank.no_integers is not None]
    if without:
        remedy = "Quantize with weights='lsq'."
        if banks[without[0]].statistics:
            remedy = (
                "Call mixbit.quantization.fold_residuals(model), and make the statistics of batch norms anew then "
                "(mixbit.evaluation.reestimate_batch_norm)."
            )
        raise ExportError(
            f"{without[0]}: {banks[without[0]].no_integers}, so it has no integers of its bits ({len(without)} "
            f"quantizers are such). {remedy}"
        )
    binary = [name for name, bank in banks.items() if bank.batched and bank.binary]
    if binary:
        raise ExportError(
            f"{binary[0]}: its input is signed and has 1 bit, a grid without a zero, which padding and sums need "
            f"({len(binary)} inputs are such). Give it 2 bits or more; weights may have 1."
        )
    faults = {name: fault for name, bank in banks.items() if (fault := bank.fault()) is not None}
    if faults:
        name, fault = next(iter(faults.items()))
        raise ExportError(
            f"{name} {fault}; {len(faults)} of {len(banks)} quantizers have steps that cannot be lowered. Call "
            "mixbit.calibrate(model, batches) before training and lowering, or load a state that was calibrated."
        )
    shifted = [name for name, layer in quantized_layers(model).items() if layer.weight_shift is not None]
    if shifted:
        raise ExportError(
            f"{shifted[0]}: its quantized weights are shifted off their grid by mixbit.ptq.correct_bias. "
            "Call mixbit.ptq.fold_bias, which moves the shift into the bias."
        )


def _check_strict(flow: Flow) -> None:
    """Every layer has bits of its own, for its weights and for its input."""
    inputs = [s.name for s in flow.steps if isinstance(s, Multiply) and not _is_quantized(s.inputs[0])]
    sides = (("weights", flow.float_weights), ("inputs", inputs))
    left = [f"the {side} of {', '.join(names)}" for side, names in sides if names]
    if left:
        raise ExportError(
            f"training left {' and '.join(left)} in float. Give these layers bits, or leave strict out: "
            f"they get {FLOAT_WEIGHT_BITS} bits then."
        )


def _is_quantized(wire: Wire) -> bool:
    """Whether a quantizer made a tensor, elements of it moved or not."""
    if isinstance(wire.step, Move):
        return all(_is_quantized(one) for one in wire.step.inputs)
    return isinstance(wire.step, FakeQuantize)


def _floats(flow: Flow) -> frozenset[Wire]:
    """The output, where a layer makes it: its accumulators are the logits. A softmax behind it stays float too."""
    wires = {flow.output}
    if isinstance(flow.output.step, Probabilities):
        wires.add(flow.output.step.inputs[0])
    makers = {wire for wire in wires if isinstance(wire.step, Multiply) and len(wire.readers) == len(wires) - 1}
    if not makers:
        raise ExportError(
            f"the output is made by {getattr(flow.output.step, 'name', 'nothing')!r}. Legal: a linear layer or a "
            "convolution at the end, with a softmax after it or not."
        )
    return frozenset(wires)


class _Printer:
    """Steps to operations, tensor by tensor."""

    def __init__(self, flow: Flow, chosen: Chosen, rounding: GraphRounding) -> None:
        self._flow, self._chosen, self._rounding = flow, chosen, rounding
        self.names: dict[Wire, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._ops: list[g.Op] = []
        self._notes: list[Note] = list(chosen.notes)
        self._input = self._free("input")

    def graph(self, fingerprint: str) -> IntegerGraph:
        """The integer graph of all steps, in their order."""
        self._begin()
        for step in self._flow.steps:
            _PRINT[type(step)](self, step)
        for name in self._flow.float_weights:
            reason = f"weights in float in training: {FLOAT_WEIGHT_BITS} bits by their largest magnitude"
            self._notes.append(Note(name=name, kind="widened", reason=reason))
        found = IntegerGraph(
            input=self._input,
            output=self.names[self._flow.output],
            tensors=self._tensors,
            ops=tuple(self._ops),
            fingerprint=fingerprint,
            notes=tuple(self._notes),
        )
        _check_rounding(found)
        _check_accumulators(found)
        return found

    def _begin(self) -> None:
        wire = self._flow.input
        self._tensors[self._input] = Tensor(name=self._input, shape=wire.shape, grid=None, source="float")
        name = self._free(f"{self._input}.quantized")
        self.names[wire] = self._tensor(name, wire.shape, self._chosen.grids[wire], wire)
        self._ops.append(g.QuantizeInput(name=self._input, inputs=(self._input,), output=name))

    def _free(self, wanted: str) -> str:
        """That name, or with the first number after it that no step has: modules may have any name."""
        taken = {step.name for step in self._flow.steps}
        names = (wanted if count == 1 else f"{wanted}:{count}" for count in itertools.count(1))
        return next(name for name in names if name not in taken)

    def _tensor(self, name: str, shape: tuple[int, ...], grid: Grid | None, wire: Wire) -> str:
        source: g.Source = "float" if grid is None else "calibrated" if wire in self._chosen.calibrated else "trained"
        self._tensors[name] = Tensor(name=name, shape=shape, grid=grid, source=source)
        return name

    def _common(self, step: Step) -> dict[str, Any]:
        """Name, inputs and output of an operation."""
        wire = step.output
        inputs = tuple(self.names[one] for one in step.inputs)
        grid = self._chosen.grids.get(wire)
        self.names[wire] = self._tensor(wire.name, wire.shape, grid, wire)
        return {"name": step.name, "inputs": inputs, "output": self.names[wire]}

    def _clamp(self, step: Clamped) -> Bounds | None:
        """Real bounds on the grid of the result; None where the grid ends there anyhow."""
        grid = self._chosen.grids.get(step.output)
        if step.bounds is None:
            return None
        if grid is None:
            raise ExportError(f"{step.name}: the output of the network is clamped, which has no integer form.")
        low, high = (int(quantize(np.asarray(bound, np.float32), grid)) for bound in step.bounds)
        return None if (low, high) == (grid.qmin, grid.qmax) else (low, high)

    # -- one method a kind of step

    def multiply(self, step: Multiply) -> None:
        """Weights, scales and biases in the units of the accumulator."""
        grid = self._chosen.grids[step.inputs[0]]
        found = units(step, grid, self._chosen.grids.get(step.output))
        self._notes.extend(found.notes)
        bits = step.bits
        if bits == 1 and not found.integers.all():
            bits, reason = 2, "1-bit weights have no 0, which channels without weights need: 2 bits"
            self._notes.append(Note(name=step.name, kind="widened", reason=reason))
        settings: dict[str, Any] = {
            "weight": found.integers,
            "weight_bits": bits,
            "weight_scale": found.scale,
            "bias": found.bias,
            "shift": found.shift,
            "clamp": self._clamp(step),
            "rounding": rounding_of(g.Linear if step.window is None else g.Conv, self._rounding),
        }
        window = step.window
        common = self._common(step)
        if window is None:
            self._ops.append(g.Linear(**common, **settings))
        else:
            shape: dict[str, Any] = {
                name: getattr(window, name) for name in ("stride", "padding", "dilation", "groups")
            }
            self._ops.append(g.Conv(**common, **settings, **shape))

    def sum(self, step: Sum) -> None:
        """Residual adds."""
        clamp = self._clamp(step)
        self._ops.append(g.Add(**self._common(step), clamp=clamp, rounding=rounding_of(g.Add, self._rounding)))

    def average(self, step: Average) -> None:
        """Average and global pools."""
        clamp, window = self._clamp(step), step.window
        shape: dict[str, Any] = {"kernel": window.kernel, "stride": window.stride, "padding": window.padding}
        rounding = rounding_of(g.AveragePool, self._rounding)
        self._ops.append(g.AveragePool(**self._common(step), **shape, clamp=clamp, rounding=rounding))

    def function(self, step: Function) -> None:
        """A table of the function at every integer of the input."""
        import torch

        grid, result = self._chosen.grids[step.inputs[0]], self._chosen.grids[step.output]
        reals = dequantize(np.arange(grid.qmin, grid.qmax + 1), grid)
        table = quantize(step.call(torch.from_numpy(reals)).numpy(), result)
        self._ops.append(g.Lookup(**self._common(step), function=step.function, table=table))

    def limit(self, step: Limit) -> None:
        """A clamp of its own, or a copy on another grid."""
        grids = self._chosen.grids
        if step.bounds is None and grids[step.inputs[0]] == grids[step.output]:
            self.names[step.output] = self.names[step.inputs[0]]
            return
        self._requantize(step, self._clamp(step))

    def fake_quantize(self, step: FakeQuantize) -> None:
        """Nothing where its input has its grid already, else a change of grid."""
        source, zero = step.inputs[0], step.grid.zero_point
        if self._chosen.grids[source] == step.grid and not step.dead:
            self.names[step.output] = self.names[source]
            return
        self._requantize(step, (zero, zero) if step.dead else None)

    def _requantize(self, step: Step, clamp: Bounds | None) -> None:
        rounding = rounding_of(g.Requantize, self._rounding)
        self._ops.append(g.Requantize(**self._common(step), clamp=clamp, rounding=rounding))

    def move(self, step: Move) -> None:
        """Reshape, slice, pad, transpose, concat, max pool."""
        kind: Callable[..., g.Op] = getattr(g, step.kind)
        self._ops.append(kind(**self._common(step), **step.attributes))

    def probabilities(self, step: Probabilities) -> None:
        """Softmax of the float32 output."""
        self._ops.append(g.Softmax(**self._common(step)))


_PRINT: dict[type[Step], Callable[[_Printer, Any], None]] = {
    Multiply: _Printer.multiply,
    Sum: _Printer.sum,
    Average: _Printer.average,
    Function: _Printer.function,
    Limit: _Printer.limit,
    FakeQuantize: _Printer.fake_quantize,
    Move: _Printer.move,
    Probabilities: _Printer.probabilities,
}


def _check_accumulators(graph: IntegerGraph) -> None:
    """No input may drive an accumulator out of int32, or of what is scaled exactly where it has more than 8 bits."""
    for op in graph.weighted():
        bound, legal = accumulator_bound(graph, op), 31 if graph.grid(op.x).bits <= 8 else 47
        if bound >= 2**legal:
            raise ExportError(
                f"{op.name}: its accumulator can reach {bound}, legal is below 2^{legal}. Give it fewer weight or "
                "activation bits."
            )


def _check_rounding(graph: IntegerGraph) -> None:
    """LiteRT's arithmetic shifts left before it multiplies: it has room for tensors of 8 bits."""
    wide = [name for name, one in graph.tensors.items() if one.grid is not None and one.grid.bits > 8]
    if wide and any(getattr(op, "rounding", "") == "double" for op in graph.ops):
        raise ExportError(
            f"{', '.join(wide[:5])}{', ...' if len(wide) > 5 else ''}: activations of more than 8 bits cannot be "
            "rounded as rounding='double' and 'litert' say, which are those of 8-bit kernels. Lower with "
            "rounding='single'."
        )
