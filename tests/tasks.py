"""A small network and data for tests of methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixbit.data import TensorSplit
from mixbit.task import Task


class Net(nn.Module):
    """Three convolutions and two linear layers; the middle three layers are searched."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


def tiny_task(*, size: int = 6, samples: int = 64) -> Task:
    """`Net` on random images `(1, size, size)` of three classes."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (samples, 1, size, size), generator=random).to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(samples) % 3, num_classes=3, mean=(0.5,), std=(0.25,))
    return Task(model=Net(), train=split, test=split)
