"""Everything that a method needs to know of the user's problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from mixbit import _batch
from mixbit.data import InputSpace, Read, Split, as_split
from mixbit.metric import MetricInfo, MetricLike
from mixbit.network import Network, capture
from mixbit.task._loss import Loss, cross_entropy
from mixbit.task._objective import Distill, Objective, Output, objective_of

Penalty: TypeAlias = Callable[[nn.Module, float], torch.Tensor]
"""`(model, epochs trained) -> value`: a term on the weights alone. It adds its own gradient to their `.grad`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything a method needs to know of the user's problem.

    Attributes:
        model: the trained float network; methods work on copies.
        train: what searches and trainings read: a split, or a Dataset, a DataLoader or a list of batches, which
            `mixbit.data.as_split` makes one of.
        test: the same, what only evaluation reads.
        loss: `(outputs, targets) -> scalar`, see `mixbit.task.Loss`.
        metric: what is printed and compared, one or several of `mixbit.metric`, or the user's own; without one,
            accuracy where targets are class numbers, and the loss where they are not.
        read: `batch -> (inputs, targets)`, see `mixbit.data.read_keys`; without it, batches are such pairs.
        output: which of the model's outputs loss and metrics get: a name, a number or a function; without it, all.
        class_axis: where outputs have the classes, for methods and metrics that ask and cannot tell.
        distill: `(outputs, teacher's outputs) -> scalar`, for distillation of what is no classification.
        penalty: see `Penalty`; trainings, also those of search methods, add it to the loss. None for none.
        network: what capture learned of the model; made from one test batch if not given.
        space: how the user's inputs become those of the model, and where they may lie; without one, they are the
            model's, and every number is one.

    Raises:
        DataError: data that cannot be read.
        MixbitError: something else than a loss or a metric.
        CaptureError: see `mixbit.capture`.

    A regression, on data as they are:

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.randn(8, 3), torch.randn(8, 1))
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> task = Task(model=model, train=data, test=data, loss=nn.functional.mse_loss)
    >>> task.info.name, len(task.network.layers)
    ('loss', 2)
    """

    model: nn.Module
    train: Split
    test: Split
    loss: Loss = cross_entropy
    metric: MetricLike | Sequence[MetricLike] | None = None
    read: Read | None = None
    output: Output | None = None
    class_axis: int | None = None
    distill: Distill | None = None
    penalty: Penalty | None = None
    network: Network = field(default=cast(Network, None))
    space: InputSpace = field(default_factory=InputSpace)
    objective: Objective = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Frozen: what the user gave is put into the form that the rest of mixbit reads, once.
        self._set("train", as_split(self.train, self.read))
        self._set("test", as_split(self.test, self.read))
        found = objective_of(
            self.loss, self.metric, output=self.output, class_axis=self.class_axis, distill=self.distill
        )
        self._set("loss", found.loss)
        self._set("objective", found if found.metrics is not None else found.settled(self._example(2)[1]))
        if cast(object, self.network) is None:
            self._set("network", capture(self.model, self.example()))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def info(self) -> MetricInfo:
        """Name, unit and direction of what is printed and compared."""
        return self.objective.info

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def example(self, samples: int = 2) -> Any:
        """The first test inputs, of `samples` samples, on the model's device."""
        return _batch.move(self._example(samples)[0], self.device)

    def calibration(self, samples: int, seed: int) -> Any:
        """Inputs of the first `samples` training samples of a shuffled pass, on the model's device."""
        batches = self.train.batches(samples, seed=seed, shuffle=True)
        return _batch.move(_batch.first_samples(batches, samples)[0], self.device)

    def _example(self, samples: int) -> tuple[Any, Any]:
        return _batch.first_samples(self.test.batches(samples), samples)
