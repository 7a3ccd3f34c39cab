"""Splits whose images have Gaussian noise on them: for networks that shall stand it, and be certified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixbit.data.base import Batch, DataSet, IndexedSplit, PixelChange
from mixbit.data.held_out import Part
from mixbit.data.order import BatchPlan, key
from mixbit.errors import DataError, shown

__all__ = ["NoisySplit", "clean_of"]

_NOISE = 11
_FIXED = -1
"""Stands for the epoch in passes without augmentation."""
LARGEST_COPIES = 256
OPTIONS = ("noise", "noise_seed", "copies")


class NoisySplit(IndexedSplit):
    """A split with `N(0, sigma^2)` added to every pixel of its images, which are not cut at the bounds afterwards.

    That is how the base network of randomized smoothing is trained (Cohen et al., ICML 2019). Noise comes after
    augmentation and normalisation, in float. That of a sample is a function of (`seed`, its index); in passes with
    augmentation, that is in training, of (`seed`, index, epoch). So calibration sees noisy images too, always the same.

    Args:
        base: the split.
        sigma: standard deviation on the scale of pixels in [0, 1].
        std: of the normalisation of the base, a number a channel or one for all.
        seed: another seed is other noise. The seed of `batches`, which orders the samples, changes nothing here.
        copies: of each image in passes with augmentation, each with noise of its own: all images of a batch once, then
            all again, labels likewise. A batch then has so many times its size.

    Raises:
        DataError: a sigma that is not above 0, no copy, or a base whose samples have no number.

    >>> from mixbit.data import TensorSplit
    >>> images, labels = torch.full((6, 1, 32, 32), 100, dtype=torch.uint8), torch.zeros(6)
    >>> split = NoisySplit(TensorSplit(images, labels, 6, [0.5], [0.5]), 0.25, (0.5,))
    >>> (x, _), = split.batches(6)
    >>> round(float((0.5 * x + 0.5 - 100 / 255).std()), 2)
    0.25
    """

    def __init__(self, base: Any, sigma: float, std: Sequence[float], *, seed: int = 0, copies: int = 1) -> None:
        if not isinstance(base, IndexedSplit):
            raise DataError(
                f"A {type(base).__name__} has no numbers of its samples, which noise hangs on. Give a split of "
                "mixbit.data that has them: a TensorSplit, or one of mixbit.data.load."
            )
        if not 0 < sigma < float("inf"):
            raise DataError(f"sigma is {sigma}; legal are numbers above 0, on the scale of pixels in [0, 1].")
        if copies < 1:
            raise DataError(f"copies is {copies}; legal is 1 or more.")
        super().__init__(base.labels, base.num_classes, "noisy images")
        self.copies = copies
        self.base, self.sigma, self.std, self.seed = base, float(sigma), tuple(std), seed

    def _produce(
        self, plans: Iterator[BatchPlan], *, augment: bool, change: PixelChange | None = None
    ) -> Iterator[Batch]:
        mine, others = tee(plans)
        made = self.base._produce(others, augment=augment, change=change)
        copies = self.copies if augment else 1
        for plan, (images, labels) in zip(mine, made, strict=True):
            noisy = [images + self._noise(plan, images, augment=augment, copy=copy) for copy in range(copies)]
            yield torch.cat(noisy), torch.cat([labels] * copies)

    def _located(self, samples: Tensor) -> Tensor:
        return self.base._located(samples)

    def _noise(self, plan: BatchPlan, like: Tensor, *, augment: bool, copy: int) -> Tensor:
        """Of the samples of this rank, in the network's unit; the first copy has that of a split with one."""
        epoch, shape = plan.epoch if augment else _FIXED, tuple(like.shape[1:])
        kind = (_NOISE,) if copy == 0 else (_NOISE, copy)
        drawn = np.empty((len(like), *shape), dtype=np.float32)
        for row, sample in enumerate(self._located(plan.samples[plan.part]).tolist()):
            stream = np.random.Generator(np.random.SFC64(key(*kind, self.seed, sample, epoch)))
            stream.standard_normal(out=drawn[row], dtype=np.float32)
        scale = self.sigma / torch.tensor(self.std).view(-1, *[1] * (len(shape) - 1))
        return (torch.from_numpy(drawn) * scale).to(like.device)


def clean_of(split: Any) -> tuple[Any, float | None]:
    """The samples of a split without the noise on them, in the same order, and the noise's sigma; None without noise.

    Args:
        split: a `NoisySplit`, a part of one, or any other, which is given back.

    >>> from mixbit.data import Part, TensorSplit
    >>> images = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    >>> split = TensorSplit(images, torch.arange(6), 6, [0.5], [0.5])
    >>> clean, sigma = clean_of(Part(NoisySplit(split, 0.25, (0.5,)), torch.tensor([4, 2])))
    >>> next(clean.batches(2))[1].tolist(), sigma, clean_of(split)[1]
    ([4, 2], 0.25, None)
    """
    if isinstance(split, Part):
        clean, sigma = clean_of(split.split)
        return (split, None) if sigma is None else (Part(clean, split.samples), sigma)
    base, sigma = getattr(split, "base", None), getattr(split, "sigma", None)
    return (base, sigma) if isinstance(base, IndexedSplit) and isinstance(sigma, float) else (split, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSpec:
    """What a spec says of noise."""

    sigma: float
    seed: int
    copies: int = 1

    def applied(self, clean: DataSet) -> DataSet:
        """The data set with noise on its training images; test images stay as they are."""
        return replace(clean, train=NoisySplit(clean.train, self.sigma, clean.std, seed=self.seed, copies=self.copies))


def split_options(options: Mapping[str, str], spec: str) -> tuple[NoiseSpec | None, dict[str, str]]:
    """Take the options of noise out of a spec's; the others are left.

    Raises:
        DataError: a value that cannot be read, or a seed without noise.

    >>> found, left = split_options({"noise": "0.25", "size": "160"}, "imagefolder:pets?noise=0.25&size=160")
    >>> found.sigma, left
    (0.25, {'size': '160'})
    """
    left = {name: value for name, value in options.items() if name not in OPTIONS}
    if len(left) == len(options):
        return None, left
    if "noise" not in options:
        given = [name for name in OPTIONS if name in options]
        go = "does" if len(given) == 1 else "do"
        raise DataError(f"{shown(spec)}: {' and '.join(given)} {go} not go without noise=SIGMA.")
    try:
        sigma = float(options["noise"])
        seed, copies = int(options.get("noise_seed", "0")), int(options.get("copies", "1"))
    except ValueError as cause:
        raise DataError(
            f"{shown(spec)}: noise is a number above 0, noise_seed and copies are whole numbers."
        ) from cause
    if not (0 < sigma < float("inf") and 0 <= seed < 2**63 and 1 <= copies <= LARGEST_COPIES):
        raise DataError(
            f"{shown(spec)}: noise={sigma:g}, noise_seed={seed}, copies={copies}. Legal: noise above 0, a seed of 0 or "
            f"more, 1 to {LARGEST_COPIES} copies."
        )
    return NoiseSpec(sigma=sigma, seed=seed, copies=copies), left
