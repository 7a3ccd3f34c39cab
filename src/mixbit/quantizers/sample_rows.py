"""Samples of one batch at several bit-widths: which belong together, and how to take them apart and put them back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixbit.errors import MixbitError

__all__ = ["SampleRows"]


@dataclass(frozen=True, slots=True)
class SampleRows:
    """A row (a bit-width, a norm) for each sample of a batch.

    Attributes:
        rows: `(N,)`, from 0.
        found: the rows that occur, ascending.
        counts: samples of each of these.

    >>> rows = SampleRows.of(torch.tensor([1, 0, 1]))
    >>> rows.each(torch.tensor([[1.0], [2.0], [3.0]]), lambda part, row: part * 10 if row else part).flatten()
    tensor([10.,  2., 30.])
    """

    rows: Tensor
    found: tuple[int, ...]
    counts: tuple[int, ...]
    apart: tuple[Tensor, ...] | None
    """The samples of each row that occurs; None where those of one row stand beside each other."""

    @classmethod
    def of(cls, rows: Tensor) -> SampleRows:
        """Look once, for all layers that share the selection.

        Raises:
            MixbitError: not one whole number from 0 a sample.
        """
        if rows.dim() != 1 or not len(rows) or rows.is_floating_point() or int(rows.min()) < 0:
            raise MixbitError(
                f"rows of shape {tuple(rows.shape)} and dtype {rows.dtype}. Legal: (N,) whole numbers from 0, N > 0."
            )
        rows = rows.long()
        order = torch.argsort(rows, stable=True)
        found, counts = torch.unique_consecutive(rows[order], return_counts=True)
        beside = bool((rows[1:] >= rows[:-1]).all())
        return cls(
            rows=rows,
            found=tuple(found.tolist()),
            counts=tuple(counts.tolist()),
            apart=None if beside else torch.split(order, counts.tolist()),
        )

    def each(self, x: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
        """`run(part, row)` on the samples of each row that occurs, put back in the order of the batch.

        Args:
            x: `(N, ...)`.
            run: from the samples `(n, ...)` of one row to as many results.

        Raises:
            MixbitError: a batch of another length.
        """
        self.check(x)
        if len(self.found) == 1:
            return run(x, self.found[0])
        if self.apart is None:
            parts = torch.split(x, list(self.counts))
            return torch.cat([run(part, row) for part, row in zip(parts, self.found, strict=True)])
        apart = tuple(one.to(x.device) for one in self.apart)
        if torch.compiler.is_exporting():  # a graph holds operators, and none that writes into memory of its own
            done = [run(x.index_select(0, at), row) for at, row in zip(apart, self.found, strict=True)]
            return torch.cat(done).index_select(0, torch.argsort(torch.cat(apart)))
        parts = _TakeApart.apply(x, *apart)  # type: ignore[no-untyped-call]
        done = [run(part, row) for part, row in zip(parts, self.found, strict=True)]
        return _PutBack.apply(apart, *done)  # type: ignore[no-any-return, no-untyped-call]

    def check(self, x: Tensor) -> None:
        """That a tensor has these samples in its first dimension."""
        if not x.dim() or len(x) != len(self.rows):
            raise MixbitError(
                f"bits were selected for {len(self.rows)} samples, and a layer's input has shape {tuple(x.shape)}. "
                "Legal: the batch in its first dimension, as long as the selection; select again for another batch."
            )


class _TakeApart(torch.autograd.Function):
    """Samples `(N, ...)` to groups of them. Its gradient writes each sample once, where indexing adds into zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *apart: Tensor) -> tuple[Tensor, ...]:
        ctx.apart = apart
        return tuple(_take(x, at) for at in apart)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _put(ctx.apart, grads), *[None] * len(ctx.apart)


class _PutBack(torch.autograd.Function):
    """The inverse of `_TakeApart`."""

    @staticmethod
    def forward(ctx: Any, apart: tuple[Tensor, ...], *parts: Tensor) -> Tensor:
        ctx.apart = apart
        return _put(apart, parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(_take(grad, at) for at in ctx.apart)


def _take(x: Tensor, at: Tensor) -> Tensor:
    """`x[at]`, in the memory format of `x`: a sample is one piece of memory, which is copied as it stands."""
    x = _in_pieces(x)
    found = _empty(x, len(at))
    torch.index_select(_pieces(x), 0, at, out=_pieces(found))
    return found


def _put(apart: tuple[Tensor, ...], parts: tuple[Tensor, ...]) -> Tensor:
    """The batch of which `parts` are the samples at `apart`."""
    whole = _empty(_in_pieces(parts[0]), sum(map(len, apart)))
    for at, part in zip(apart, parts, strict=True):
        laid_out = part if part.stride() == whole.stride() else _empty(whole, len(part)).copy_(part)
        _pieces(whole).index_copy_(0, at, _pieces(laid_out))
    return whole


def _in_pieces(x: Tensor) -> Tensor:
    """`x`, or a copy of it, in whose memory samples follow each other without gaps."""
    dense = x.stride(0) * len(x) == x.numel() and torch.empty_like(x).stride() == x.stride()
    return x if dense else x.contiguous()


def _empty(like: Tensor, samples: int) -> Tensor:
    """Room for so many samples, laid out like those of a tensor."""
    return like.new_empty_strided((samples, *like.shape[1:]), like.stride())


def _pieces(x: Tensor) -> Tensor:
    """`(N, numel / N)`, a view by memory."""
    return x.as_strided((len(x), x.stride(0)), (x.stride(0), 1))
