"""How a batch is read: what of it goes into the model, and what the loss compares with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

from mixbit import _batch
from mixbit.data.base import Batch
from mixbit.errors import DataError

__all__ = ["Read", "read_batch", "read_keys"]

Read: TypeAlias = Callable[[Any], Any]
"""`batch -> (inputs, targets)`, see `mixbit.data.Batch`."""

_REMEDY = (
    "Say how to read it, e.g. read=lambda batch: (batch[0], batch[1]), where the inputs are a tensor, a tuple of "
    "positional arguments or a dict of keyword arguments; of a dict, read=mixbit.data.read_keys('image', 'label')."
)


def read_keys(inputs: str | Sequence[str], targets: str | Sequence[str]) -> Read:
    """A rule for batches that are dicts.

    Args:
        inputs: one key, whose value is the model's one argument; or several, which are passed as keyword arguments of
            these names.
        targets: one key, or several, of which the loss gets a dict.

    >>> read = read_keys(["input_ids", "attention_mask"], "labels")
    >>> inputs, targets = read({"input_ids": 1, "attention_mask": 2, "labels": 3, "idx": 4})
    >>> inputs, targets
    ({'input_ids': 1, 'attention_mask': 2}, 3)
    """

    def chosen(batch: Mapping[str, Any], keys: str | Sequence[str]) -> Any:
        wanted = [keys] if isinstance(keys, str) else list(keys)
        missing = [key for key in wanted if key not in batch]
        if missing:
            raise DataError(f"A batch has no {missing[0]!r}. Its keys: {', '.join(map(str, batch))}.")
        return batch[keys] if isinstance(keys, str) else {key: batch[key] for key in wanted}

    def read(batch: Any) -> Any:
        if not isinstance(batch, Mapping):
            raise DataError(f"A batch is {_batch.describe(batch)}, and read_keys reads dicts. {_REMEDY}")
        return chosen(batch, inputs), chosen(batch, targets)

    return read


def read_batch(batch: Any, read: Read | None, source: str, *, structure: bool = False) -> Batch:
    """Inputs and targets of a batch, in the forms that the rest of mixbit knows.

    Args:
        batch: what a loader gives.
        read: the user's rule; None reads pairs.
        source: who gives it, for messages.
        structure: lists are structure, as those of PyTorch's own collating are, and become tuples.

    Raises:
        DataError: no pair, or inputs without a tensor; the message says what came and how to give the rule.

    >>> read_batch([torch.zeros(2, 3), torch.zeros(2)], None, "the loader")[0].shape
    torch.Size([2, 3])
    """
    found = _pair(batch, source) if read is None else read(batch)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"read= gave {_batch.describe(found)} of a batch; it must give a pair (inputs, targets). {_REMEDY}"
        )
    inputs, targets = (_tuples(one) for one in found) if structure else found
    inputs = tuple(inputs) if isinstance(inputs, list) else inputs
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)
    if not _batch.tensors(inputs):
        raise DataError(f"{source} gives inputs {_batch.describe(inputs)} that hold no tensor. {_REMEDY}")
    return inputs, targets


def _pair(batch: Any, source: str) -> Any:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"{source} gives a {type(batch).__name__}: {_batch.describe(batch)}; read are pairs (inputs, targets). "
            + _REMEDY
        )
    return batch


def _tuples(tree: Any) -> Any:
    if isinstance(tree, list):
        return tuple(_tuples(one) for one in tree)
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(_tuples(one) for one in tree)
    if isinstance(tree, Mapping):
        return {key: _tuples(value) for key, value in tree.items()}
    return tree


def float_inputs(inputs: Any, source: str) -> Any:
    """Floating-point inputs as float32, which networks are in; whole numbers (token ids) stay as they are.

    Raises:
        DataError: bytes, which are images that nobody has normalised yet.
    """

    def single(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dtype == torch.uint8:
            raise DataError(f"{source} gives images of {leaf.dtype}; they must be float, normalised for the model.")
        return leaf.to(torch.float32) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return _pytree.tree_map(single, inputs)
