"""Accuracy on a split, and batch-norm statistics made anew for the weights at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit import _distributed
from mixbit._modes import in_evaluation, is_frozen
from mixbit.data import Split
from mixbit.errors import MixbitError
from mixbit.task import Loss, cross_entropy

__all__ = ["Metrics", "evaluate", "reestimate_batch_norm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Top-1 accuracy (0 to 1), mean loss, and the number of samples behind them."""

    accuracy: float
    loss: float
    samples: int


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, *, batch_size: int = 256, loss: Loss = cross_entropy, channels_last: bool = False
) -> Metrics:
    """Top-1 accuracy and loss of `model` in eval mode over a whole split; its modes are put back.

    On several processes each takes its share, and all get the same answer.

    Raises:
        MixbitError: the split is empty, or the processes hold different weights.
    """
    device = next(model.parameters()).device
    _distributed.check_equal(model.parameters(), "weights")
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    with in_evaluation(model):
        for x, y in split.batches(batch_size, rank=_distributed.rank(), world=_distributed.world_size()):
            if not len(y):
                continue
            y = y.to(device)
            logits = model(to_model(x, device, channels_last))
            right = (logits.argmax(dim=1) == y).sum()
            totals += torch.stack(
                [right.double(), loss(logits, y, 0.0).double() * len(y), right.new_tensor(len(y)).double()]
            )
    _distributed.sum_([totals])
    right, summed, samples = totals.tolist()
    if not samples:
        raise MixbitError("the split to evaluate on is empty. Give a data set with at least one sample.")
    return Metrics(accuracy=right / samples, loss=summed / samples, samples=int(samples))


def to_model(x: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """Move a batch to the model's device and memory layout."""
    if channels_last and x.dim() == 4:
        return x.to(device, memory_format=torch.channels_last, non_blocking=True)
    return x.to(device, non_blocking=True)


def lay_out_channels_last(model: nn.Module) -> None:
    """Put weights of four dimensions, those of 2-d convolutions, into the memory layout of `to_model`'s images."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by the plain mean over `batches` (inputs `(N, ...)`), without gradients.

    Batch norm runs in training mode, everything else in eval mode; momenta and modes are put back. Low-bit weights
    move the statistics by so much that the exponential average of training lags behind. Norms that the user froze (in
    evaluation mode while the model is in training mode), and those that no batch reaches (of a head that is there in
    training alone, say), keep their statistics.

    Raises:
        MixbitError: there are no batches.
    """
    norms = [
        m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and not is_frozen(model, m)
    ]
    if not norms:
        return
    seen = 0
    with _cumulative(model, norms):
        for seen, x in enumerate(batches, start=1):  # noqa: B007
            model(x)
    if not seen:
        raise MixbitError("there are no batches to make batch-norm statistics from. Give at least one batch of inputs.")
    average_batch_norm(model)


@contextmanager
def _cumulative(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    momenta = [m.momentum for m in norms]
    old = [[None if b is None else b.clone() for b in _statistics(m)] for m in norms]
    with in_evaluation(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            yield
        finally:
            for norm, momentum, before in zip(norms, momenta, old, strict=True):
                norm.momentum = momentum
                if not norm.num_batches_tracked:
                    _put_back(norm, before)


def _statistics(norm: _BatchNorm) -> list[Tensor | None]:
    return [norm.running_mean, norm.running_var, norm.num_batches_tracked]


def _put_back(norm: _BatchNorm, before: list[Tensor | None]) -> None:
    for now, then in zip(_statistics(norm), before, strict=True):
        if now is not None and then is not None:
            now.copy_(then)


def average_batch_norm(model: nn.Module) -> None:
    """Make the running statistics of all ranks equal to their mean."""
    _distributed.mean_(b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
