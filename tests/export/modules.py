"""Random networks of PyTorch modules, asymmetric on purpose: sizes, paddings, strides, statistics, readers differ."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.network import Network, capture
from mixbit.policy import LayerBits, Policy
from mixbit.quantize import calibrate, quantize

Step = Callable[[list[Tensor]], Tensor]


class RandomNet(nn.Module):
    """Steps that each read a map made earlier, mostly the last one; a head joins what nobody read.

    Args:
        seed: decides everything.
        steps: how many.
    """

    def __init__(self, seed: int, steps: int = 7) -> None:
        super().__init__()
        self._choice = random.Random(seed)
        self._layers = nn.ModuleList()
        self._steps: list[Step] = []
        torch.manual_seed(seed)
        maps = [torch.zeros(1, 3, 7, 9)]
        for _ in range(steps):
            at = len(maps) - 1 if self._choice.random() < 0.6 else self._choice.randrange(len(maps))
            step = self._choice.choice(_KINDS)(self, maps, at)
            self._steps.append(step)
            maps.append(step(maps))
        self.fc = nn.Linear(maps[-1].shape[1] + maps[len(maps) // 2].shape[1], 5)
        self._middle = len(maps) // 2
        self._vary()

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for step in self._steps:
            maps.append(step(maps))
        return self.fc(torch.cat([maps[-1].mean((2, 3)), F.adaptive_avg_pool2d(maps[self._middle], 1).flatten(1)], 1))

    def add(self, layer: nn.Module) -> nn.Module:
        """A layer with a name."""
        self._layers.append(layer.eval())
        return layer

    @torch.no_grad()
    def _vary(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-0.5, 1.5)
                module.bias.normal_(0.2, 0.4)
                module.running_mean.normal_(0.1, 0.3)
                module.running_var.uniform_(0.3, 2)
        self.eval()


def _conv(net: RandomNet, maps: list[Tensor], at: int) -> Step:
    pick, channels = net._choice, maps[at].shape[1]
    groups = pick.choice([1, channels])
    kernel = (pick.randint(1, min(3, maps[at].shape[2])), pick.randint(1, min(3, maps[at].shape[3])))
    padding = (pick.randint(0, kernel[0] // 2), pick.randint(0, kernel[1] // 2))
    width = channels if groups > 1 else pick.randint(2, 7)
    conv = nn.Conv2d(
        channels, width, kernel, pick.choice([1, 1, (2, 1)]), padding, groups=groups, bias=pick.random() < 0.7
    )
    layers = [net.add(conv)]
    if pick.random() < 0.6:
        layers.append(net.add(nn.BatchNorm2d(width, eps=pick.choice([1e-5, 0.1]))))
    if pick.random() < 0.5:
        layers.append(net.add(pick.choice([nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.3, 0.7), nn.ReLU(inplace=True)])))
    return lambda maps: nn.Sequential(*layers)(maps[at])


def _activation(net: RandomNet, maps: list[Tensor], at: int) -> Step:
    call = net._choice.choice(
        [F.relu, F.hardswish, torch.sigmoid, F.gelu, lambda y: y.clamp(-0.4, 0.9), lambda y: 1.3 * y - 0.2]
    )
    return lambda maps: call(maps[at])


def _same(net: RandomNet, maps: list[Tensor], at: int) -> Step:
    """The same values by another name."""
    call = net._choice.choice(
        [
            lambda y: F.dropout(y, 0.5, training=False),
            lambda y: y[:, :],
            lambda y: y.reshape(y.shape).contiguous(),
            lambda y: y.flatten(2).unflatten(2, y.shape[2:]),
            lambda y: y.mT.swapaxes(2, 3).clone(),
        ]
    )
    return lambda maps: call(maps[at])


def _move(net: RandomNet, maps: list[Tensor], at: int) -> Step:
    call = net._choice.choice(
        [
            lambda y: y.mT,
            lambda y: y[:, 1:] if y.shape[1] > 2 else y,
            lambda y: F.pad(y, (0, 2, 1, 0)),
            lambda y: F.max_pool2d(y, 2, 1, (1, 1)),
            lambda y: F.avg_pool2d(y, (1, 2), 1),
            lambda y: y.movedim(1, 2),
        ]
    )
    return lambda maps: call(maps[at]) if min(maps[at].shape[1:]) > 1 else maps[at]


def _join(net: RandomNet, maps: list[Tensor], at: int) -> Step:
    """A sum with an earlier map of the same shape, else a concat with one of the same size, else a layer."""
    equal = [i for i, one in enumerate(maps) if one.shape == maps[at].shape and 0 < i != at]
    if equal and at:
        other = net._choice.choice(equal)
        return lambda maps: maps[at] + maps[other]
    sized = [i for i, one in enumerate(maps) if one.shape[2:] == maps[at].shape[2:] and 0 < i != at]
    if sized and at:
        other = net._choice.choice(sized)
        return lambda maps: torch.cat([maps[at], maps[other]], 1)
    return _conv(net, maps, at)


_KINDS = (_conv, _conv, _activation, _same, _move, _join)


def lowerable(seed: int, *, steps: int = 7) -> tuple[nn.Module, Network, Tensor]:
    """A random network, quantized at random bits and calibrated, what capture learned of it, and its batch."""
    choice, model = random.Random(seed + 1), RandomNet(seed, steps)
    x = torch.randn(8, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    network = capture(model, x)
    bits = {layer.name: LayerBits(choice.randint(2, 8), choice.randint(2, 8)) for layer in network.layers}
    quantize(model, Policy(fingerprint=network.fingerprint, layers=bits), network)
    calibrate(model, [x], rule="minmax")
    return model.eval(), network, x
