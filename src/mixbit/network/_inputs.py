"""The user's example inputs: positional and keyword arguments, and which tensors carry the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from mixbit.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of `model(*args, **kwargs)`, and the number of samples in them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int

    def tensors(self) -> list[torch.Tensor]:
        """All tensors, in the order of the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, torch.Tensor)]

    def is_batched(self, leaf: object) -> bool:
        """Whether an argument carries the batch: a tensor whose first dimension is the batch size."""
        return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == self.batch

    def doubled(self) -> Inputs:
        """Inputs with every sample twice: torch.export takes a dimension of size 1 for a constant."""

        def twice(leaf: Any) -> Any:
            return torch.cat([leaf, leaf]) if self.is_batched(leaf) else leaf

        args, kwargs = tree_map(twice, (self.args, self.kwargs))
        return Inputs(args, kwargs, 2 * self.batch)

    def describe(self) -> str:
        """Shapes for messages, e.g. `(2, 3, 32, 32)`."""
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors())


def read_inputs(example: object) -> Inputs:
    """A tensor, a tuple of positional arguments or a mapping of keyword arguments; the batch comes first.

    Raises:
        CaptureError: another type, no tensor with a batch dimension, or an empty batch.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor):
        args = (example,)
    elif isinstance(example, tuple | list):
        args = tuple(example)
    elif isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        raise CaptureError(
            f"example_inputs is a {type(example).__name__}. Legal: a tensor, a tuple of positional arguments or a dict"
            " of keyword arguments, each tensor with the batch as its first dimension."
        )
    sizes = [t.shape[0] for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim() > 0]
    if not sizes or sizes[0] == 0:
        found = "hold no tensor with a batch dimension" if not sizes else "have an empty batch"
        raise CaptureError(f"the example inputs {found}. Give at least one sample, e.g. a tensor (1, 3, 224, 224).")
    return Inputs(args, kwargs, sizes[0])
