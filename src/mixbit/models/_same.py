"""TensorFlow's SAME padding, as an explicit pad in front of an ordinary convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["same_pad"]


def same_pad(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int] | int) -> Tensor:
    """Pad (N, C, H, W) with zeros so that an unpadded convolution gives ceil(H / stride) rows; the odd one goes last.

    The total along an axis of size n is max((ceil(n / stride) - 1) * stride + kernel - n, 0), half of it (rounded
    down) in front (TensorFlow, tf.nn, "Notes on padding").

    >>> import torch
    >>> same_pad(torch.zeros(1, 1, 49, 10), (10, 4), 2).shape
    torch.Size([1, 1, 58, 12])
    """
    strides = (stride, stride) if isinstance(stride, int) else stride
    top, bottom = _sides(x.shape[2], kernel[0], strides[0])
    left, right = _sides(x.shape[3], kernel[1], strides[1])
    return F.pad(x, (left, right, top, bottom)) if top + bottom + left + right else x


def _sides(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
