"""A user's own DataLoader, or any re-iterable of (images, labels), as a split."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mixbit.data._same_part import has_numbers, in_fixed_order, same_part
from mixbit.data.base import Batch, check_labels
from mixbit.data.order import count_batches, count_samples, key, part_of
from mixbit.errors import DataError

__all__ = ["LoaderSplit"]

_LOADER = 5


class LoaderSplit:
    """Wrap a DataLoader (or anything that can be iterated over again and again) as a `Split`.

    The loader decides on order and augmentation; `shuffle` and `augment` of `batches` change nothing. Its stream is cut
    anew into batches of the size that is asked for, and `start` passes over what comes before. Every pass runs under
    random states of torch, NumPy and `random` seeded from (seed, epoch), and the loader's own generator and its
    sampler's `set_epoch`, where there are such, are set as well: a pass is repeatable and leaves the caller's random
    numbers alone. A sampler that already deals to several processes (DistributedSampler) is not cut by rank again.

    Workers of `persistent_workers=True` keep their own random states between passes, which no seed reaches.

    Args:
        loader: gives (images, labels), float (n, ...) normalised as the model wants them, and integer (n,).
        num_classes: number of classes; taken from `loader.dataset.classes` if not given.
        samples: number of samples of a pass, of all processes together; taken from a DataLoader, or by counting one
            pass, if not given.

    Raises:
        DataError: the number of classes is not known, the loader cannot be iterated over twice, or it gives something
            else than such pairs.

    >>> split = LoaderSplit([(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))], num_classes=2)
    >>> [labels.tolist() for _, labels in split.batches(2)]
    [[0, 1], [0]]
    """

    def __init__(self, loader: Iterable[Any], *, num_classes: int | None = None, samples: int | None = None) -> None:
        if isinstance(loader, Iterator):
            raise DataError("The loader is an iterator and can be read once only; give a DataLoader or a list.")
        classes = getattr(getattr(loader, "dataset", None), "classes", None)
        if num_classes is None and classes is None:
            raise DataError("The number of classes is not known; say LoaderSplit(loader, num_classes=...).")
        self.loader = loader
        self._num_classes = len(classes or ()) if num_classes is None else num_classes
        self._samples = _samples_of(loader) if samples is None else samples

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return self._num_classes

    def __len__(self) -> int:
        if self._samples is None:
            self._samples = sum(len(labels) for _, labels in self._pass(0, 0))
        return self._samples

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
        """One pass; see `Split.batches`.

        A `fraction` below 1 takes, of a DataLoader, the same samples in every epoch, in the order of its sampler. Of
        a list, a loader with a batch sampler, or a stream, whose samples have no numbers to choose by, it takes those
        that come first; a warning says so where their order may change.
        """
        sharded = world > 1 and _replicas(self.loader) > 1
        if sharded and batch_size % world:
            raise DataError(
                f"The loader's sampler deals to {world} processes, which must divide the batch {batch_size}."
            )
        shares = world if sharded else 1
        total = self.num_batches(batch_size, drop_last=drop_last, fraction=fraction)
        limit = -(-count_samples(len(self), fraction) // shares)
        size = batch_size // shares
        given = 0
        loader = self.loader if fraction == 1 else self._part(fraction, seed)
        for index, (images, labels) in enumerate(_recut(self._pass(seed, epoch, loader), size)):
            if index >= total:
                return
            given += 1
            if index >= start:
                kept = min(len(labels), limit - index * size)
                part = slice(kept) if sharded else part_of(kept, rank, world)
                yield images[part], labels[part]
        if given < total:
            raise DataError(
                f"The loader's pass ended after {given} batches of {size}, its {len(self)} samples promise {total}; "
                "say LoaderSplit(loader, samples=...), or make it give the same number every time."
            )

    def _part(self, fraction: float, seed: int) -> Iterable[Any]:
        """The loader of the part that `fraction` leaves, or the loader itself where its first samples are taken."""
        if len(self) and isinstance(self.loader, DataLoader) and has_numbers(self.loader):
            number = key(_LOADER, seed, 0)
            _announce(self.loader, 0, number)
            with _OwnRandom(number):
                numbers = list(self.loader.sampler)
            return same_part(self.loader, numbers, count_samples(len(self), fraction), seed)
        if not in_fixed_order(self.loader):
            warnings.warn(
                f"fraction={fraction} of a stream takes the samples that come first: the same part in every epoch only "
                "if the stream's order is the same. A DataLoader of a dataset with a length has no such limit.",
                stacklevel=3,
            )
        return self.loader

    def _pass(self, seed: int, epoch: int, loader: Iterable[Any] | None = None) -> Iterator[Batch]:
        """The loader's own batches of one epoch, checked."""
        loader = self.loader if loader is None else loader
        number = key(_LOADER, seed, epoch)
        _announce(loader, epoch, number)
        states = _OwnRandom(number)
        with states:
            stream = iter(loader)
        while True:
            # Only while the loader works: between its batches the random numbers are the caller's.
            with states:
                item = next(stream, None)
            if item is None:
                return
            yield self._checked(item)

    def _checked(self, item: object) -> Batch:
        if not (isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(one, Tensor) for one in item)):
            raise DataError(
                f"The loader gives a {type(item).__name__}; it must give pairs of tensors (images, labels)."
            )
        images, labels = item
        if not images.is_floating_point():
            raise DataError(f"The loader gives images of {images.dtype}; they must be float, normalised for the model.")
        return images.to(torch.float32), check_labels(labels, self.num_classes, "loader")


class _OwnRandom:
    """Random states of torch, NumPy and `random` that are in force inside `with`, and go on from one to the next."""

    def __init__(self, seed: int) -> None:
        outer = _get_states()
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        self.states = _get_states()
        _set_states(outer)

    def __enter__(self) -> None:
        self.outer = _get_states()
        _set_states(self.states)

    def __exit__(self, *_: object) -> None:
        self.states = _get_states()
        _set_states(self.outer)


def _get_states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_states(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _recut(stream: Iterator[Batch], size: int) -> Iterator[Batch]:
    """The same samples in batches of `size`; the last one may be smaller."""
    images, labels = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for x, y in stream:
        images, labels = (torch.cat([images, x]), torch.cat([labels, y])) if len(labels) else (x, y)
        while len(labels) >= size:
            yield images[:size], labels[:size]
            images, labels = images[size:], labels[size:]
    if len(labels):
        yield images, labels


def _samples_of(loader: Iterable[Any]) -> int | None:
    """Samples of one pass, where a DataLoader tells; None where they must be counted."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    if _replicas(loader) > 1:
        return len(loader.dataset)  # type: ignore[arg-type]
    samples = len(loader.sampler)  # type: ignore[arg-type]
    return samples // loader.batch_size * loader.batch_size if loader.drop_last else samples


def _replicas(loader: object) -> int:
    return int(getattr(getattr(loader, "sampler", None), "num_replicas", 1))


def _announce(loader: object, epoch: int, seed: int) -> None:
    """Tell the epoch, and the seed, to whatever of the loader wants to know."""
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    for part in (loader, sampler, batch_sampler):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(seed)  # type: ignore[union-attr]
