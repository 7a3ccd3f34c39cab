"""Loss and metrics on a split, and batch-norm statistics made anew for the weights at hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit import _batch, _distributed
from mixbit._modes import in_evaluation, is_frozen
from mixbit._progress import progress_bar, watched
from mixbit.data import Read, Split, as_split
from mixbit.errors import MixbitError
from mixbit.inference import Predictor
from mixbit.metric import ACCURACY, LOSS, MetricInfo, MetricLike, Tally
from mixbit.quantization import check_calibrated
from mixbit.quantizers import Quantizer
from mixbit.task import Loss, Objective, Output, cross_entropy, objective_of

__all__ = ["Metrics", "evaluate", "reestimate_batch_norm", "statistics_of", "try_out"]

_TRIAL = 32
"""Samples of a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a network reaches on a split.

    Attributes:
        values: metric name -> value, the one that is compared first; shares are 0 to 1. The loss alone, where the task
            has no other metric.
        loss: its mean over the samples; of PyTorch's losses over classes that over all targets that they do not ignore.
        samples: how many stand behind them.
        info: name, unit and direction of the one that is compared.

    >>> found = Metrics(values={"accuracy": 0.75}, loss=0.5, samples=8)
    >>> found.value, found.accuracy, Metrics.from_json(found.to_json()) == found
    (0.75, 0.75, True)
    """

    values: Mapping[str, float]
    loss: float
    samples: int
    info: MetricInfo = ACCURACY.info

    @property
    def value(self) -> float:
        """Value of the metric that is compared."""
        return next(iter(self.values.values()))

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, 0 to 1.

        Raises:
            MixbitError: it was not measured.
        """
        if ACCURACY.name not in self.values:
            raise MixbitError(f"accuracy was not measured. Measured: {', '.join(self.values)}; ask for values[...].")
        return self.values[ACCURACY.name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the one that is compared first."""
        return {**self.values, LOSS.name: self.loss, "samples": self.samples}

    @classmethod
    def from_json(cls, content: Any, info: MetricInfo | None = None) -> Metrics:
        """What `to_json` gave, also in files that were written when there was accuracy alone.

        Args:
            content: plain values.
            info: of the metric that is compared, which they do not hold; for accuracy and the loss it is known.

        Raises:
            MixbitError: something else.
        """
        legal = isinstance(content, dict) and {LOSS.name, "samples"} <= set(content)
        if not legal or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in content.values()):
            raise MixbitError(f"{str(content)[:80]!r} are no metrics. Legal: numbers, among them loss and samples.")
        values = {key: value for key, value in content.items() if key not in (LOSS.name, "samples")}
        values = values or {LOSS.name: content[LOSS.name]}
        name = next(iter(values))
        known = {one.name: one for one in (ACCURACY.info, LOSS)}
        kind = info or known.get(name) or MetricInfo(name=name, larger_is_better=None)
        return cls(values=values, loss=content[LOSS.name], samples=content["samples"], info=kind)


@torch.no_grad()
def evaluate(
    model: nn.Module | Predictor,
    split: object,
    *,
    batch_size: int = 256,
    loss: Loss | Objective = cross_entropy,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    read: Read | None = None,
    output: Output | None = None,
    class_axis: int | None = None,
    channels_last: bool = False,
    label: str | None = None,
) -> Metrics:
    """Loss and metrics of a model in eval mode over a whole split, or of a Predictor; modes are put back.

    On several processes each takes its share, and all get the same answer.

    Args:
        model: on any device; or whatever else gives logits, see `mixbit.inference.Predictor`, of inputs that are one
            tensor: those of the split are what the network reads, and become inputs of its space first.
        split: a split, or a Dataset, a DataLoader or a list of batches.
        batch_size: samples at once, over all processes together.
        loss: see `mixbit.task.Loss`; or a task's `objective`, which brings its metrics and rules along.
        metric, read, output, class_axis: see `mixbit.Task`.
        channels_last: memory layout of images.
        label: what progress on standard error calls this evaluation; None for none.

    Raises:
        MixbitError: quantizers that were never calibrated, an empty split, a loss or a metric that is no number, or
            processes that hold different weights.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.ones_(net.weight)
    >>> found = evaluate(net, [(torch.ones(2, 1), torch.zeros(2, 1))], loss=nn.functional.mse_loss)
    >>> found.values, found.samples
    ({'loss': 1.0}, 2)
    """
    objective = objective_of(loss, metric, output=output, class_axis=class_axis)
    if not isinstance(model, nn.Module):
        model, objective = _OfPredictor(model), objective.of_logits()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    check_calibrated(model)
    _distributed.check_equal(model.parameters(), "weights")
    count = Count(device)
    whole = as_split(split, read)
    given = whole.batches(batch_size, rank=_distributed.rank(), world=_distributed.world_size())
    total = None if label is None else whole.num_batches(batch_size)
    with in_evaluation(model), progress_bar(label or "", total, quiet=label is None, brief=True) as advance:
        for x, y in watched(given, advance, lambda _: 1):
            samples = _batch.samples(x)
            if not samples:
                continue
            y = _batch.move(y, device)
            objective = objective.settled(y)
            outputs = _batch.call(model, _batch.move(x, device, channels_last=channels_last))
            count.add(objective, outputs, y, samples)
    return count.metrics(objective)


class _OfPredictor(nn.Module):
    """A Predictor where a network stands: it gets what the network reads."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        if named or len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise MixbitError(f"{self.predictor.name} takes one tensor, got {_batch.describe(named or inputs)}.")
        return self.predictor.logits(self.predictor.space.leave(inputs[0]))


@torch.no_grad()
def try_out(model: nn.Module, split: Split, objective: Objective, *, label_smoothing: float = 0.0) -> None:
    """Loss and metrics once on a few samples, so that a mistake in them ends here, and not after an epoch.

    The model is in eval mode meanwhile; its buffers, and torch's generators, are as they were afterwards. Of so few
    samples a metric may be not finite, or not to be computed, where it is of all: that is no mistake yet.

    Args:
        model: calibrated, if it is quantized.
        split: what will be evaluated on.
        objective: loss and metrics.
        label_smoothing: what the training will ask the loss for.

    Raises:
        MixbitError: the loss or a metric fails, or gives something else than a number.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with in_evaluation(model), _buffers_kept(model), torch.random.fork_rng(range(torch.cuda.device_count())):
        x, y = _batch.first_samples(split.batches(_TRIAL), _TRIAL)
        y = _batch.move(y, device)
        outputs = _batch.call(model, _batch.move(x, device))
        objective = objective.settled(y)
        with _blamed(f"the loss {objective.loss.name!r}", outputs, y):
            objective.loss(outputs, y, label_smoothing)
        chosen = objective.chosen(outputs)
        for metric in objective.metrics or ():
            tally = metric.tally(device)
            with _blamed(f"metric {metric.name!r}", chosen, y), suppress(ArithmeticError, ValueError):
                tally.add(chosen, y, _batch.samples(x))
                tally.result(whole=False)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, then in before:
            buffer.copy_(then)


@contextmanager
def _blamed(what: str, outputs: Any, targets: Any) -> Iterator[None]:
    try:
        yield
    except MixbitError:
        raise
    except Exception as error:
        raise MixbitError(
            f"{what} failed on outputs {_batch.describe(outputs)} and targets {_batch.describe(targets)}: "
            f"{type(error).__name__}: {error}. Legal: (outputs, targets) -> one number; say which output it is by "
            "output=, and make targets fit in read=."
        ) from error


class Count:
    """Sums of one evaluation: the loss, the samples, and the metrics' own.

    Args:
        device: where the outputs are.
    """

    def __init__(self, device: torch.device) -> None:
        # Apple's accelerator has no float64; there the sums are kept on the CPU.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.tallies: list[Tally] | None = None

    def add(self, objective: Objective, outputs: Any, targets: Any, samples: int) -> None:
        """Count what a batch of outputs adds."""
        loss = objective.loss(outputs, targets).detach().to(self.totals)
        weight = objective.loss.weight(targets, samples)
        if weight:  # a mean over nothing is NaN
            self.totals += torch.stack([loss * weight, torch.full_like(loss, weight), torch.full_like(loss, samples)])
        else:
            self.totals[2] += samples
        chosen = objective.chosen(outputs)
        for tally in self._started(objective):
            tally.add(chosen, targets, samples)

    def metrics(self, objective: Objective) -> Metrics:
        """Loss and metrics of what all processes have counted together."""
        _distributed.sum_([self.totals, *(tally.sums for tally in self._started(objective))])
        return self.local(objective)

    def local(self, objective: Objective) -> Metrics:
        """Loss and metrics of what this process has counted.

        Raises:
            MixbitError: nothing was added, or the result is no finite number.
        """
        tallies = self._started(objective)
        summed, weight, samples = self.totals.tolist()
        if not samples:
            raise MixbitError("the split to evaluate on is empty. Give a data set with at least one sample.")
        if not weight or math.isnan(summed):
            # Of outputs that are NaN, a highest score can still be told: the first.
            raise MixbitError(
                "the loss of the evaluation is nan. Check the outputs and the data for NaN, and that there is a target "
                "that is not ignored."
            )
        names = [metric.name for metric in objective.metrics or ()]
        values = dict(zip(names, (tally.result() for tally in tallies), strict=True))
        loss = summed / weight
        return Metrics(values=values or {LOSS.name: loss}, loss=loss, samples=int(samples), info=objective.info)

    def _started(self, objective: Objective) -> list[Tally]:
        if self.tallies is None:
            self.tallies = [metric.tally(self.device) for metric in objective.metrics or ()]
        return self.tallies


def lay_out_channels_last(model: nn.Module) -> None:
    """Put weights of four dimensions, those of 2-d convolutions, into the memory layout of images."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics by the plain mean over `batches` (inputs, see `mixbit.data.Batch`).

    Batch norm runs in training mode, everything else in eval mode; momenta and modes are put back. Low-bit weights
    move the statistics by so much that the exponential average of training lags behind. Norms that the user froze (in
    evaluation mode while the model is in training mode), and those that no batch reaches (of a head that is there in
    training alone, say), keep their statistics. Of norms with a row a bit-width those in use are made anew.

    The same holds for quantizers with statistics, `mixbit.quantizers.BatchQuant`: in the same pass, they take the range
    of each batch, and their frozen ranges become the mean by samples.

    Raises:
        MixbitError: there are no batches, or statistics of quantizers cannot come from these.
    """
    parts = list(_anew(model))
    if not parts:
        return
    seen = 0
    with in_evaluation(model), ExitStack() as stack:
        for part in reversed(parts):  # left in their order: the first one speaks
            stack.enter_context(part)
        for seen, x in enumerate(batches, start=1):  # noqa: B007
            _batch.call(model, x)
    if not seen:
        raise MixbitError("there are no batches to make batch-norm statistics from. Give at least one batch of inputs.")
    average_batch_norm(model)


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Full name -> what `reestimate_batch_norm` makes anew, of norms and of quantizers; the model's own tensors.

    >>> list(statistics_of(nn.Sequential(nn.BatchNorm1d(2))))
    ['0.running_mean', '0.running_var', '0.num_batches_tracked']
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        names: tuple[str, ...] = ()
        if isinstance(module, _BatchNorm):
            names = ("running_mean", "running_var", "num_batches_tracked")
        elif isinstance(module, Quantizer):
            names = module.statistics
        own = {f"{path}.{name}".removeprefix("."): getattr(module, name) for name in names}
        found |= {name: tensor.detach() for name, tensor in own.items() if tensor is not None}
    return found


def _anew(model: nn.Module) -> Iterator[AbstractContextManager[None]]:
    """For each part with statistics that the user did not freeze: inside, they are made anew of what runs."""
    for name, module in model.named_modules():
        if is_frozen(model, module):
            continue
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield _norm_anew(module)
        elif isinstance(module, Quantizer) and module.statistics:
            yield module.statistics_anew(name)


@contextmanager
def _norm_anew(norm: _BatchNorm) -> Iterator[None]:
    """In training mode, from nothing, each batch counting alike; the mode is the caller's to put back."""
    momentum = norm.momentum
    before = [None if b is None else b.clone() for b in _statistics(norm)]
    norm.reset_running_stats()
    norm.momentum = None
    norm.train()
    try:
        yield
    finally:
        norm.momentum = momentum
        _put_back(norm, before)


def _statistics(norm: _BatchNorm) -> list[Tensor | None]:
    return [norm.running_mean, norm.running_var, norm.num_batches_tracked]


def _put_back(norm: _BatchNorm, before: list[Tensor | None]) -> None:
    """What no batch reached: a norm, or rows of one that has a row a bit-width, of which some alone are in use."""
    assert norm.num_batches_tracked is not None
    unreached = norm.num_batches_tracked == 0
    for now, then in zip(_statistics(norm), before, strict=True):
        if now is not None and then is not None:
            one_each = (*unreached.shape, *[1] * (now.dim() - unreached.dim()))
            now.copy_(torch.where(unreached.reshape(one_each), then, now))


def average_batch_norm(model: nn.Module) -> None:
    """Make the running statistics of all ranks equal to their mean."""
    _distributed.mean_(b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
