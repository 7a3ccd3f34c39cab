"""Detection: outputs at two scales, a box of every image in a list, a loss and a metric of one's own.

mixbit train examples/detector.py:task --run runs/detector --epochs 20
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import mixbit

SIZE = 32
STRIDES = (4, 8)


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Detector(nn.Module):
    """For each cell of two grids a score, and the box's edges left, top, right and bottom of the cell's middle."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.fine = block(1, width, 2), block(width, 2 * width, 2)
        self.coarse = block(2 * width, 4 * width, 2)
        self.heads = nn.ModuleList(nn.Conv2d(channels, 5, 1) for channels in (2 * width, 4 * width))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(self.stem(x))
        return [head(found) for head, found in zip(self.heads, (fine, self.coarse(fine)), strict=True)]


def cells(outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores `(N, cells)` and boxes `(N, cells, 4)` in pixels, of all scales together."""
    scores, boxes = [], []
    for grid, stride in zip(outputs, STRIDES, strict=True):
        middles = (torch.arange(SIZE // stride, device=grid.device) + 0.5) * stride
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        left, top, right, bottom = (F.softplus(grid[:, 1:]) * stride).unbind(1)
        scores.append(grid[:, 0].flatten(1))
        boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], -1).flatten(1, 2))
    return torch.cat(scores, 1), torch.cat(boxes, 1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes `(..., 4)`."""
    corner, other = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (other - corner).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (first, second)]
    return shared / (areas[0] + areas[1] - shared)


def loss(outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
    """The cell whose own box overlaps most, of those that the true box covers, must say so, and have its box right."""
    scores, boxes = cells(outputs)
    total = scores.new_zeros(())
    for score, box, true in zip(scores, boxes, targets, strict=True):
        best = overlap(box.detach(), true).argmax()
        wanted = F.one_hot(best, len(score)).to(score)
        total = (
            total + F.binary_cross_entropy_with_logits(score, wanted, reduction="sum") + F.l1_loss(box[best], true) / 4
        )
    return total / len(targets)


def mean_overlap(outputs: list[Tensor], targets: list[Tensor]) -> float:
    """IoU of the box with the highest score and the true one."""
    scores, boxes = cells(outputs)
    chosen = boxes[torch.arange(len(boxes)), scores.argmax(1)]
    return overlap(chosen, torch.stack(targets)).mean().item()


def scenes(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Images `(1, 32, 32)` with one bright box on noise, and its left, top, right and bottom."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        corner, size = torch.randint(2, 16, (2,), generator=random), torch.randint(5, 14, (2,), generator=random)
        box = torch.cat([corner, corner + size])
        image = torch.randn(1, SIZE, SIZE, generator=random) / 4
        image[0, box[1] : box[3], box[0] : box[2]] += 2
        found.append((image, box.float()))
    return found


def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """A list holds one entry a sample, which may differ in shape."""
    return torch.stack([image for image, _ in samples]), [box for _, box in samples]


def task() -> mixbit.Task:
    return mixbit.Task(
        model=Detector(),
        train=DataLoader(scenes(256, seed=0), batch_size=32, shuffle=True, collate_fn=collate),
        test=DataLoader(scenes(64, seed=1), batch_size=32, collate_fn=collate),
        loss=loss,
        metric=mixbit.metric.average(mean_overlap, larger_is_better=True, name="box overlap", unit="%"),
    )
