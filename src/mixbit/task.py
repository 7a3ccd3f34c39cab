"""The user's problem in one object: model, data, loss and metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.data import Split
from mixbit.network import Network, capture

__all__ = ["Loss", "Penalty", "Task", "cross_entropy"]

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""`(outputs, targets, label_smoothing) -> scalar`, the mean over the batch."""

Penalty = Callable[[nn.Module, float], Tensor]
"""`(model, epochs trained) -> value`: a term on the weights alone. It adds its own gradient to their `.grad`."""


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits `(N, classes)` against class numbers `(N,)`.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything a method needs to know of the user's problem.

    Attributes:
        model: the trained float network; methods work on copies.
        train: the split that searches and trainings read.
        test: the split that only evaluation reads.
        loss: see `Loss`.
        penalty: see `Penalty`; trainings, also those of search methods, add it to the loss. None for none.
        network: what capture learned of the model; made from one test batch if not given.
    """

    model: nn.Module
    train: Split
    test: Split
    loss: Loss = cross_entropy
    penalty: Penalty | None = None
    network: Network = field(default=cast(Network, None))

    def __post_init__(self) -> None:
        if cast(object, self.network) is None:
            object.__setattr__(self, "network", capture(self.model, self.example()))

    def example(self, samples: int = 2) -> Tensor:
        """The first test inputs, `(samples, ...)`, on the model's device."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        return next(self.test.batches(samples))[0].to(device)
