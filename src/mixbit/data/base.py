"""What every data set offers: two splits that give batches in an order one can resume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mixbit.data.order import BatchPlan, count_batches, plan_batches
from mixbit.data.space import InputSpace
from mixbit.errors import DataError

__all__ = ["Batch", "DataSet", "IndexedSplit", "PixelChange", "Split", "check_labels"]

Batch = tuple[Any, Any]
"""Inputs and targets. Inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments of the model;
targets are what the loss takes. Tensors have the samples first; a list holds one entry a sample."""


class PixelChange(Protocol):
    """What may happen to the bytes of a batch after augmentation and before normalisation."""

    def __call__(self, pixels: Tensor, plan: BatchPlan, places: slice, *, augment: bool) -> Tensor:
        """The changed copies of a batch of images.

        Args:
            pixels: (n, C, H, W), uint8, the samples `plan.samples[places]`. May be called from several threads.
            plan: the global batch.
            places: which part of it `pixels` is.
            augment: whether the pass asked for augmentation, that is, for training.

        Returns:
            The same shape, type and device.
        """
        ...


@runtime_checkable
class Split(Protocol):
    """The training or the test part of a data set."""

    @property
    def num_classes(self) -> int | None:
        """Labels are 0 .. num_classes - 1; None where targets are something else."""
        ...

    def __len__(self) -> int:
        """Number of samples in the split."""
        ...

    def num_batches(self, batch_size: int, *, drop_last: bool = False, fraction: float = 1.0) -> int:
        """Number of batches of a whole epoch."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int = 0,
        seed: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        fraction: float = 1.0,
    ) -> Iterator[Batch]:
        """One pass over the samples.

        Order and augmentation depend only on (seed, epoch, batch index): `start=k` continues an epoch exactly with its
        batch k, on any number of processes.

        Args:
            batch_size: samples of a global batch, all ranks together.
            epoch: number of the pass; another epoch has another order and other augmentation.
            seed: seed of order, augmentation and subset.
            shuffle: draw a new order every epoch; else the stored order.
            augment: apply the data set's random augmentation.
            start: first batch to give; those before are skipped without being made.
            rank: which part of every global batch to give.
            world: into how many contiguous parts it is cut. Parts differ by at most one sample and may be empty in a
                last batch of fewer than `world` samples; train with `drop_last` and a batch size that `world` divides.
            drop_last: leave out a last batch that is not full.
            fraction: use this share of the samples, chosen by `seed`, the same in every epoch.

        Yields:
            Inputs and targets, see `Batch`. Of the data sets here: images (n, C, H, W), float32, normalised and
            contiguous, and labels (n,), int64.

        Raises:
            DataError: an argument that cannot be, or a sample that cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Two splits and what a model must know of them."""

    name: str
    train: Split
    test: Split
    num_classes: int
    input_shape: tuple[int, ...]
    """Shape of one sample, (C, H, W)."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Batches hold (pixel / 255 - mean) / std, one number a channel."""
    classes: tuple[str, ...] = ()
    """Names of the classes in label order, where the data has them."""

    @property
    def space(self) -> InputSpace:
        """The input space of the images: pixels in [0, 1], and how they are normalised."""
        return InputSpace.of_images(mean=self.mean, std=self.std)

    def example_inputs(self, batch_size: int = 1) -> Tensor:
        """Zeros of the shape that a model gets, (batch_size, C, H, W), e.g. for capture."""
        return torch.zeros(batch_size, *self.input_shape)


class IndexedSplit(ABC):
    """A split whose samples can be had by number; subclasses say how a planned batch is made."""

    def __init__(self, labels: Tensor, num_classes: int, source: str) -> None:
        """Args: labels (N,); `source` names the data in error messages."""
        self.labels = check_labels(labels, num_classes, source)
        self._num_classes = num_classes

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return self._num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, batch_size: int, *, drop_last: bool = False, fraction: float = 1.0) -> int:
        """Number of batches of a whole epoch."""
        return count_batches(len(self), batch_size, drop_last=drop_last, fraction=fraction)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int = 0,
        seed: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        fraction: float = 1.0,
    ) -> Iterator[Batch]:
        """One pass over the samples; see `Split.batches`."""
        plans = plan_batches(
            len(self),
            batch_size,
            epoch=epoch,
            seed=seed,
            shuffle=shuffle,
            start=start,
            rank=rank,
            world=world,
            drop_last=drop_last,
            fraction=fraction,
        )
        return self._produce(plans, augment=augment)

    @abstractmethod
    def _produce(
        self, plans: Iterator[BatchPlan], *, augment: bool, change: PixelChange | None = None
    ) -> Iterator[Batch]:
        """Turn plans into batches, in order, with `change` done to their bytes before normalisation."""

    def _located(self, samples: Tensor) -> Tensor:
        """Indices (n,) of this split as those of the split that holds the pixels; `change` sees the latter."""
        return samples


def check_labels(labels: Tensor, num_classes: int, source: str) -> Tensor:
    """Labels (N,) as int64.

    Raises:
        DataError: none at all, or one outside 0 .. num_classes - 1; the message names the sample.

    >>> import torch
    >>> check_labels(torch.tensor([0, 2]), 2, "toy")
    Traceback (most recent call last):
    mixbit.errors.DataError: toy: sample 1 has label 2; labels must be 0 to 1.
    """
    if labels.numel() == 0:
        raise DataError(f"{source}: no samples.")
    checked = labels.to(torch.int64)
    wrong = ((checked < 0) | (checked >= num_classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        found = int(checked[first])
        raise DataError(f"{source}: sample {first} has label {found}; labels must be 0 to {num_classes - 1}.")
    return checked
