"""Random numbers of an attack: each image has its own, whichever batch it comes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

__all__ = ["Streams"]


class Streams:
    """One stream of random numbers an image: Philox with the seed and the attack as its key, the image as its counter.

    What an image draws does not depend on which others are attacked beside it, nor on when they are finished; so a run
    that goes on, and one with other batches, attacks alike.

    Args:
        seed: of the run.
        purpose: whose numbers they are, the name of an attack.
        images: number of each image in its data set; row i draws from the stream of `images[i]`.

    >>> streams = Streams(0, "pgd", [7, 9])
    >>> both = streams.uniform(torch.tensor([0, 1]), (2,), -1.0, 1.0)
    >>> torch.equal(both[1:], Streams(0, "pgd", [9]).uniform(torch.tensor([0]), (2,), -1.0, 1.0))
    True
    """

    def __init__(self, seed: int, purpose: str, images: Sequence[int]) -> None:
        key = np.array([seed, crc32(purpose.encode())], dtype=np.uint64)
        self._streams = [
            np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, image, 0], dtype=np.uint64)))
            for image in images
        ]

    def part(self, rows: Tensor) -> Streams:
        """The streams of some of the images, which go on where they are."""
        found = Streams(0, "", [])
        found._streams = [self._streams[row] for row in rows.tolist()]
        return found

    def normal(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers `(len(rows), *shape)`, float32."""
        return self._drawn(rows, lambda stream: stream.standard_normal(shape, dtype=np.float32))

    def uniform(self, rows: Tensor, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers `(len(rows), *shape)` from `low` to `high`, float32."""
        return low + (high - low) * self._drawn(rows, lambda stream: stream.random(shape, dtype=np.float32))

    def integers(self, rows: Tensor, high: int, shape: tuple[int, ...] = ()) -> Tensor:
        """Whole numbers `(len(rows), *shape)` from 0 to `high - 1`, int64."""
        return self._drawn(rows, lambda stream: stream.integers(high, size=shape))

    def signs(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """-1 and 1 with equal chances, `(len(rows), *shape)`, float32."""
        return self.integers(rows, 2, shape).to(torch.float32) * 2 - 1

    def choices(self, rows: Tensor, among: int, count: int) -> Tensor:
        """`count` different whole numbers of 0 to `among - 1` in random order, `(len(rows), count)`."""
        return self._drawn(rows, lambda stream: stream.permutation(among)[:count])

    def _drawn(self, rows: Tensor, draw: Callable[[np.random.Generator], Any]) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(draw(self._streams[row])) for row in rows.tolist()]))
