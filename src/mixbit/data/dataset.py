"""A user's own Dataset as a split, in an order of our own that depends on (seed, epoch, batch index) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, Protocol

from torch.utils.data import Subset, default_collate

from mixbit import _batch
from mixbit.data.base import Batch
from mixbit.data.loader import OwnRandom, check_targets
from mixbit.data.order import count_batches, key, plan_batches
from mixbit.data.reading import Read, float_inputs, read_batch
from mixbit.errors import DataError

__all__ = ["DatasetSplit", "Samples"]

_DATASET = 18


class Samples(Sized, Protocol):
    """A map-style dataset: so many samples, each to be had by its number."""

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetSplit:
    """Wrap a map-style Dataset (it has `__len__` and `__getitem__`) as a `Split`.

    Samples are drawn in an order of our own, so that `start` passes over batches without making them, and a killed
    training goes on exactly. Each sample is made under random states of torch, NumPy and `random` seeded from
    (seed, epoch, sample), and the caller's are put back: augmentation in the dataset is repeatable. It decides on that
    by itself; `augment` of `batches` changes nothing. Samples are read in this process: where that is slow, give a
    DataLoader with workers.

    Args:
        dataset: its samples are what `collate` puts together.
        num_classes: number of classes; taken from `dataset.classes` if not given. None where targets are no class
            numbers.
        read: `batch -> (inputs, targets)` of a collated batch; without it, samples are such pairs.
        collate: list of samples -> batch; PyTorch's default if not given.

    Raises:
        DataError: it has no length, or gives what is no such batch.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> split = DatasetSplit(TensorDataset(torch.arange(3.0).view(3, 1), torch.tensor([0.5, 1.5, 2.5])))
    >>> [targets.tolist() for _, targets in split.batches(2)]
    [[0.5, 1.5], [2.5]]
    """

    def __init__(
        self,
        dataset: Samples,
        *,
        num_classes: int | None = None,
        read: Read | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"A {type(dataset).__name__} has no samples by number and no length. Give a Dataset with __len__ and "
                "__getitem__, or wrap a stream in a DataLoader."
            )
        if not len(dataset):
            raise DataError(f"The {type(dataset).__name__} has no samples.")
        classes = getattr(dataset, "classes", None)
        self.dataset, self.read, self.collate = dataset, read, collate
        self._num_classes = len(classes) if num_classes is None and isinstance(classes, Sized) else num_classes

    @property
    def num_classes(self) -> int | None:
        """Labels are 0 .. num_classes - 1; None where targets are something else."""
        return self._num_classes

    def __len__(self) -> int:
        return len(self.dataset)

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
        for plan in plans:
            numbers = plan.samples[plan.part].tolist()
            # The random state goes with the sample, so that any number of processes makes the same.
            made = numbers or plan.samples[:1].tolist()
            inputs, targets = self._read([self._sample(one, key(_DATASET, seed, epoch, one)) for one in made])
            yield (inputs, targets) if numbers else _batch.cut(inputs, targets, 1, slice(0, 0))

    def subset(self, numbers: Sequence[int]) -> DatasetSplit:
        """Some of the samples, by their numbers, read in the same way."""
        part = Subset(self.dataset, numbers)  # type: ignore[arg-type,var-annotated]
        return DatasetSplit(part, num_classes=self.num_classes, read=self.read, collate=self.collate)

    def _sample(self, number: int, seed: int) -> Any:
        with OwnRandom(seed):
            return self.dataset[number]

    def _read(self, found: list[Any]) -> Batch:
        batch = (self.collate or default_collate)(found)
        inputs, targets = read_batch(batch, self.read, "The dataset", structure=self.collate is None)
        return float_inputs(inputs, "The dataset"), check_targets(targets, self.num_classes, "dataset")
