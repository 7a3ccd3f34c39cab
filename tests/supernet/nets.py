"""One small network for the tests of supernets: two layers that read one tensor, norms, pinned ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixbit import Task


class Small(nn.Module):
    """Stem and head are the ends; `left` and `right` read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.left, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.right, self.bn2 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(self.bn1(self.left(x)) + self.bn2(self.right(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def task(batches: int = 3) -> Task:
    """Classes that the mean of the channels tells."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    data = []
    for _ in range(batches):
        y = torch.randint(3, (16,), generator=generator)
        x = torch.randn(16, 3, 6, 6, generator=generator) * 0.5
        x[torch.arange(16), y] += 1.0
        data.append((x, y))
    return Task(model=Small(), train=data, test=data)
