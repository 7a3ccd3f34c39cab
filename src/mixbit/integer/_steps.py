"""The float side of lowering: what a fake-quantized model computes, one step an operation, before grids are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from mixbit.integer.arithmetic import Array, Grid
from mixbit.integer.graph import Padding

Reals = tuple[float, float]
"""Bounds of real numbers: those of a ReLU or a clamp."""


@dataclass(eq=False, slots=True, kw_only=True)
class Wire:
    """A tensor of real numbers between two steps."""

    name: str
    shape: tuple[int, ...]
    """Shape of one sample."""
    node: fx.Node
    """Where calibration finds its values: the last operator that was folded into its step."""
    step: Step | None
    """What makes it; None for the network's input."""
    readers: list[Step] = field(default_factory=list)


@dataclass(eq=False, slots=True, kw_only=True)
class Step:
    """An operation with its inputs and its output."""

    name: str
    inputs: list[Wire]
    output: Wire = field(init=False)


@dataclass(eq=False, slots=True, kw_only=True)
class Window:
    """Geometry of a convolution or a pool."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    groups: int = 1


@dataclass(eq=False, slots=True, kw_only=True)
class Clamped(Step):
    """A step whose result may be clamped at no cost: a ReLU behind it is folded into it."""

    bounds: Reals | None = None

    def clamp(self, low: float, high: float) -> None:
        """Fold a further clamp in: its bounds cut those that are there, which leaves one number where they part."""
        first, last = self.bounds or (-float("inf"), float("inf"))
        self.bounds = (min(max(first, low), high), min(max(last, low), high))


@dataclass(eq=False, slots=True, kw_only=True)
class Multiply(Clamped):
    """Convolution (with a window) or linear layer, with its batch norm folded in."""

    integers: Array
    """The weights as integers."""
    bits: int
    scale: Array
    """float64 `(out,)`: real weight = scale * integer."""
    bias: Array
    """The bias in real numbers, float64 `(out,)`."""
    window: Window | None
    rounded: bool = False
    """Whether training left the weights in float, so that the integers are off by up to half a step."""

    def affine(self, scale: Array, shift: Array) -> None:
        """Fold `y = scale * y + shift` by channel in."""
        self.scale, self.bias = self.scale * scale, self.bias * scale + shift


@dataclass(eq=False, slots=True, kw_only=True)
class Sum(Clamped):
    """Sum of two tensors."""


@dataclass(eq=False, slots=True, kw_only=True)
class Average(Clamped):
    """An average pool over windows of the map."""

    window: Window


@dataclass(eq=False, slots=True, kw_only=True)
class Function(Step):
    """A function of one element."""

    function: str
    call: Callable[[torch.Tensor], torch.Tensor]


@dataclass(eq=False, slots=True, kw_only=True)
class Limit(Clamped):
    """A clamp: folded into what it clamps, but where others read that as well."""


@dataclass(eq=False, slots=True, kw_only=True)
class Affine(Step):
    """`scale * x + shift` by channel (a batch norm), which is folded into the layer before it; none is left after."""

    scale: Array
    shift: Array
    """What is added to each channel; both are float64 `(out,)`."""


@dataclass(eq=False, slots=True, kw_only=True)
class Move(Step):
    """Elements go elsewhere (or the largest survives), their values do not change: any grid passes through."""

    kind: str
    attributes: dict[str, Any]


@dataclass(eq=False, slots=True, kw_only=True)
class FakeQuantize(Step):
    """A quantizer of the trained network."""

    grid: Grid
    dead: bool = False
    """Whether nothing passes: see `_dead`."""


@dataclass(eq=False, slots=True, kw_only=True)
class Probabilities(Step):
    """Softmax of the output."""


@dataclass(eq=False, slots=True, kw_only=True)
class Flow:
    """All steps in order."""

    input: Wire
    output: Wire
    steps: list[Step]
    float_weights: list[str]
    """Layers whose weights training left in float."""
    unique: Callable[[str], str]
    """A name that no step has."""
