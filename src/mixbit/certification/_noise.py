"""Gaussian noise of a certificate: the same for an image on every machine, in every process, in batches of any size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Purpose", "copies", "noise"]

Purpose = Literal["select", "estimate", "fresh"]
"""What the samples are for; those of one purpose say nothing of those of another."""
_KEYS: dict[Purpose, int] = {"select": 1, "estimate": 2, "fresh": 3}

BLOCK = 64
"""Samples of one generator: made whole, so that a certificate does not hang on how many go through together."""


def noise(seed: int, image: int, purpose: Purpose, block: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers `(BLOCK, *shape)` float32, by a generator that is seeded with all that is given.

    It is SFC64, the fastest of numpy's: of a network of integers noise is a tenth of the time.

    Args:
        seed: of the run.
        image: its number in the data set.
        purpose: see `Purpose`.
        block: which `BLOCK` samples of that purpose.
        shape: of one input.

    >>> torch.equal(noise(0, 7, "select", 2, (3,)), noise(0, 7, "select", 2, (3,)))
    True
    >>> torch.equal(noise(0, 7, "select", 2, (3,)), noise(0, 7, "estimate", 2, (3,)))
    False
    """
    stream = np.random.Generator(np.random.SFC64([seed, _KEYS[purpose], image, block]))
    return torch.from_numpy(stream.standard_normal((BLOCK, *shape), dtype=np.float32))


def copies(x: Tensor, sigma: float, seed: int, image: int, purpose: Purpose, first: int, count: int) -> Tensor:
    """Noisy copies `first` to `first + count - 1` of an image, `(count, ...)`.

    Args:
        x: the image, without a batch.
        sigma: standard deviation of the noise.
        seed: see `noise`, as the next two.
        image: see `noise`.
        purpose: see `noise`.
        first: number of the first copy.
        count: how many, at least one.
    """
    blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
    drawn = torch.cat([noise(seed, image, purpose, block, tuple(x.shape)) for block in blocks])
    start = first - blocks[0] * BLOCK
    return drawn[start : start + count].mul_(sigma).add_(x.to(device="cpu", dtype=torch.float32)).to(x.device)
