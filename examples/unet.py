"""Segmentation: a small U-Net that tells squares and discs from the background, judged by mean IoU.

mixbit train examples/unet.py:task --run runs/unet --epochs 10
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import mixbit

SIZE, CLASSES, IGNORED = 16, 3, 255


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Two levels, one skip connection each."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = block(1, width), block(width, 2 * width)
        self.pool, self.bottom = nn.MaxPool2d(2), block(2 * width, 2 * width)
        self.up2, self.merge2 = nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2), block(4 * width, width)
        self.up1, self.merge1 = nn.ConvTranspose2d(width, width, 2, stride=2), block(2 * width, width)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.up2(self.bottom(self.pool(second)))
        x = self.up1(self.merge2(torch.cat([x, second], 1)))
        return self.head(self.merge1(torch.cat([x, first], 1)))


def shapes(count: int, seed: int) -> TensorDataset:
    """Images `(1, 16, 16)` and masks `(16, 16)`: 0 is background, 1 a square, 2 a disc; the border is not counted."""
    random = torch.Generator().manual_seed(seed)
    images, masks = torch.randn(count, 1, SIZE, SIZE, generator=random) / 4, torch.zeros(count, SIZE, SIZE).long()
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for image, mask in zip(images, masks, strict=True):
        for kind in (1, 2):
            middle, radius = torch.randint(4, 12, (2,), generator=random), 3
            down, right = (rows - middle[0]).abs(), (columns - middle[1]).abs()
            inside = torch.maximum(down, right) < radius if kind == 1 else down**2 + right**2 <= radius**2
            mask[inside], image[0][inside] = kind, float(kind)
    for edge in (0, -1):
        masks[:, edge], masks[:, :, edge] = IGNORED, IGNORED
    return TensorDataset(images, masks)


def task() -> mixbit.Task:
    return mixbit.Task(
        model=UNet(),
        train=shapes(256, seed=0),
        test=shapes(64, seed=1),
        loss=nn.CrossEntropyLoss(ignore_index=IGNORED),
        metric=mixbit.metric.mean_iou(CLASSES, ignore_index=IGNORED),
    )
