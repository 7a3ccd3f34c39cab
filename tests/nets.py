"""Tiny networks and data that trainings are tested on, in this process and in others."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from mixbit.data import TensorSplit
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, calibrate, quantize


def tiny_split(count: int = 96) -> TensorSplit:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    pixels = (torch.rand(count, 1, 6, 6, generator=random) * 100 + 60 * labels[:, None, None, None]).to(torch.uint8)
    return TensorSplit(pixels, labels, num_classes=3, mean=(0.5,), std=(0.25,))


def tiny_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


@cache
def tiny_network() -> Network:
    return capture(tiny_net(), next(tiny_split().batches(32))[0])


def quantized_net(activations: str = "lsq") -> nn.Sequential:
    model, x, network = tiny_net(), next(tiny_split().batches(32))[0], tiny_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network, QuantizeConfig(activations=activations))
    calibrate(model, [x])
    return model


def colours(count: int = 24) -> TensorSplit:
    """Images (3, 5, 5) of three classes, which augmentation shifts and mirrors."""
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, 5, 5), generator=random).to(torch.uint8)
    return TensorSplit(pixels, torch.arange(count) % 3, 3, [0.5] * 3, [0.25] * 3, pad=1, flip=True)


def small_net(seed: int = 0) -> nn.Sequential:
    """No bias in front of the norm: its gradient is rounding alone, of which AdamW makes full steps."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def numbered(count: int = 30) -> TensorSplit:
    """Image i is full of i."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 5, 5).contiguous()
    return TensorSplit(pixels, torch.arange(count) % 3, 3, [0.0] * 3, [1 / 255] * 3)
