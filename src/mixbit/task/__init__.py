"""The user's problem in one object: model, data, loss and metrics, and how each of them is read."""

from mixbit.task._loss import Loss, LossFunction, as_loss, cross_entropy
from mixbit.task._objective import Distill, Objective, Output, divergence, objective_of
from mixbit.task._task import Penalty, Task

__all__ = [
    "Distill",
    "Loss",
    "LossFunction",
    "Objective",
    "Output",
    "Penalty",
    "Task",
    "as_loss",
    "cross_entropy",
    "divergence",
    "objective_of",
]
