"""How the outputs of a file are judged: by their classes, if they have any, and by the task's metric."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.evaluation import Count
from mixbit.integer.arithmetic import Array
from mixbit.metric import ACCURACY, MetricInfo, StreamingMetric, Tally, accuracy
from mixbit.task import Objective

__all__ = ["Judge", "Score"]

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What is known of the outputs.

    Attributes:
        objective: of the task; None for arrays without one, which have an accuracy where they have classes and labels.
        class_axis: where outputs without a task have the classes; None for axis 1 of `(N, C)`, and none in others.
        outputs: the tensor that a file gives -> what the model gives, which the objective reads.

    >>> Judge().classes(np.array([[0.0, 2.0], [3.0, 1.0]]), None)
    array([1, 0])
    >>> Judge().classes(np.array([[0.5], [0.7]]), None) is None       # one number is no class
    True
    """

    objective: Objective | None = None
    class_axis: int | None = None
    outputs: Callable[[Tensor], Any] = lambda tensor: tensor

    @property
    def info(self) -> MetricInfo:
        """What is known of the metric: name, unit and direction."""
        return ACCURACY.info if self.objective is None else self.objective.info

    def classes(self, found: Array, targets: Any) -> Array | None:
        """The class with the highest score at every position `(N, ...)`; None where outputs are no scores of classes.

        Raises:
            MixbitError: the class axis that was given is none of the outputs'.
        """
        if self.objective is not None:
            try:
                scores, axis = self.objective.class_scores(self.outputs(_tensor(found)), targets, "verify")
            except MixbitError:  # no classification, or nobody knows where its classes are
                return None
            found = scores.numpy()
        elif self.class_axis is None and found.ndim != 2:
            return None
        else:
            axis = 1 if self.class_axis is None else self.class_axis
            if not -found.ndim <= axis < found.ndim:
                raise MixbitError(f"class_axis={axis} is no axis of outputs {found.shape}.")
        if found.shape[axis] < 2:
            return None
        said: Array = found.argmax(axis=axis)
        return said

    def score(self) -> Score:
        """A new count of the metric."""
        return Score(self)


class Score:
    """The metric of one network over the batches.

    Attributes:
        reason: why it has none although there are targets; None if it has one.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge, self._objective = judge, None if judge.objective is None else _own_state(judge.objective)
        self._count = Count(_CPU)
        self._accuracy: Tally = accuracy(judge.class_axis).tally(_CPU)
        self._samples = 0
        self.reason: str | None = None

    def add(self, found: Array, targets: Any) -> None:
        """Count the outputs of one batch.

        Args:
            found: outputs `(N, *shape)`.
            targets: of the task, or class numbers in the outputs' shape without the classes; None if there are none.
        """
        bare = self._objective is None
        if targets is None or self.reason is not None or (bare and self._judge.classes(found, targets) is None):
            return
        self._samples += len(found)
        if self._objective is None:
            numbers = torch.from_numpy(np.asarray(targets).astype(np.int64))
            self._accuracy.add(_tensor(found), numbers, len(found))
            return
        try:
            self._objective = self._objective.settled(targets)
            self._count.add(self._objective, self._judge.outputs(_tensor(found)), targets, len(found))
        except (MixbitError, RuntimeError) as error:  # the user's loss and metric, on outputs on the CPU
            self.reason = str(error)

    @property
    def value(self) -> float | None:
        """The metric over all batches; None without targets, or for a reason."""
        if not self._samples or self.reason is not None:
            return None
        if self._objective is None:
            return self._accuracy.result()
        try:
            return self._count.local(self._objective).value
        except MixbitError as error:
            self.reason = str(error)
            return None


def _own_state(objective: Objective) -> Objective:
    """With metrics that keep their own state copied: several networks are counted at once."""
    if objective.metrics is None:
        return objective
    own = (
        replace(one, source=copy.deepcopy(one.source)) if isinstance(one, StreamingMetric) else one
        for one in objective.metrics
    )
    return replace(objective, metrics=tuple(own))


def _tensor(found: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(found))
