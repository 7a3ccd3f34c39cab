"""What attacks make small or large: functions of logits `(N, C)` and labels `(N,)`, one number an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy", "dlr", "is_wrong", "margin", "others", "ranked_others", "targeted_dlr"]

_TINY = 1e-12
"""Keeps a ratio finite where all logits are the same."""


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


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, `(max of the others - z_y) / (z_1 - z_3)` with `z_1 >= z_2 >= z_3` the largest ones.

    It does not change where all logits are scaled or moved, and takes 3 classes. Croce, Hein (ICML 2020), equation 6.

    >>> dlr(torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    top = logits.topk(3, dim=1).values
    return -margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, towards: Tensor) -> Tensor:
    """Towards a class `t`, of 4 or more: `(z_t - z_y) / (z_1 - (z_3 + z_4) / 2)`. Croce, Hein (ICML 2020), equation 7.

    >>> targeted_dlr(torch.tensor([[5.0, 1.0, 3.0, 2.0]]), torch.tensor([0]), torch.tensor([2]))
    tensor([-0.5714])
    """
    top = logits.topk(4, dim=1).values
    gap = logits.gather(1, towards[:, None]) - logits.gather(1, y[:, None])
    return gap.squeeze(1) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def ranked_others(logits: Tensor, y: Tensor) -> Tensor:
    """Classes that are not the label, the likeliest first, `(N, C - 1)`.

    >>> ranked_others(torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([0]))
    tensor([[2, 1]])
    """
    return others(logits, y).argsort(dim=1, descending=True, stable=True)[:, :-1]
