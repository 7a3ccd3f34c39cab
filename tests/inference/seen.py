"""One small network for all Predictors, at mixed bits, and the integer graph of it."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from mixbit.cost import LayerBits
from mixbit.data import InputSpace
from mixbit.integer import IntegerGraph, Rounding, lower
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from mixbit.testing.predictors import PredictorCases

SHAPE = (3, 9, 7)
BITS = (LayerBits(8, 8), LayerBits(4, 4), LayerBits(3, 6), LayerBits(8, 5))


def network() -> nn.Module:
    """Strides, depthwise and pointwise layers and a batch norm; a float."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    for layer in (model[0], model[3], model[5], model[9]):
        layer.weight.data.mul_(3)  # so that inputs that differ give outputs that do
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    nn.init.uniform_(model[1].running_var, 0.5, 1.5)
    return model.eval()


@cache
def quantized(space: InputSpace, samples: int = 64) -> tuple[nn.Module, Network, torch.Tensor]:
    """The network at `BITS`, calibrated on inputs of the contract, and these as the network reads them."""
    cases = PredictorCases()
    cases.shape = SHAPE
    x, model = space.enter(cases.inputs(samples)), network()
    found = capture(model, x[:2])
    names = [layer.name for layer in found.layers]
    quantize(model, Policy(fingerprint=found.fingerprint, layers=dict(zip(names, BITS, strict=True))), found)
    calibrate(model, [x])
    return model.eval(), found, x


@cache
def graph(space: InputSpace, rounding: Rounding = "single") -> IntegerGraph:
    """Lowered."""
    model, found, x = quantized(space)
    return lower(model, found, [x], rounding=rounding)
