"""Which samples make up batch k of an epoch: a function of (seed, epoch, k) and of nothing else."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixbit.errors import DataError

__all__ = ["BatchPlan", "count_batches", "count_samples", "generator", "key", "part_of", "plan_batches", "samples_of"]

# Keep the draws for the subset, the order and the augmentation apart where their other numbers are equal.
_SUBSET, _ORDER = 1, 2


def key(*numbers: int) -> int:
    """A seed of 63 bits made of `numbers`; the same on every machine and in every version.

    >>> key(0, 1) == key(0, 1), key(0, 1) == key(1, 0)
    (True, False)
    """
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded from `numbers` by `key`."""
    return torch.Generator().manual_seed(key(*numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """One batch before its pixels are touched."""

    seed: int
    epoch: int
    index: int
    """Which batch of the epoch, from 0."""
    first: int
    """Place of its first sample in the order of the epoch, from 0."""
    samples: Tensor
    """Indices (n,) int64 of the global batch, that of all ranks together."""
    part: slice
    """The part of `samples` that this rank gets."""


def plan_batches(
    length: int,
    batch_size: int,
    *,
    epoch: int = 0,
    seed: int = 0,
    shuffle: bool = False,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    fraction: float = 1.0,
) -> Iterator[BatchPlan]:
    """Cut the samples of an epoch into batches; the arguments are those of `Split.batches`.

    Raises:
        DataError: a size or a rank that cannot be.

    >>> [p.samples.tolist() for p in plan_batches(5, 2)]
    [[0, 1], [2, 3], [4]]
    >>> [p.samples[p.part].tolist() for p in plan_batches(5, 4, rank=0, world=2)]
    [[0, 1], []]
    """
    _check(rank, world, start)
    total = count_batches(length, batch_size, drop_last=drop_last, fraction=fraction)
    samples = samples_of(length, fraction, seed)
    if shuffle:
        samples = samples[torch.randperm(len(samples), generator=generator(_ORDER, seed, epoch))]
    for index in range(start, total):
        chosen = samples[index * batch_size : (index + 1) * batch_size]
        part = part_of(len(chosen), rank, world)
        yield BatchPlan(seed=seed, epoch=epoch, index=index, first=index * batch_size, samples=chosen, part=part)


def count_batches(length: int, batch_size: int, *, drop_last: bool = False, fraction: float = 1.0) -> int:
    """Number of batches of one epoch.

    >>> count_batches(50_000, 128), count_batches(50_000, 128, drop_last=True), count_batches(50_000, 128, fraction=0.5)
    (391, 390, 196)
    """
    if batch_size < 1:
        raise DataError(f"The batch size is {batch_size}; it must be at least 1.")
    samples = count_samples(length, fraction)
    return samples // batch_size if drop_last else -(-samples // batch_size)


def samples_of(length: int, fraction: float, seed: int) -> Tensor:
    """Indices (n,) int64, ascending, of the fixed subset that `fraction` leaves; the same in every epoch."""
    share = count_samples(length, fraction)
    if share == length:
        return torch.arange(length)
    return torch.randperm(length, generator=generator(_SUBSET, seed))[:share].sort().values


def part_of(length: int, rank: int, world: int) -> slice:
    """The contiguous part of a batch that one rank gets; parts differ by at most one sample.

    >>> part_of(10, 0, 3), part_of(10, 2, 3)
    (slice(0, 3, None), slice(6, 10, None))
    """
    return slice(length * rank // world, length * (rank + 1) // world)


def count_samples(length: int, fraction: float) -> int:
    """Number of samples that `fraction` leaves of `length`, at least 1.

    >>> count_samples(1437, 0.5)
    718
    """
    if not 0 < fraction <= 1:
        raise DataError(f"fraction is {fraction}; it must be above 0 and at most 1.")
    return min(length, max(1, round(length * fraction)))


def _check(rank: int, world: int, start: int) -> None:
    if not 0 <= rank < world:
        raise DataError(f"rank is {rank} of world {world}; it must be at least 0 and below world.")
    if start < 0:
        raise DataError(f"start is {start}; it counts batches from 0.")
