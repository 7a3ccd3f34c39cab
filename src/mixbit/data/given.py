"""Whatever the user has for data, as a split."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mixbit import _batch
from mixbit.data.base import Batch, Split
from mixbit.data.dataset import DatasetSplit
from mixbit.data.loader import LoaderSplit
from mixbit.data.reading import Read, read_batch
from mixbit.errors import DataError

__all__ = ["ReadSplit", "as_split", "inputs_of"]

_STREAM_BATCH = 64


class ReadSplit:
    """A split whose batches are read by a rule of the user's; all else is the wrapped split's.

    >>> inner = LoaderSplit([(torch.zeros(2, 3), torch.tensor([0, 1]))])
    >>> inputs, targets = next(ReadSplit(inner, lambda batch: (batch[0], batch[0])).batches(2))
    >>> targets.shape
    torch.Size([2, 3])
    """

    def __init__(self, split: Split, read: Read) -> None:
        self.split, self.read = split, read

    @property
    def num_classes(self) -> int | None:
        """Number of classes, see `Split.num_classes`."""
        return self.split.num_classes

    def __len__(self) -> int:
        return len(self.split)

    def num_batches(self, batch_size: int, *, drop_last: bool = False, fraction: float = 1.0) -> int:
        """Number of batches of a whole epoch."""
        return self.split.num_batches(batch_size, drop_last=drop_last, fraction=fraction)

    def batches(self, batch_size: int, **how: Any) -> Iterator[Batch]:
        """One pass over the samples; see `Split.batches`."""
        return (read_batch(batch, self.read, "The split") for batch in self.split.batches(batch_size, **how))


def as_split(given: object, read: Read | None = None) -> Split:
    """A `Split` of what the user has.

    Args:
        given: a split; a DataLoader or another re-iterable of batches (see `LoaderSplit`); or a Dataset (see
            `DatasetSplit`).
        read: how a batch is read, see `mixbit.data.read_keys`; None for pairs (inputs, targets).

    Raises:
        DataError: anything else.

    >>> type(as_split([(torch.zeros(2, 3), torch.zeros(2))])).__name__
    'LoaderSplit'
    """
    if isinstance(given, Split) or hasattr(given, "batches"):
        split = cast(Split, given)
        return split if read is None or getattr(split, "read", None) is read else ReadSplit(split, read)
    if isinstance(given, IterableDataset):
        return LoaderSplit(DataLoader(given, batch_size=_STREAM_BATCH), read=read)
    indexed = hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, list | tuple)
    if indexed and not isinstance(given, DataLoader | dict | str):
        return DatasetSplit(given, read=read)  # type: ignore[arg-type]
    if isinstance(given, Iterable) and not isinstance(given, dict | str):
        return LoaderSplit(given, read=read)
    raise DataError(
        f"A {type(given).__name__} cannot be read as data. Legal: a Dataset, a DataLoader, a list of batches, or a "
        "split of mixbit.data."
    )


def inputs_of(given: object, model: nn.Module, read: Read | None = None) -> Iterator[Any]:
    """The inputs of batches that may have targets with them, for calibration.

    Args:
        given: batches of inputs; or of pairs (inputs, targets), as a DataLoader and everything gives that has a `read`.
        model: what they are for: a tuple of more entries than it takes arguments is such a pair.
        read: see `mixbit.data.read_keys`.

    Raises:
        DataError: an empty batch, or one that the model cannot take.

    >>> net = nn.Linear(3, 1)
    >>> [x.shape for x in inputs_of([torch.zeros(2, 3), (torch.zeros(4, 3), torch.zeros(4))], net)]
    [torch.Size([2, 3]), torch.Size([4, 3])]
    """
    if not isinstance(given, Iterable) or isinstance(given, torch.Tensor | dict):
        raise DataError(f"batches is a {type(given).__name__}. Legal: a list of batches of inputs, or a DataLoader.")
    pairs = read is not None or isinstance(given, DataLoader)
    for batch in given:
        # A loader of inputs alone gives tensors; its lists are pairs, since that is what it makes of them.
        alone = not pairs or (read is None and isinstance(batch, torch.Tensor | dict))
        inputs = _alone(batch, model) if alone else read_batch(batch, read, "The loader", structure=True)[0]
        if not _batch.tensors(inputs) or not _batch.samples(inputs):
            raise DataError(f"A batch {_batch.describe(inputs)} has no samples. Leave empty batches out.")
        yield inputs


def _alone(batch: Any, model: nn.Module) -> Any:
    """The inputs of a batch; a list or tuple that the model cannot take, but whose first entry it can, is a pair."""
    if not isinstance(batch, tuple | list):
        return batch
    signature = inspect.signature(model.forward)
    first = batch[0] if batch else None
    several = isinstance(first, tuple) and _binds(signature, *first)
    if _binds(signature, *batch) and not several:
        return tuple(batch)
    if len(batch) == 2 and (several or _binds(signature, first)):
        return first
    raise DataError(
        f"A batch is {_batch.describe(tuple(batch))}, and the model takes {signature}. Give the inputs alone: a "
        "tensor, a tuple of positional arguments or a dict of keyword arguments."
    )


def _binds(signature: inspect.Signature, *args: Any) -> bool:
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True
