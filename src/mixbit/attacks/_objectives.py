"""What attacks make small or large: functions of logits `(N, C)` and labels `(N,)`, one number an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy", "is_wrong", "margin", "others"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """`z_y - max of the other logits`: below 0 where another class wins.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([1.])
    """
    return logits.gather(1, y[:, None]).squeeze(1) - others(logits, y).amax(1)


def others(logits: Tensor, y: Tensor) -> Tensor:
    """Logits with those of the labels at minus infinity."""
    return logits.scatter(1, y[:, None], -torch.inf)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def is_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the class of the largest logit, the first one among equals, is not the label."""
    return logits.argmax(1) != y
