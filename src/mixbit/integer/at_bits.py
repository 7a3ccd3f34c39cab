"""A model as an integer graph at any bits, before it was trained at any: for what depends on bits and shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mixbit import _batch
from mixbit.cost import LayerBits
from mixbit.integer.graph import GraphRounding, IntegerGraph
from mixbit.integer.lowering import lower
from mixbit.network import Network
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize, quantized_layers

__all__ = ["lower_at"]


def lower_at(
    model: nn.Module, network: Network, example: Any, *, rounding: GraphRounding, apart: bool = False
) -> Callable[[Mapping[str, LayerBits]], IntegerGraph]:
    """Bits of every layer -> the network, calibrated on the example and lowered. Its weights do not matter.

    Args:
        model: moved to the CPU and put into evaluation mode; quantizers are put on copies of it.
        network: what capture learned of it.
        example: inputs of a few samples, see `mixbit.data.Batch`.
        rounding: see `mixbit.integer.lower`.
        apart: no two layers have one step for their inputs. Calibration gives the readers of a tensor the same step,
            training does not, and then the device requantizes: what must fit after training is measured so. Nor does a
            concat share its grid with what others read.

    >>> from mixbit.network import capture
    >>> linear, x = nn.Sequential(nn.Linear(4, 2)), torch.ones(1, 4)
    >>> at = lower_at(linear, capture(linear, x), x, rounding="single")
    >>> [at({"0": LayerBits(bits, 8)}).weight_bits for bits in (2, 8)]                       # 8 weights
    [16, 64]
    """
    model, example = model.cpu().eval(), _batch.move(example, torch.device("cpu"))

    def lowered(layers: Mapping[str, LayerBits]) -> IntegerGraph:
        one = copy.deepcopy(model)
        quantize(one, Policy(fingerprint=network.fingerprint, layers=dict(layers)), network)
        calibrate(one, [example])
        if apart:
            _move_apart(one)
        return lower(one, network, [example], rounding=rounding, compare=False, apart=apart)

    return lowered


@torch.no_grad()
def _move_apart(model: nn.Module) -> None:
    for number, layer in enumerate(quantized_layers(model).values()):
        if layer.input_quantizer is not None:
            layer.input_quantizer.steps.mul_(1 + number / 1024)
