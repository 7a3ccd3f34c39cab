"""Networks to attack or certify: what a run holds, in float and at some bits, on each runtime, as lazy Predictors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mixbit import _io
from mixbit._bits import read_option
from mixbit.attacks import InputGrid
from mixbit.cost import LayerBits
from mixbit.data import InputSpace
from mixbit.errors import ExportError, MixbitError, did_you_mean, shown
from mixbit.inference import Predictor, TorchPredictor, TwinPredictor
from mixbit.integer import GraphRounding, IntegerGraph
from mixbit.policy import Policy, resolve_pins
from mixbit.ptq import PTQConfig, ptq
from mixbit.quantization import detach
from mixbit.runs import _folder
from mixbit.runs._trained import TrainedRun, open_run
from mixbit.runs.exporting import integer_network, predictor_of, runtimes, taken

FLOAT, FAKE = "float", "fake-quantized"
_PINNED = 8
_ORDER = 0
"""Seed of the order of test images: the first ones are the same in every run."""


class Variant:
    """A network on a runtime: a Predictor that is made when its logits are first asked for.

    Attributes:
        key: what it is within its run, for a ledger: `float`, `W8A8 executor`, or `executor` of a run's own bits.
        name: the same for tables; with the name of its run where there are several.
        run: folder of the run.
        bits: of a float run that was calibrated; empty for float, and for a run's own bits.
        on: `float`, `fake-quantized`, `executor` or the name of an exporter.
        space: of its inputs.
        differentiable: whether attacks may ask it for gradients.
    """

    def __init__(self, held: HeldRun, bits: str, on: str) -> None:
        self.bits, self.on, self.run, self.space = bits, on, held.run, held.space
        self.key = " ".join(filter(None, (bits, on)))
        self.name = " ".join(filter(None, (held.name, self.key)))
        self.differentiable = on in (FLOAT, FAKE)
        self._held = held

    @cached_property
    def predictor(self) -> Predictor:
        """What gives the logits."""
        return self._held.predictor(self.bits, self.on)

    def logits(self, x: Tensor) -> Tensor:
        """Make the network if it is not there, and ask it; see `mixbit.inference.Predictor`."""
        return self.predictor.logits(x)

    @cached_property
    def with_gradients(self) -> Predictor:
        """The network itself where it has gradients; else it gives the logits, and its fake-quantized one gradients."""
        return self if self.differentiable else TwinPredictor(self, Variant(self._held, self.bits, FAKE))

    @property
    def grid(self) -> InputGrid | None:
        """The grid of the network's input; None of the float network, which has none."""
        return None if self.on == FLOAT else self._held.grid(self.bits)

    @property
    def snap(self) -> Callable[[Tensor], Tensor] | None:
        """Inputs as the network's own quantization leaves them; None of the float network, which has none."""
        return None if self.grid is None else self.grid.snap


class HeldRun:
    """A run folder, opened, with all that is made of its weights.

    Args:
        run: folder of a finished training.
        data: another data set than its own.
        name: of the run, for tables; empty where it is the only one.
    """

    def __init__(self, run: Path, data: str | None, name: str) -> None:
        self.run, self.name = run, name
        self.opened = open_run(run, data=data)
        self.opened.fold()  # it is what ships
        self.weights = _io.digest(run / _folder.WEIGHTS).partition(":")[2]
        self._made, self.grid = cache(self._quantized), cache(self._grid)
        self._graphs = dict[tuple[str, str], IntegerGraph]()

    @property
    def space(self) -> InputSpace:
        """The input space of its task."""
        return self.opened.task.space

    @property
    def quantized(self) -> bool:
        """Whether it was trained under a policy, and has bits of its own."""
        return self.opened.policy is not None

    def variants(self, bits: Sequence[str], on: Sequence[str]) -> Iterator[Variant]:
        """Each runtime of each network: float once, then the run's own bits, or those that a float run is given."""
        if FLOAT in on:
            yield Variant(self, "", FLOAT)
        for option in ("",) if self.quantized else bits:
            yield from (Variant(self, option, one) for one in on if one != FLOAT)

    def predictor(self, bits: str, on: str) -> Predictor:
        """One network on one runtime.

        Raises:
            ExportError: what has no integer form, or a runtime or compiler that is not here.
        """
        output = self.opened.task.objective.output
        if on == FLOAT:
            return TorchPredictor(self._float_model(), self.space, output=output, name=FLOAT)
        opened = self._made(bits)
        if on == FAKE:
            return TorchPredictor(opened.task.model, self.space, output=output, name=FAKE)
        return predictor_of(opened, self.run, on, partial(self._graph, bits))

    def _graph(self, bits: str, rounding: GraphRounding) -> IntegerGraph:
        """The integer network with a rounding; what several runtimes share is lowered once."""
        if (bits, rounding) not in self._graphs:
            self._graphs[bits, rounding] = integer_network(self._made(bits), self.run, rounding)
        return self._graphs[bits, rounding]

    def _grid(self, bits: str) -> InputGrid | None:
        """The grid of a network's input, whatever its rounding; None of one that has no integer form."""
        known = [graph for (of, _), graph in self._graphs.items() if of == bits]
        try:
            return InputGrid.of(known[0] if known else self._graph(bits, "float32"), self.space)
        except ExportError:
            return None

    def _float_model(self) -> nn.Module:
        if not self.quantized:
            return self.opened.task.model
        model = copy.deepcopy(self.opened.task.model)
        detach(model)
        return model

    def _quantized(self, bits: str) -> TrainedRun:
        """The run itself, or a float one quantized on images of its training split."""
        if not bits:
            return self.opened
        task = self.opened.task
        chosen = option_bits(bits)
        edge = LayerBits(max(_PINNED, chosen.weight_bits or 0), max(_PINNED, chosen.activation_bits or 0))
        pins = dict.fromkeys(resolve_pins(task.network), edge)
        policy = Policy.uniform(task.network, chosen.weight_bits, chosen.activation_bits, pins)
        model = ptq(task, policy, PTQConfig(seed=self.opened.subject.seed), quiet=True).model
        return replace(self.opened, task=replace(task, model=model), policy=policy)


def run_names(run: Sequence[Path]) -> list[str]:
    """Names of the folders, or their paths where two are equal; none for a run alone."""
    short = [one.name for one in run]
    return [""] if len(run) == 1 else [n if short.count(n) == 1 else str(o) for n, o in zip(short, run, strict=True)]


def common_images(held: Sequence[HeldRun], images: int) -> tuple[Tensor, Tensor, str | None]:
    """Test images that several runs share, see `images_of`.

    Raises:
        MixbitError: they have others.
    """
    x, y, fewer = images_of(held[0], images)
    for other in held[1:]:
        if not all(map(torch.equal, images_of(other, images)[:2], (x, y))):
            raise MixbitError(f"{other.run} has other test images than {held[0].run}. Legal: runs of the same data.")
    return x, y, fewer


def images_of(held: HeldRun, images: int) -> tuple[Tensor, Tensor, str | None]:
    """Images in the unit of the space, their labels, and why they are fewer than were asked for."""
    task = held.opened.task
    count, fewer = taken(task, images)
    parts, have = list[tuple[Tensor, Tensor]](), 0
    for inputs, targets in task.test.batches(count, seed=_ORDER, shuffle=True):
        if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
            raise MixbitError(f"{held.run}: its inputs or labels are no tensors. Legal: one tensor (N, ...) of each.")
        parts.append((inputs, targets))
        have += len(inputs)
        if have >= count:
            break
    inputs, y = (torch.cat(one)[:count].cpu() for one in zip(*parts, strict=True))
    x = held.space.leave(inputs)
    within = held.space.clip(x)
    near = bool(torch.isclose(x, within, rtol=0, atol=1e-5).all())  # what the rounding of the normalisation moved
    return (within if near else x), y, fewer


def option_bits(text: str) -> LayerBits:
    """Bits of weights and activations, both in integers.

    Raises:
        MixbitError: no bits, or a side in float32.
    """
    found = read_option(text)
    if found is None or None in found:
        raise MixbitError(
            f"variants: {shown(text)} are no bits of an integer network. Write W8A8: weight bits, then activation "
            "bits, up to 8 and 16; the float network is float of --on."
        )
    return LayerBits(*found)


def check_on(on: Sequence[str]) -> None:
    """Raise unless each names a runtime.

    Raises:
        MixbitError: an unknown name, with the nearest legal one.
    """
    legal = [FLOAT, FAKE, *runtimes()]
    for one in on:
        if one not in legal:
            raise MixbitError(f"on={one!r} is unknown.{did_you_mean(one, legal)} Legal: {', '.join(legal)}.")
