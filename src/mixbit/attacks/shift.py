"""Quantization shift: what rounding makes of a perturbation, layer by layer.

Bernhard et al., "Impact of Low-Bitwidth Quantization on the Adversarial Robustness for Embedded Neural Networks"
(2019), name it: a small perturbation falls into the bucket of the clean value and is gone, one just over half a step
is rounded up to a whole one. The ratio per layer is our completion.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixbit.attacks._norms import Norm, norm_of
from mixbit.errors import MixbitError
from mixbit.inference import TorchPredictor, check_inputs
from mixbit.quantization import QuantizedLayer, quantized_layers

__all__ = ["LayerShift", "quantization_shift"]

_BOTH: tuple[Norm, Norm] = ("L2", "Linf")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShift:
    """What the quantizer at one layer's input makes of the perturbation that reaches it.

    Attributes:
        layer: its name.
        l2: mean over images of `||Q(a') - Q(a)||_2 / ||a' - a||_2`: 1 leaves a perturbation as it is, below 1 the
            quantizer attenuates, above 1 it amplifies. `a` and `a'` are the layer's inputs in the quantized network for
            the clean and the perturbed image.
        linf: the same in Linf.
        erased: share of the images whose perturbation is there before the quantizer and gone behind it.
        images: images whose perturbation reached the layer.
    """

    layer: str
    l2: float
    linf: float
    erased: float
    images: int


@torch.no_grad()
def quantization_shift(predictor: TorchPredictor, x: Tensor, points: Tensor) -> list[LayerShift]:
    """The shift at every quantized layer, in the order in which the layers are called.

    Args:
        predictor: of a fake-quantized network.
        x: clean images `(N, ...)` in the unit of its space.
        points: the same images, perturbed.

    Returns:
        A row for each layer with a quantizer of its input. NaN where no perturbation reached it.

    Raises:
        MixbitError: the network carries no quantizers, or the two shapes differ.
    """
    check_inputs(x, "quantization_shift")
    if x.shape != points.shape:
        raise MixbitError(f"images {tuple(x.shape)} and points {tuple(points.shape)}: legal is one shape.")
    layers = {name: la for name, la in quantized_layers(predictor.model).items() if la.input_quantizer is not None}
    if not layers:
        raise MixbitError(f"{predictor.name} quantizes no input of a layer. Give a network with quantizers.")
    clean, moved = (_inputs(predictor, layers, images) for images in (x, points))
    return [_shift(name, layers[name], clean[name], moved[name]) for name in clean]


def _shift(name: str, layer: QuantizedLayer, clean: Tensor, moved: Tensor) -> LayerShift:
    before, after = moved - clean, layer.quantize_input(moved) - layer.quantize_input(clean)
    reached = norm_of(before, "L2") > 0
    ratios = [(norm_of(after, norm) / norm_of(before, norm))[reached].mean() for norm in _BOTH]
    gone = (norm_of(after, "L2") == 0)[reached].float().mean()
    return LayerShift(
        layer=name, l2=float(ratios[0]), linf=float(ratios[1]), erased=float(gone), images=int(reached.sum())
    )


def _inputs(predictor: TorchPredictor, layers: dict[str, Any], images: Tensor) -> dict[str, Tensor]:
    """Input of every layer; of one that is called more than once, the first."""
    found: dict[str, Tensor] = {}
    with _watching(layers, found):
        predictor.logits(images)
    return found


@contextmanager
def _watching(layers: dict[str, Any], found: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.setdefault(name, inputs[0].detach().clone())

    handles = [layer.register_forward_pre_hook(partial(keep, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
