"""Sizes of one sample, from tensors that carry a batch as a symbol or as a plain number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import SymInt


class DataDependent(Exception):
    """A size or a branch depends on the values of the inputs, so that there is no one graph."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How to read shapes.

    With a symbolic batch every size is an expression of it, and one sample is what the expression gives for 1: that is
    exact also where the batch was folded into another dimension. With a static batch counts are divided by it.
    """

    symbols: frozenset[Any]
    """The sympy symbols of the batch; empty if it is static."""
    batch: int
    """Samples in a static batch; 1 if the batch is symbolic."""

    def one(self, size: int | SymInt) -> int:
        """A size at batch 1 (static: as it is)."""
        if isinstance(size, int):
            return size
        value = size.node.expr.subs(dict.fromkeys(self.symbols, 1))
        if not value.is_number:
            raise DataDependent(f"size {value} depends on the values of the inputs")
        return int(value)

    def full(self, value: Any) -> tuple[int, ...]:
        """Shape at batch 1, batch dimension included (static: as it is)."""
        return tuple(self.one(size) for size in value.shape)

    def sample(self, value: Any) -> tuple[int, ...]:
        """Shape of one sample of a tensor that carries the batch, without the batch dimension."""
        if self.symbols:
            return tuple(self.one(size) for size in value.shape if not self._is_batch(size))
        return drop_batch(self.full(value), self.batch)

    def batch_dim(self, value: Any) -> int:
        """The dimension that is a symbolic batch alone; -1 if there is none."""
        return next((at for at, size in enumerate(value.shape) if self._is_batch(size)), -1)

    def per_sample(self, count: int) -> int:
        """What one sample has of a count over the whole batch."""
        return count // self.batch if count % self.batch == 0 else count

    def numel(self, value: Any) -> int:
        """Elements of one sample."""
        return self.per_sample(math.prod(self.full(value)))

    def _is_batch(self, size: int | SymInt) -> bool:
        return not isinstance(size, int) and size.node.expr in self.symbols


def drop_batch(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """Take a static batch out of a shape: out of the first dimension if it is there, else of the first one that fits.

    >>> drop_batch((2, 8, 4), 2), drop_batch((5, 2, 4), 2), drop_batch((12, 7), 2)
    ((8, 4), (5, 4), (6, 7))
    """
    if batch in shape:
        at = shape.index(batch)
        return shape[:at] + shape[at + 1 :]
    if batch > 1:
        for at, size in enumerate(shape):
            if size % batch == 0:
                return (*shape[:at], size // batch, *shape[at + 1 :])
    return shape
