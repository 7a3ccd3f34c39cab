"""What a network is trained and judged by: loss, metrics, and how its outputs are read for both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from mixbit import _batch
from mixbit.errors import MixbitError
from mixbit.metric import (
    LOSS,
    Metric,
    MetricInfo,
    MetricLike,
    StreamingMetric,
    accuracy,
    as_metric,
    class_logits,
)
from mixbit.task._loss import Loss, LossFunction, as_loss, cross_entropy

Output: TypeAlias = Callable[[Any], Any] | str | int
"""Which of a model's outputs counts: a function of them, an attribute or key, or a place in a tuple or list."""
Distill: TypeAlias = Callable[[Any, Any], Tensor]
"""`(outputs, teacher's outputs) -> scalar`: how far the network is from its teacher, the mean over the batch."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss and metrics, with the rules by which they read outputs.

    Attributes:
        loss: see `LossFunction`; it gets what `output` gives.
        metrics: the first is what is compared and printed; none takes the loss, of which less is better.
        output: see `Output`; None for all that the model gives.
        class_axis: where the outputs have the classes; None where the loss or the targets tell.
        distill: see `Distill`; None for the divergence of class probabilities.
    """

    loss: LossFunction
    metrics: tuple[Metric | StreamingMetric, ...] | None
    output: Callable[[Any], Any] | None = None
    class_axis: int | None = None
    distill: Distill | None = None

    @property
    def info(self) -> MetricInfo:
        """What is known of the metric that is compared and printed."""
        return self.metrics[0].info if self.metrics else LOSS

    def chosen(self, outputs: Any) -> Any:
        """The outputs that count."""
        return outputs if self.output is None else self.output(outputs)

    def of_logits(self) -> Objective:
        """The objective for outputs of which the ones that count were chosen already."""
        loss = copy.copy(self.loss)
        loss.output = None
        return replace(self, loss=loss, output=None)

    def settled(self, targets: Any) -> Objective:
        """The objective with metrics; where the user named none, they follow from the targets.

        Accuracy, where these are whole numbers in a tensor; else the loss.
        """
        if self.metrics is not None:
            return self
        numbers = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
        return replace(self, metrics=(accuracy(self.class_axis),) if numbers else ())

    def class_scores(self, outputs: Any, targets: Any, who: str) -> tuple[Tensor, int]:
        """Class scores and their axis, where a default needs them.

        Raises:
            MixbitError: this is no classification, or the axis is not known.
        """
        known = self.loss.over_classes or self.class_axis is not None
        return class_logits(self.chosen(outputs), None if known else targets, self.class_axis, who)

    def distilled(
        self, outputs: Any, teacher: Any, targets: Any, hard: Tensor, *, weight: float, temperature: float
    ) -> Tensor:
        """`(1 - weight) * hard + weight * D`, with the user's `distill`, or the divergence of class probabilities.

        Raises:
            MixbitError: the latter on something else than classes.
        """
        if self.distill is not None:
            return (1 - weight) * hard + weight * self.distill(self.chosen(outputs), self.chosen(teacher))
        try:
            scores, axis = self.class_scores(outputs, targets, "distillation")
        except MixbitError as error:
            raise MixbitError(
                f"{error} Or give distill=, a function (outputs, teacher's outputs) -> scalar, e.g. "
                "torch.nn.functional.mse_loss; or set the setting distill=0."
            ) from None
        soft = divergence(scores, self.chosen(teacher), axis, temperature)
        return (1 - weight) * hard + weight * temperature**2 * soft


def divergence(outputs: Tensor, teacher: Tensor, axis: int, temperature: float = 1.0) -> Tensor:
    """Mean over all positions of the Kullback-Leibler divergence of class probabilities from the teacher's."""
    student, wanted = (F.log_softmax(one.float() / temperature, dim=axis) for one in (outputs, teacher))
    return F.kl_div(student, wanted, reduction="sum", log_target=True) * outputs.shape[axis] / outputs.numel()


def objective_of(
    loss: Loss | Objective = cross_entropy,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    *,
    output: Output | None = None,
    class_axis: int | None = None,
    distill: Distill | None = None,
) -> Objective:
    """Loss and metrics of what the user has; an objective stays what it is.

    Args:
        loss: see `Loss`.
        metric: one or several, see `mixbit.metric.as_metric`; None for accuracy where targets are class numbers, and
            for the loss where they are not.
        output: see `Output`.
        class_axis: where the outputs have the classes, for `(N, T, C)`: 2.
        distill: see `Distill`.

    Raises:
        MixbitError: something else than a loss or a metric, or two metrics of one name.
    """
    if isinstance(loss, Objective):
        return loss
    rule = None if output is None else _output_rule(output)
    read = as_loss(loss, rule)
    metrics = _metrics(metric)
    if metrics is None and read.over_classes:
        metrics = (accuracy(class_axis, ignore_index=read.ignore_index),)  # what the loss leaves out is not wrong
    if metrics is None and read.of_differences:
        metrics = ()
    return Objective(loss=read, metrics=metrics, output=read.output, class_axis=class_axis, distill=distill)


def _metrics(given: Any) -> tuple[Metric | StreamingMetric, ...] | None:
    if given is None:
        return None
    found = tuple(as_metric(one) for one in (given if isinstance(given, list | tuple) else [given]))
    names = [one.name for one in found]
    twice = [name for name in names if names.count(name) > 1 or name == LOSS.name]
    if twice or not found:
        raise MixbitError(f"metrics={names}: give at least one, none twice and none called {LOSS.name!r}.")
    return found


class _Rule:
    """An attribute, a key or a place; equal rules are one."""

    def __init__(self, which: str | int) -> None:
        self.which = which

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rule) and other.which == self.which

    def __hash__(self) -> int:
        return hash(self.which)

    def __call__(self, outputs: Any) -> Any:
        try:
            if isinstance(self.which, str) and not isinstance(outputs, Mapping):
                return getattr(outputs, self.which)
            return outputs[self.which]
        except (AttributeError, KeyError, IndexError, TypeError):
            legal = f" Its keys: {', '.join(map(str, outputs))}." if isinstance(outputs, Mapping) else ""
            raise MixbitError(
                f"output={self.which!r}, and the model gives {_batch.describe(outputs)}, which has none.{legal}"
            ) from None


def _output_rule(output: Output) -> Callable[[Any], Any]:
    if isinstance(output, bool) or not (isinstance(output, str | int) or callable(output)):
        raise MixbitError(f"output={output!r} is no rule. Legal: a name, a number, or a function of the outputs.")
    return _Rule(output) if isinstance(output, str | int) else output
