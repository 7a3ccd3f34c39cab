"""What a network is judged by: a number with a name, a unit and a direction.

A metric turns a batch into sums, the sums of all batches and processes are added, and the result is made of the total:
right and all for accuracy, a confusion matrix for the intersection over union. So the result does not depend on how the
samples were cut into batches, which a mean of means would.

>>> import torch
>>> iou = mean_iou(2)
>>> state = iou.sums(torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 0.0, 3.0]]]).movedim(0, 1), torch.tensor([[0, 1, 1]]))
>>> state.tolist()                                # rows: the truth; columns: what was said
[[1.0, 0.0], [1.0, 1.0]]
>>> iou.result(state)                             # (1 / 2 + 1 / 2) / 2
0.5
>>> iou.text(0.5)
'50.00 %'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from mixbit import _batch, _distributed
from mixbit._settings import Count, Range, check_value
from mixbit.errors import MixbitError

__all__ = [
    "ACCURACY",
    "LOSS",
    "Metric",
    "MetricInfo",
    "MetricLike",
    "StreamingMetric",
    "accuracy",
    "as_metric",
    "average",
    "mean_absolute_error",
    "mean_iou",
    "mean_squared_error",
    "token_accuracy",
    "top_k",
]

_RESERVED = ("samples",)
_MOST_CLASSES = 10_000
"""Of a confusion matrix: it has 800 MB then."""
_OTHER_METRIC = (
    "Give a metric= that fits the task, e.g. mixbit.metric.mean_squared_error(), or a function (outputs, targets) -> "
    "number in mixbit.metric.average(function, larger_is_better=True)."
)
Info = TypeVar("Info", bound="MetricInfo")


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a metric is called, how it is written, and which way is better; as run folders remember it.

    Attributes:
        name: in tables, plots and files.
        unit: "%" for shares of one, which are then written in percent; else what stands behind the number.
        larger_is_better: the direction; None where it is not known, which is an error where numbers are compared.
    """

    name: str
    unit: str = ""
    larger_is_better: bool | None = True

    def __post_init__(self) -> None:
        if not self.name or self.name in _RESERVED:
            raise MixbitError(f"a metric cannot be called {self.name!r}. Give it another name.")

    @property
    def title(self) -> str:
        """The name as a sentence begins with it.

        >>> MetricInfo(name="mean IoU").title
        'Mean IoU'
        """
        return self.name[:1].upper() + self.name[1:]

    @property
    def axis(self) -> str:
        """The name with its unit, for an axis of `scaled` values.

        >>> MetricInfo(name="mean IoU", unit="%").axis
        'mean IoU, %'
        """
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def scaled(self, value: float) -> float:
        """The value in its unit."""
        return 100 * value if self.unit == "%" else value

    def text(self, value: float) -> str:
        """The value with its unit.

        >>> MetricInfo(name="error", unit="dB", larger_is_better=False).text(1.23456)
        '1.235 dB'
        """
        if self.unit == "%":
            return f"{100 * value:.2f} %"
        return f"{value:.4g} {self.unit}".rstrip()

    def better(self, value: float, than: float) -> bool:
        """Whether the first value is the better one.

        Raises:
            MixbitError: the direction is not known.
        """
        return self.gain(value, than) > 0

    def gain(self, value: float, than: float) -> float:
        """By how much the first value is better: positive if it is, whatever the direction.

        Raises:
            MixbitError: the direction is not known.
        """
        return value - than if self.directed().larger_is_better else than - value

    def directed(self: Info) -> Info:
        """What is known of the metric, where it is known which way is better.

        Raises:
            MixbitError: it is not.
        """
        if self.larger_is_better is None:
            raise MixbitError(
                f"values of {self.name!r} are to be compared, and it is not known whether larger ones are better. Give "
                "mixbit.metric.average(function, larger_is_better=False), or True; an object says so by its attribute "
                "higher_is_better."
            )
        return self

    @property
    def info(self) -> MetricInfo:
        """Name, unit and direction, without the arithmetic."""
        return MetricInfo(name=self.name, unit=self.unit, larger_is_better=self.larger_is_better)

    def to_json(self) -> dict[str, Any]:
        """Name, unit and direction as plain values."""
        return asdict(self.info)

    @classmethod
    def from_json(cls, values: Any) -> MetricInfo:
        """What `to_json` gave; None is top-1 accuracy, as files say that were written before there were others."""
        if values is None:
            return ACCURACY.info
        legal = isinstance(values, Mapping) and set(values) == {"name", "unit", "larger_is_better"}
        typed = legal and isinstance(values["name"], str) and isinstance(values["unit"], str)
        if not typed or values["larger_is_better"] not in (True, False, None):
            raise MixbitError(f"{values!r} describes no metric. Legal: name, unit and larger_is_better.")
        return MetricInfo(**values)


@dataclass(frozen=True, kw_only=True)
class Metric(MetricInfo):
    """A metric of sums that add over batches and processes.

    Attributes:
        sums: `(outputs, targets) -> sums of a batch`, of the shape `shape`.
        result: the metric of a total of sums.
        shape: of the sums.
    """

    sums: Callable[[Any, Any], Tensor]
    result: Callable[[Tensor], float]
    shape: tuple[int, ...] = (2,)

    def tally(self, device: torch.device) -> Tally:
        """A new count, on this device."""
        return _Sums(self, device)


@dataclass(frozen=True, kw_only=True)
class StreamingMetric(MetricInfo):
    """A metric that keeps its own state, with `update(outputs, targets)`, `compute()` and `reset()` as torchmetrics.

    One process only: such a state cannot be added over several.
    """

    source: Any

    def tally(self, device: torch.device) -> Tally:
        """The object itself, reset.

        Raises:
            MixbitError: there are several processes.
        """
        if _distributed.world_size() > 1:
            raise MixbitError(
                f"metric {self.name!r} keeps its own state, which cannot be added over processes. Run one process, or "
                "give a mixbit.metric.Metric, whose sums add."
            )
        return _Streaming(self, device)


class Tally:
    """The count of one metric over the batches of one pass."""

    sums: Tensor
    """What is to be added over the processes before `result` is asked for."""

    def add(self, outputs: Any, targets: Any, samples: int) -> None:
        """Count what a batch of outputs adds."""
        raise NotImplementedError

    def result(self, *, whole: bool = True) -> float:
        """The metric of all that was counted.

        Args:
            whole: all samples were; of some alone, it may be not finite where it is of all.

        Raises:
            MixbitError: it is no finite number.
        """
        raise NotImplementedError


class _Sums(Tally):
    def __init__(self, metric: Metric, device: torch.device) -> None:
        # Apple's accelerator has no float64; there the sums are kept on the CPU.
        where = torch.device("cpu") if device.type == "mps" else device
        self.metric, self.sums = metric, torch.zeros(metric.shape, dtype=torch.float64, device=where)

    def add(self, outputs: Any, targets: Any, samples: int) -> None:
        found = self.metric.sums(outputs, targets)
        if not isinstance(found, Tensor) or tuple(found.shape) != self.metric.shape:
            raise MixbitError(
                f"metric {self.metric.name!r} gave {_shown(found)} of a batch. Legal: sums of shape "
                f"{self.metric.shape}; a number a batch is what mixbit.metric.average takes."
            )
        self.sums += found.detach().to(self.sums)

    def result(self, *, whole: bool = True) -> float:
        lost = not bool(self.sums.isfinite().all())
        return _finite(self.metric.name, self.metric.result(self.sums.cpu()), whole or lost)


class _Streaming(Tally):
    def __init__(self, metric: StreamingMetric, device: torch.device) -> None:
        self.metric, self.sums = metric, torch.zeros(0, dtype=torch.float64)
        metric.source.reset()
        if hasattr(metric.source, "to"):
            metric.source.to(device)

    def add(self, outputs: Any, targets: Any, samples: int) -> None:
        self.metric.source.update(outputs, targets)

    def result(self, *, whole: bool = True) -> float:
        return _finite(self.metric.name, self.metric.source.compute(), whole)


def _finite(name: str, value: object, whole: bool = True) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise MixbitError(f"metric {name!r} gave {_shown(value)}, which is no number. Legal: one number.") from None
    if whole and not math.isfinite(number):
        raise MixbitError(
            f"metric {name!r} is {number}. Check the outputs for NaN, and that there is something to count: a class "
            "that occurs, a target that is not ignored."
        )
    return number


def _shown(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------------- classification


def _ratio(sums: Tensor) -> float:
    return float(sums[0] / sums[1])


def _pair(right: Tensor, count: int | Tensor) -> Tensor:
    total = right.sum().double() if right.device.type != "mps" else right.sum().float()
    return torch.stack([total, torch.as_tensor(count).to(total)])


def class_logits(outputs: Any, targets: Tensor | None, class_axis: int | None, name: str) -> tuple[Tensor, int]:
    """Outputs over classes as a tensor, and which of its axes the classes are on.

    Args:
        outputs: of the model.
        targets: class numbers in the outputs' shape without the class axis; None to check nothing of them.
        class_axis: as the user said; None takes axis 1, as PyTorch's losses do, where nothing speaks against it.
        name: who asks, for messages.

    Raises:
        MixbitError: several outputs without a rule, targets that are no class numbers, or an axis that does not fit.
    """
    if not isinstance(outputs, Tensor):
        raise MixbitError(
            f"{name} needs one tensor of class scores, and the model gives {_batch.describe(outputs)}. Say which it "
            "is: output='logits' (a name or a number), output=lambda outputs: ..., or give a metric= of your own."
        )
    if outputs.dim() < 2:
        raise MixbitError(
            f"{name} needs class scores (N, C, ...), and the model gives {tuple(outputs.shape)}. {_OTHER_METRIC}"
        )
    axis = 1 if class_axis is None else class_axis
    if not -outputs.dim() <= axis < outputs.dim():
        raise MixbitError(f"class_axis={axis} is no axis of outputs {tuple(outputs.shape)}.")
    axis %= outputs.dim()
    if outputs.shape[axis] == 1:  # the highest of one is always the first, whatever it is
        raise MixbitError(
            f"{name} needs the scores of two classes or more, and outputs {tuple(outputs.shape)} have one on axis "
            f"{axis}. {_OTHER_METRIC}"
        )
    if targets is not None:
        _check_axis(outputs, targets, axis, class_axis, name)
    return outputs, axis


def check_labels(labels: Tensor, classes: int, ignore_index: int | None, name: str) -> Tensor:
    """Which labels count, as booleans in their shape; all of them must be classes that there are.

    Args:
        labels: whole numbers, of any shape.
        classes: how many the outputs have.
        ignore_index: a label that is left out; None for none.
        name: who asks, for messages.

    Raises:
        MixbitError: one is not.
    """
    counted = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    outside = ((labels < 0) | (labels >= classes)) & counted
    if bool(outside.any()):
        left = "" if ignore_index is None else f", and ignore_index={ignore_index}, which is left out"
        raise MixbitError(
            f"{name} of outputs over {classes} classes: a target is {int(labels[outside][0])}. Legal: 0 to "
            f"{classes - 1}{left}. Give the model an output for every class, or say which target does not count: "
            "ignore_index= of the loss or of the metric."
        )
    return counted


def _check_axis(outputs: Tensor, targets: Any, axis: int, told: int | None, name: str) -> None:
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        what = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise MixbitError(f"{name} needs targets of whole class numbers, and they are {what}. {_OTHER_METRIC}")

    def without(one: int) -> tuple[int, ...]:
        return tuple(outputs.shape[:one] + outputs.shape[one + 1 :])

    fits = [one for one in range(1, outputs.dim()) if without(one) == tuple(targets.shape)]
    if axis in fits and (told is not None or len(fits) == 1):
        return
    may = f"They may be on {' or '.join(map(str, fits))}: say class_axis={fits[-1]}." if fits else ""
    raise MixbitError(
        f"{name}: outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} do not fit classes on axis {axis}. "
        + (may or "Legal: targets in the shape of the outputs without their class axis; see class_axis= and output=, ")
        + ("" if may else "or give a metric= that fits the task.")
    )


def accuracy(class_axis: int | None = None, *, ignore_index: int | None = None, name: str = "accuracy") -> Metric:
    """Top-1 accuracy: the share of targets that have the highest score.

    Args:
        class_axis: where the classes are; None for axis 1, as in `(N, C)` and `(N, C, H, W)`.
        ignore_index: a target that is not counted.
        name: in tables and files.

    >>> import torch
    >>> metric = accuracy()
    >>> metric.result(metric.sums(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])))
    0.5
    """

    def sums(outputs: Any, targets: Any) -> Tensor:
        scores, axis = class_logits(outputs, targets, class_axis, name)
        counted = check_labels(targets, scores.shape[axis], ignore_index, name)
        right = (scores.argmax(dim=axis) == targets) & counted
        return _pair(right, counted.sum())

    return Metric(name=name, unit="%", sums=sums, result=_ratio)


def token_accuracy(class_axis: int = -1, *, ignore_index: int = -100, name: str = "token accuracy") -> Metric:
    """Share of the tokens that are told right; of scores `(N, T, C)`, as networks for text give them.

    >>> import torch
    >>> metric = token_accuracy()
    >>> scores = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    >>> metric.result(metric.sums(scores, torch.tensor([[1, 1, -100]])))      # one of two, the third is padding
    0.5
    """
    return accuracy(class_axis, ignore_index=ignore_index, name=name)


def top_k(k: int, class_axis: int | None = None, *, ignore_index: int | None = None) -> Metric:
    """Share of targets that are among the `k` highest scores.

    Args:
        k: how many.
        class_axis: see `accuracy`.
        ignore_index: a target that is not counted.

    >>> import torch
    >>> metric = top_k(2)
    >>> metric.result(metric.sums(torch.tensor([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1]]), torch.tensor([1, 2])))
    0.5
    """
    check_value("k", k, Count)
    name = f"top-{k} accuracy"

    def sums(outputs: Any, targets: Any) -> Tensor:
        scores, axis = class_logits(outputs, targets, class_axis, name)
        counted = check_labels(targets, scores.shape[axis], ignore_index, name)
        best = scores.topk(min(k, scores.shape[axis]), dim=axis).indices
        return _pair((best == targets.unsqueeze(axis)).any(dim=axis) & counted, counted.sum())

    return Metric(name=name, unit="%", sums=sums, result=_ratio)


def mean_iou(classes: int, *, ignore_index: int | None = 255, class_axis: int | None = None) -> Metric:
    """Mean intersection over union: of each class the pixels that are it and are told so, over those that are either.

    `IoU_c = n_cc / (sum_j n_cj + sum_j n_jc - n_cc)` of the confusion matrix `n` over all samples, and the mean over
    the classes that occur in the targets or in what was said (Everingham et al. 2015).

    Args:
        classes: how many there are, from 2.
        ignore_index: target of pixels that are not counted.
        class_axis: see `accuracy`.
    """
    check_value("classes", classes, Annotated[int, Range(least=2, most=_MOST_CLASSES)])

    def sums(outputs: Any, targets: Any) -> Tensor:
        scores, axis = class_logits(outputs, targets, class_axis, "mean IoU")
        said, truth = scores.argmax(dim=axis).flatten(), targets.flatten()
        if ignore_index is not None:
            said, truth = said[truth != ignore_index], truth[truth != ignore_index]
        outside = (truth < 0) | (truth >= classes) | (said >= classes)
        if bool(outside.any()):
            at = int(outside.nonzero()[0])
            raise MixbitError(
                f"mean IoU of {classes} classes: a target is {int(truth[at])}, the network says {int(said[at])}. "
                f"Legal: 0 to {classes - 1}, and ignore_index={ignore_index}, which is left out."
            )
        counts = torch.bincount(truth.long() * classes + said, minlength=classes * classes)
        return counts.view(classes, classes).to(torch.float32 if counts.device.type == "mps" else torch.float64)

    def result(matrix: Tensor) -> float:
        hit = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - hit
        return float((hit[union > 0] / union[union > 0]).mean())

    return Metric(name="mean IoU", unit="%", sums=sums, result=result, shape=(classes, classes))


# ------------------------------------------------------------------------------------------------------ regression


def mean_squared_error(*, unit: str = "") -> Metric:
    """Mean of the squared differences over all elements of one output tensor; smaller is better.

    >>> import torch
    >>> metric = mean_squared_error()
    >>> metric.result(metric.sums(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])))
    2.0
    """
    return _error("mean squared error", unit, lambda difference: difference.square())


def mean_absolute_error(*, unit: str = "") -> Metric:
    """Mean of the absolute differences over all elements of one output tensor; smaller is better.

    >>> import torch
    >>> metric = mean_absolute_error(unit="mm")
    >>> metric.text(metric.result(metric.sums(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))))
    '1 mm'
    """
    return _error("mean absolute error", unit, lambda difference: difference.abs())


def _error(name: str, unit: str, of: Callable[[Tensor], Tensor]) -> Metric:
    def sums(outputs: Any, targets: Any) -> Tensor:
        both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
        if not both or outputs.shape != targets.shape:
            raise MixbitError(
                f"{name} needs outputs and targets of one shape, and they are {_batch.describe(outputs)} and "
                f"{_batch.describe(targets)}. Say which output it is: output=..., or reshape the targets in read=."
            )
        exact = torch.float32 if outputs.device.type == "mps" else torch.float64
        return _pair(of(outputs.to(exact) - targets.to(exact)), outputs.numel())

    return Metric(name=name, unit=unit, larger_is_better=False, sums=sums, result=_ratio)


# -------------------------------------------------------------------------------------------------------- the user's


@dataclass(frozen=True, kw_only=True)
class _Average(Metric):
    """The mean over samples of a number a batch."""

    function: Callable[[Any, Any], Any]

    def tally(self, device: torch.device) -> Tally:
        return _Weighted(self, device)


class _Weighted(_Sums):
    def add(self, outputs: Any, targets: Any, samples: int) -> None:
        assert isinstance(self.metric, _Average)
        value = _finite(self.metric.name, self.metric.function(outputs, targets))
        self.sums += torch.tensor([value * samples, samples], dtype=torch.float64).to(self.sums)


def average(
    function: Callable[[Any, Any], Any],
    *,
    larger_is_better: bool | None,
    name: str | None = None,
    unit: str = "",
) -> Metric:
    """A function `(outputs, targets) -> number`: its mean over the batches, each weighted by its samples.

    Args:
        function: what it gives of a batch must itself be a mean over samples, or the result depends on the batches.
        larger_is_better: the direction.
        name: in tables and files; the function's own if not given.
        unit: see `MetricInfo`.

    >>> metric = average(lambda outputs, targets: 3.0, larger_is_better=False, name="threes")
    >>> tally = metric.tally(torch.device("cpu"))
    >>> tally.add(None, None, 2)
    >>> tally.result()
    3.0
    """
    own = getattr(function, "__name__", type(function).__name__)
    called = name or ("metric" if own == "<lambda>" else own)

    def sums(_outputs: Any, _targets: Any) -> Tensor:
        raise MixbitError(f"metric {called!r} gives a mean, which does not add. Use tally().")

    return _Average(
        name=called, unit=unit, larger_is_better=larger_is_better, sums=sums, result=_ratio, function=function
    )


MetricLike: TypeAlias = "Metric | StreamingMetric | Callable[[Any, Any], Any] | Any"
"""A metric; a function `(outputs, targets) -> number`; or an object with update, compute and reset."""


def as_metric(given: MetricLike) -> Metric | StreamingMetric:
    """A metric of what the user has.

    A plain function has no direction: where one is needed, say it with `average`. An object's is its
    `higher_is_better`, as torchmetrics has it.

    Raises:
        MixbitError: neither a metric, nor a function, nor an object with update, compute and reset.

    >>> as_metric(lambda outputs, targets: 1.0).name
    'metric'
    """
    if isinstance(given, Metric | StreamingMetric):
        return given
    own_state = all(callable(getattr(given, method, None)) for method in ("update", "compute", "reset"))
    if own_state and not isinstance(given, type):
        direction = getattr(given, "higher_is_better", None)
        return StreamingMetric(name=type(given).__name__, larger_is_better=direction, source=given)
    called = getattr(given, "__name__", "")
    if getattr(given, "__module__", None) == __name__ and called in __all__:
        raise MixbitError(
            f"metric={called} makes a metric and is no metric itself. Call it: mixbit.metric.{called}(...)."
        )
    if callable(given) and not isinstance(given, type):
        return average(given, larger_is_better=None)
    if isinstance(given, type):
        raise MixbitError(f"metric={called} is a class, and no metric itself. Call it first: {called}(...).")
    raise MixbitError(
        f"{given!r} is no metric. Legal: one of mixbit.metric, a function (outputs, targets) -> number, or an object "
        "with update, compute and reset."
    )


ACCURACY = accuracy()
"""Top-1 accuracy over axis 1, what classification is judged by."""

LOSS = MetricInfo(name="loss", larger_is_better=False)
"""The task's own loss, where it has no other metric."""
