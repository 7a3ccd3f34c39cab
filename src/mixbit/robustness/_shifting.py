"""Other quantizers in the place of a model's own, for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from mixbit._modes import modes_kept
from mixbit.errors import MixbitError, did_you_mean
from mixbit.network import Skipped
from mixbit.quantization import QuantizedLayer, quantized_layers
from mixbit.robustness._grids import Grid, grid_of
from mixbit.robustness._shifts import Shift

__all__ = ["Sides", "check_changeable", "kept", "left_alone", "shifted", "trained_bits"]

Sides: TypeAlias = Literal["weights", "inputs", "both"]
"""Which quantizers of a layer are changed."""


class _FixedWeight(nn.Module):
    """Stands for a weight quantizer: the weight does not change while a model is evaluated, so it is made once."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, weight: Tensor) -> Tensor:
        return self.weight


class _FixedGrid(nn.Module):
    """Stands for an input quantizer."""

    def __init__(self, grid: Grid, name: str) -> None:
        super().__init__()
        self.grid, self.name = grid, name

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.apply(x, self.name)


@dataclass(frozen=True, slots=True)
class _Place:
    """One quantizer of one layer."""

    layer: str
    module: QuantizedLayer
    attribute: str  # the quantizer's
    quantizer: nn.Module
    grid: Grid

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.attribute}"


@contextmanager
def shifted(
    model: nn.Module,
    shift: Shift,
    *,
    sides: Sides = "weights",
    pinned: Collection[str] = (),
    bias_correction: bool = False,
) -> Iterator[bool]:
    """Change the quantizers of all layers of `model` while the block runs; afterwards all is as it was, bit for bit.

    The quantizers themselves are not touched: others take their places, also where the block raises. Modes and buffers
    (the statistics of batch norm) are put back as well, so that the block may make them anew.

    Args:
        model: with quantizers on, calibrated.
        shift: what is changed.
        sides: the weights' quantizers, those of the layers' inputs, or both.
        pinned: names of layers that keep their quantizers.
        bias_correction: add to each output channel of each changed weight what brings its mean back to that of the
            weight before the change (the mean alone, as in the released code of KURE).

    Yields:
        Whether any layer may compute with other numbers now; if not, there is nothing to evaluate.

    Raises:
        MixbitError: no layer can be changed, or a pinned name or `sides` is unknown.

    >>> from mixbit.network import capture
    >>> from mixbit.policy import Policy
    >>> from mixbit.quantization import quantize
    >>> from mixbit.robustness.quantizer_shift import ScaledStep
    >>> model, x = nn.Sequential(nn.Linear(2, 2, bias=False)), torch.tensor([[1.0, 0.0]])
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.5], [-1.0, 0.3]]))
    >>> network = capture(model, x)
    >>> _ = quantize(model, Policy.uniform(network, 3, None, {}), network)
    >>> _ = model[0].weight_quantizer.steps.data.fill_(0.5)
    >>> with shifted(model, ScaledStep(2.0)):
    ...     model[0].quantize_weight(model[0].weight)
    tensor([[ 1.,  0.],
            [-1.,  0.]])
    """
    places = _places(model, sides, pinned)
    with kept(model):
        try:
            different = [_replace(place, shift, bias_correction) for place in places]
            yield any(different)
        finally:
            for place in places:
                setattr(place.module, place.attribute, place.quantizer)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Put modes and buffers of `model` back after the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with modes_kept(model):
            yield
    finally:
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)


def check_changeable(model: nn.Module, sides: Sides, pinned: Collection[str]) -> None:
    """Raise what `shifted` would, before anything is evaluated."""
    _places(model, sides, pinned)


def trained_bits(model: nn.Module, pinned: Collection[str] = ()) -> float:
    """Mean weight bits of the layers that a shift of the weights changes."""
    bits = [place.grid.bits for place in _places(model, "weights", pinned)]
    return sum(bits) / len(bits)


def left_alone(
    model: nn.Module, *, sides: Sides = "weights", pinned: Collection[str] = (), clipping: bool = False
) -> tuple[Skipped, ...]:
    """Layers whose quantizers a shift leaves as they are, with the reason: in float, pinned, of an unknown kind.

    Args:
        model: with quantizers on.
        sides: which of them the shift changes.
        pinned: names of layers that keep theirs.
        clipping: the shift changes the clip, which DoReFa's weights do not have.
    """
    carriers = quantized_layers(model)
    found = [
        Skipped(name=f"{name}.in_proj" if isinstance(module, nn.MultiheadAttention) else name, reason="in float")
        for name, module in model.named_modules()
        if not isinstance(module, QuantizedLayer) and _has_weight(module)
    ]
    for name, module in carriers.items():
        reasons = [
            f"{_SIDE[attribute]}: {why}"
            for attribute in _attributes(sides)
            if (why := _why(module, attribute, clipping))
        ]
        if name in pinned:
            reasons = ["pinned"]
        if reasons:
            found.append(Skipped(name=name, reason="; ".join(reasons)))
    return tuple(found)


_SIDE = {"weight_quantizer": "weight", "input_quantizer": "input"}


def _attributes(sides: Sides) -> tuple[str, ...]:
    legal = {
        "weights": ("weight_quantizer",),
        "inputs": ("input_quantizer",),
        "both": ("weight_quantizer", "input_quantizer"),
    }
    if sides not in legal:
        raise MixbitError(f"sides={sides!r} is unknown. Legal: {', '.join(get_args(Sides))}.")
    return legal[sides]


def _has_weight(module: nn.Module) -> bool:
    """Whether a module has a matrix or kernels of its own; the weights of norms have one dimension."""
    own = (module._parameters.get(name) for name in ("weight", "in_proj_weight"))
    return any(weight is not None and weight.dim() > 1 for weight in own)


def _why(module: QuantizedLayer, attribute: str, clipping: bool = False) -> str | None:
    """The reason why this quantizer is not changed, or None."""
    quantizer = getattr(module, attribute)
    if quantizer is None:
        return "in float"
    if quantizer.bypass:
        return "in float, its quantizer is switched off"
    grid = grid_of(quantizer)
    if grid is None:
        return f"its {type(quantizer).__name__} is of a kind that cannot be changed"
    return "DoReFa clips nothing" if clipping and grid.kind == "dorefa" else None


def _places(model: nn.Module, sides: Sides, pinned: Collection[str]) -> list[_Place]:
    attributes, carriers = _attributes(sides), quantized_layers(model)
    unknown = next((name for name in pinned if name not in carriers), None)
    if unknown is not None:
        raise MixbitError(
            f"the pinned layer {unknown!r} carries no quantizers.{did_you_mean(unknown, carriers)} "
            f"Legal: names of the {len(carriers)} layers that do."
        )
    places = [
        _Place(name, module, attribute, quantizer, grid)
        for name, module in carriers.items()
        for attribute in attributes
        if name not in pinned and _why(module, attribute) is None
        if (quantizer := getattr(module, attribute)) is not None and (grid := grid_of(quantizer)) is not None
    ]
    if not places:
        raise MixbitError(
            f"no layer has quantizers of its {sides} that could be changed. Put them on with mixbit.quantize(), and "
            "pin fewer layers."
        )
    return places


@torch.no_grad()
def _replace(place: _Place, shift: Shift, bias_correction: bool) -> bool:
    """Put the changed quantizer into its place; True unless it is known to do what the old one does."""
    if place.attribute == "input_quantizer":
        moved = shift(place.grid, None)
        setattr(place.module, place.attribute, _FixedGrid(moved, place.name))
        return not moved.same_as(place.grid)
    weight, grid = _weight(place.module), place.grid
    before = place.quantizer(weight)
    changed = shift(grid, weight.reshape(len(grid.step), -1)).apply(weight, place.name)
    if bias_correction:
        changed = with_means_of(changed, before)
    setattr(place.module, place.attribute, _FixedWeight(changed.detach()))
    return not torch.equal(changed, before)


def _weight(module: nn.Module) -> Tensor:
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    if not isinstance(weight, Tensor):
        raise MixbitError(f"a {type(module).__name__} has no weight tensor.")
    return weight


def with_means_of(weight: Tensor, reference: Tensor) -> Tensor:
    """`weight`, moved by one number an output channel so that the channel's mean is that of `reference`."""
    apart = (reference.double() - weight.double()).flatten(1).mean(dim=1)
    return weight + apart.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1))
