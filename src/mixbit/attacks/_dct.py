"""Smooth noise: combinations of the lowest frequencies of the discrete cosine transform."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from mixbit.attacks._streams import Streams
from mixbit.errors import MixbitError

__all__ = ["check_sub_dim", "cosines", "noise"]


@cache
def cosines(side: int, count: int) -> Tensor:
    """The first `count` cosines of the DCT-II of a side, orthonormal columns `(side, count)`.

    `sqrt(2 / side) cos(pi (2 i + 1) k / (2 side))`, and `sqrt(1 / side)` for `k = 0`.

    >>> basis = cosines(4, 2)
    >>> torch.allclose(basis.T @ basis, torch.eye(2), atol=1e-6), basis[:, 0].tolist()
    (True, [0.5, 0.5, 0.5, 0.5])
    """
    at, k = torch.arange(side, dtype=torch.float64), torch.arange(count, dtype=torch.float64)
    basis = math.sqrt(2 / side) * torch.cos(math.pi / side * (at[:, None] + 0.5) * k)
    basis[:, 0] = math.sqrt(1 / side)
    return basis.to(torch.float32)


def noise(streams: Streams, rows: Tensor, shape: tuple[int, ...], sub_dim: int | None, count: int = 1) -> Tensor:
    """`count` normal perturbations for each of the rows `(len(rows), count, *shape)`, of variance 1 in a pixel.

    In a subspace that is the mean over the pixels: coefficients have the variance `H W / sub_dim^2`.

    Args:
        streams: of the images.
        rows: images that draw.
        shape: of an image, `(C, H, W)` where there is a subspace.
        sub_dim: frequencies of each side; None for noise that is independent in every pixel.
        count: of perturbations.
    """
    if sub_dim is None:
        return streams.normal(rows, (count, *shape))
    channels, height, width = shape
    drawn = streams.normal(rows, (count, channels, sub_dim, sub_dim))
    drawn *= math.sqrt(height * width) / sub_dim
    return cosines(height, sub_dim) @ drawn @ cosines(width, sub_dim).T


def check_sub_dim(sub_dim: int | None, x: Tensor, who: str) -> None:
    """Raise unless images `(N, C, H, W)` have so many frequencies a side.

    Raises:
        MixbitError: they are no images, or smaller.
    """
    if sub_dim is None:
        return
    if x.dim() != 4:
        raise MixbitError(
            f"{who}: sub_dim={sub_dim} needs images (N, C, H, W), and got inputs of shape {tuple(x.shape)}. "
            "Legal: sub_dim=null, noise that is independent in every number."
        )
    side = min(x.shape[2:])
    if sub_dim > side:
        raise MixbitError(
            f"{who}: sub_dim={sub_dim} is illegal for images of {x.shape[2]} by {x.shape[3]} pixels: a side of {side} "
            f"has {side} frequencies, and more would be no subspace. Legal: from 1 to {side}."
        )
