"""Weight bias correction: quantized filters with the mean of the float ones, and what it takes to export them.

Rounding moves the mean of a filter, and with it the mean of what the layer puts out. KURE's authors (their option
`bcorr_w`; the idea is of Banner et al., arXiv 1810.05723) shift each output channel's quantized weights back by the
difference. Such weights lie on no integer grid. `fold_bias` therefore moves the mean effect of the shift, on real
inputs, into the biases, where it is one float a channel (our completion, after Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit._modes import in_evaluation
from mixbit.data import inputs_of
from mixbit.errors import MixbitError
from mixbit.quantization import QuantizedLayer, quantized_layers

__all__ = ["correct_bias", "fold_bias", "forget_bias"]


@torch.no_grad()
def correct_bias(model: nn.Module, reference: Mapping[str, Tensor] | None = None) -> None:
    """Shift the quantized weights, in place, so that each output channel has the mean of the float one.

    `w_q <- w_q + mean(w) - mean(w_q)`, with the means over an output channel. The shift is a buffer of the layer,
    `weight_shift`: it is saved with the model, and comes off with the quantizers. It belongs to the weights, bits and
    steps at hand. Where these change it stays as it is; call this again.

    Args:
        model: with quantizers on, one bit-width selected; layers with weights in float are left alone.
        reference: layer name -> weights whose means are to be met. Layers that are not named meet those of their own
            float weights (for DoReFa: of the weights after tanh and scaling). The study of bit-widths other than the
            trained one gives the quantized weights at the trained one.

    Raises:
        MixbitError: a reference of another shape, or of a layer that is not quantized.

    >>> from mixbit.network import capture
    >>> from mixbit.policy import Policy
    >>> from mixbit.quantization import quantize
    >>> model = nn.Sequential(nn.Linear(3, 1, bias=False))
    >>> model[0].weight.data = torch.tensor([[0.3, 0.3, 0.9]])
    >>> network = capture(model, torch.zeros(2, 3))
    >>> _ = quantize(model, Policy.uniform(network, 2, None, {}), network)
    >>> before = model(torch.ones(1, 3))
    >>> correct_bias(model)
    >>> round(before.item(), 4), round(model(torch.ones(1, 3)).item(), 4)
    (0.7696, 1.5)
    """
    layers, reference = quantized_layers(model), dict(reference or {})
    unknown = sorted(set(reference) - set(layers))
    if unknown:
        raise MixbitError(f"reference names {unknown}, which carry no quantizers. Legal: {', '.join(layers)}.")
    for name, layer in layers.items():
        if layer.weight_quantizer is not None and not layer.weight_quantizer.bypass:
            weight = _weight(layer)
            wanted = reference.get(name, layer.weight_quantizer.unrounded(weight))
            if wanted.shape != weight.shape:
                raise MixbitError(
                    f"reference of {name!r} has shape {tuple(wanted.shape)}. Legal: {tuple(weight.shape)}."
                )
            quantized = layer.weight_quantizer(weight)
            _set(layer, "weight_shift", _channel_means(wanted) - _channel_means(quantized))


@torch.no_grad()
def fold_bias(model: nn.Module, batches: Iterable[Any]) -> None:
    """Take the shifts of `correct_bias` off the weights, and put their mean effect into the biases, in place.

    With the shift `d_c` of a channel, the bias gets the mean over samples and positions of `d_c * sum(x)`, where the
    sum is over what the channel's filter sees of the quantized input. The model then lowers to integers like any
    other. What is lost is how the sum varies about its mean.

    The numbers are in a buffer of the layer, `bias_shift`; a second call adds to it.

    Args:
        model: after `correct_bias`.
        batches: real inputs `(N, ...)`, at least one batch.

    Raises:
        MixbitError: no batch, or a shift in an attention layer, whose inputs this does not see.
    """
    layers = {name: layer for name, layer in quantized_layers(model).items() if layer.weight_shift is not None}
    attention = [name for name, layer in layers.items() if isinstance(layer, nn.MultiheadAttention)]
    if attention:
        raise MixbitError(f"{attention[0]}: the shift of an attention layer cannot be folded. Call forget_bias first.")
    sums: dict[str, Tensor] = {}
    count = 0
    with ExitStack() as stack:
        stack.enter_context(in_evaluation(model))
        for name, layer in layers.items():
            stack.enter_context(_hook(layer, partial(_add_effect, sums, name)))
        for x in inputs_of(batches, model):
            _batch.call(model, _batch.move(x, next(model.parameters()).device))
            count += _batch.samples(x)
    if layers and not count:
        raise MixbitError("fold_bias got no batch. Give at least one batch of real inputs.")
    for name, layer in layers.items():
        mean = sums[name] / count
        _set(layer, "bias_shift", mean if layer.bias_shift is None else layer.bias_shift + mean)
        layer.weight_shift = None


def forget_bias(model: nn.Module) -> None:
    """Take all shifts off, of weights and of biases."""
    for layer in quantized_layers(model).values():
        layer.weight_shift = layer.bias_shift = None


def _weight(layer: QuantizedLayer) -> Tensor:
    found = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
    assert isinstance(found, Tensor)
    return found


def _channel_means(weight: Tensor) -> Tensor:
    """Mean of each output channel, `(C, 1, ...)`."""
    means = weight.double().flatten(1).mean(dim=1).to(weight.dtype)
    return means.view(-1, *[1] * (weight.dim() - 1))


def _set(layer: QuantizedLayer, name: str, value: Tensor) -> None:
    layer.register_buffer(name, value)


def _hook(layer: QuantizedLayer, act: Callable[..., None]) -> Any:
    """A handle that is a context manager, which removes it."""
    return layer.register_forward_hook(act)


def _add_effect(
    sums: dict[str, Tensor], name: str, layer: QuantizedLayer, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """Output with the shift less output without, mean over positions, sum over samples."""
    shift, layer.weight_shift = layer.weight_shift, None
    try:
        effect = output - layer.forward(*inputs)
    finally:
        layer.weight_shift = shift
    channel = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
    rest = [axis for axis in range(1, output.dim()) if axis != channel]
    per_sample = effect.double().mean(dim=rest) if rest else effect.double()
    sums[name] = sums.get(name, 0.0) + per_sample.sum(dim=0).to(output.dtype)
