"""Parts of a split: training images held out to judge by, so that the test images are never looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mixbit.data.base import Batch, IndexedSplit, PixelChange, Split
from mixbit.data.dataset import DatasetSplit
from mixbit.data.given import ReadSplit
from mixbit.data.order import BatchPlan, generator
from mixbit.errors import DataError

__all__ = ["Part", "hold_out"]

_HOLD_OUT = 17


class Part(IndexedSplit):
    """Some samples of a split, as a split.

    Args:
        split: the whole.
        samples: indices (n,) into it; their order is the part's.
        source: name in error messages.
    """

    def __init__(self, split: IndexedSplit, samples: Tensor, source: str = "part") -> None:
        super().__init__(split.labels[samples], split.num_classes, source)
        self.split, self.samples = split, samples

    def _produce(
        self, plans: Iterator[BatchPlan], *, augment: bool, change: PixelChange | None = None
    ) -> Iterator[Batch]:
        moved = (replace(plan, samples=self.samples[plan.samples]) for plan in plans)
        return self.split._produce(moved, augment=augment, change=change)

    def _located(self, samples: Tensor) -> Tensor:
        return self.split._located(self.samples[samples])


def hold_out(split: Split, share: float, *, seed: int = 0) -> tuple[Split, Split]:
    """Cut a split in two at random: what is left to train on, and what is held out.

    Args:
        split: usually the training split.
        share: part of the samples that is held out, above 0 and below 1; at least one sample.
        seed: of the draw.

    Raises:
        DataError: a share that cannot be, or a split whose samples cannot be had by number.

    >>> from mixbit.data import TensorSplit
    >>> split = TensorSplit(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10), 10, [0.5], [0.5])
    >>> [len(part) for part in hold_out(split, 0.2)]
    [8, 2]
    """
    if isinstance(split, ReadSplit):
        first, second = hold_out(split.split, share, seed=seed)
        return ReadSplit(first, split.read), ReadSplit(second, split.read)
    if not isinstance(split, IndexedSplit | DatasetSplit):
        raise DataError(
            f"Cannot hold samples out of a {type(split).__name__}; give a Dataset, or derive it from "
            "mixbit.data.IndexedSplit."
        )
    count = max(1, round(share * len(split)))
    if not 0 < share < 1 or count >= len(split):
        raise DataError(f"share={share} of {len(split)} samples cannot be held out. Legal: above 0 and below 1.")
    order = torch.randperm(len(split), generator=generator(_HOLD_OUT, seed))
    kept, out = order[count:].sort().values, order[:count].sort().values
    if isinstance(split, DatasetSplit):
        return split.subset(kept.tolist()), split.subset(out.tolist())
    return Part(split, kept, "training part"), Part(split, out, "held-out part")
