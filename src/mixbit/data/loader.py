"""A user's own DataLoader, or anything else that gives batches again and again, as a split."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from mixbit import _batch
from mixbit.data._same_part import has_numbers, in_fixed_order, same_part
from mixbit.data.base import Batch, check_labels
from mixbit.data.order import count_batches, count_samples, key, part_of
from mixbit.data.reading import Read, float_inputs, read_batch
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

    Inputs come in float32 where they are floating-point, normalised as the model wants them. Targets are never cast,
    but for class numbers `(n,)` of any integer type, where the number of classes is known: they are checked and become
    int64.

    Args:
        loader: gives batches that `read` can read.
        num_classes: number of classes; taken from `loader.dataset.classes` if not given. None where targets are no
            class numbers.
        samples: number of samples of a pass, of all processes together; taken from a DataLoader, or by counting one
            pass, if not given.
        read: `batch -> (inputs, targets)`; without it, batches are such pairs. See `mixbit.data.read_keys` for dicts.

    Raises:
        DataError: the loader cannot be iterated over twice, or gives what is no such batch.

    >>> split = LoaderSplit([(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))], num_classes=2)
    >>> [labels.tolist() for _, labels in split.batches(2)]
    [[0, 1], [0]]
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        num_classes: int | None = None,
        samples: int | None = None,
        read: Read | None = None,
    ) -> None:
        if isinstance(loader, Iterator):
            raise DataError("The loader is an iterator and can be read once only; give a DataLoader or a list.")
        classes = getattr(getattr(loader, "dataset", None), "classes", None)
        self.loader, self.read = loader, read
        self._num_classes = len(classes) if num_classes is None and isinstance(classes, Sized) else num_classes
        # Its lists are structure; those of anybody else's collating hold one entry a sample.
        self._structure = getattr(loader, "collate_fn", None) is default_collate
        self._samples = _samples_of(loader) if samples is None else samples

    @property
    def num_classes(self) -> int | None:
        """Labels are 0 .. num_classes - 1; None where targets are something else."""
        return self._num_classes

    def __len__(self) -> int:
        if self._samples is None:
            self._samples = sum(_batch.samples(inputs) for inputs, _ in self._pass(0, 0))
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
        for index, (inputs, targets) in enumerate(_recut(self._pass(seed, epoch, loader), size)):
            if index >= total:
                return
            given += 1
            if index >= start:
                count = _batch.samples(inputs)
                kept = min(count, limit - index * size)
                yield _batch.cut(inputs, targets, count, slice(0, kept) if sharded else part_of(kept, rank, world))
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
            with OwnRandom(number):
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
        states = OwnRandom(number)
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
        inputs, targets = read_batch(item, self.read, "The loader", structure=self._structure)
        return float_inputs(inputs, "The loader"), check_targets(targets, self.num_classes, "loader")


def check_targets(targets: Any, num_classes: int | None, source: str) -> Any:
    """Class numbers `(n,)` checked and as int64, where there is a number of classes; all other targets as they are."""
    numbers = isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()
    if num_classes is None or not numbers or targets.dtype == torch.bool:
        return targets
    return check_labels(targets, num_classes, source)


class OwnRandom:
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
    """The same samples in batches of `size`; the last one may be smaller. Batches of that size pass untouched."""
    left: list[tuple[Any, Any, int]] = []
    for inputs, targets in stream:
        left.append((inputs, targets, _batch.samples(inputs)))
        if sum(count for _, _, count in left) < size:
            continue
        x, y, count = _together(left)
        whole = count // size * size
        for start in range(0, whole, size):
            yield _batch.cut(x, y, count, slice(start, start + size))
        left = [(*_batch.cut(x, y, count, slice(whole, count)), count - whole)] if whole < count else []
    if left:
        x, y, _ = _together(left)
        yield x, y


def _together(parts: list[tuple[Any, Any, int]]) -> tuple[Any, Any, int]:
    xs, ys, counts = zip(*parts, strict=True)
    return _batch.join(xs), _batch.join(ys), sum(counts)


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
