"""A part of a DataLoader's samples that is the same in every epoch, whatever order the loader draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from mixbit.data.order import samples_of
from mixbit.errors import DataError

__all__ = ["has_numbers", "in_fixed_order", "same_part"]


def has_numbers(loader: object) -> bool:
    """Whether the loader's samples have numbers by which a part can be chosen: a DataLoader with a sampler of them."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_size is not None
    )


def in_fixed_order(loader: object) -> bool:
    """Whether the first samples of a loader without numbers are known to be the same in every pass."""
    return isinstance(loader, Sequence) or isinstance(getattr(loader, "batch_sampler", None), Sequence)


def same_part(loader: DataLoader[Any], numbers: Sequence[int], count: int, seed: int) -> DataLoader[Any]:
    """A loader like `loader` that gives only `count` samples, chosen by `seed` as every other split chooses them.

    Args:
        loader: see `has_numbers`.
        numbers: the sample numbers of one pass of its sampler, in any order.
        count: how many of them a `fraction` below 1 leaves.
        seed: of the choice; the order and the augmentation stay the loader's own.

    Raises:
        DataError: the sampler draws a sample several times, or deals to several processes.
    """
    if int(getattr(loader.sampler, "num_replicas", 1)) > 1:
        raise DataError(
            "fraction is below 1, and the loader's sampler deals other samples to each process in every epoch. "
            "Give the loader without a DistributedSampler (batches are dealt to the processes here), or fraction=1."
        )
    if len(set(numbers)) < len(numbers):
        raise DataError(
            "fraction is below 1, and the loader's sampler draws samples several times, others in every epoch. "
            "Give a sampler without replacement, or fraction=1."
        )
    ordered = sorted(numbers)
    chosen = frozenset(ordered[place] for place in samples_of(len(ordered), count / len(ordered), seed).tolist())
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=_Chosen(loader.sampler, chosen),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


class _Chosen(Sampler[int]):
    """The chosen numbers, in the order of another sampler."""

    def __init__(self, inner: Any, chosen: frozenset[int]) -> None:
        self.inner, self.chosen = inner, chosen

    @property
    def generator(self) -> torch.Generator | None:
        """The inner sampler's, which is seeded for every pass."""
        found = getattr(self.inner, "generator", None)
        return found if isinstance(found, torch.Generator) else None

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on."""
        if hasattr(self.inner, "set_epoch"):
            self.inner.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[int]:
        left = set(self.chosen)
        for number in self.inner:
            if number in left:
                left.remove(number)
                yield number
        if left:
            raise DataError(
                f"The loader's sampler left out {len(left)} of the {len(self.chosen)} samples that fraction chose: it "
                "draws other samples in every epoch. Give a sampler of always the same samples, or fraction=1."
            )
