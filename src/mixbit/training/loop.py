"""The one training loop: fine-tuning of quantized networks, of float ones, and the joint training of search methods."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixbit import _batch, _distributed, _io
from mixbit._modes import start_training
from mixbit._progress import progress_bar
from mixbit.data import Read, Split, as_split
from mixbit.errors import MixbitError, TrainingDiverged
from mixbit.evaluation import (
    Metrics,
    average_batch_norm,
    evaluate,
    lay_out_channels_last,
    reestimate_batch_norm,
    try_out,
)
from mixbit.metric import MetricInfo, MetricLike
from mixbit.quantization import check_calibrated, quantizers
from mixbit.quantizers import PositiveSteps
from mixbit.task import Distill, Loss, Objective, Output, Penalty, cross_entropy, objective_of
from mixbit.training import _checkpoint
from mixbit.training._average import Average
from mixbit.training._brought import Brought
from mixbit.training._finite import first_not_finite
from mixbit.training._gradients import Gradients
from mixbit.training._optim import make_optimizer, set_rates
from mixbit.training._passes import TrainingLoss, make_forward
from mixbit.training.config import TrainConfig
from mixbit.training.monitor import Monitor
from mixbit.training.step import Step, StepContext, supervised_step

__all__ = ["CHECKPOINT", "METRICS", "TrainResult", "statistics_batches", "train"]

CHECKPOINT = "checkpoint.safetensors"
"""File of a run's folder: all that a training goes on from."""
METRICS = "metrics.jsonl"
"""File of a run's folder: one line an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a finished training reports: metrics of the last epoch on the test split, and the history."""

    metrics: Metrics | None
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    model: nn.Module,
    train_split: object,
    test_split: object | None,
    config: TrainConfig,
    *,
    run: Path | None = None,
    teacher: nn.Module | None = None,
    loss: Loss | Objective = cross_entropy,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    read: Read | None = None,
    output: Output | None = None,
    class_axis: int | None = None,
    distill: Distill | None = None,
    step: Step = supervised_step,
    penalty: Penalty | None = None,
    monitor: Monitor | None = None,
    quiet: bool = False,
    label: str = "train",
) -> TrainResult:
    """Train `model` in place; with a run folder, a killed run goes on where it was and ends with the same numbers.

    Args:
        model: float or quantized (calibrated) network.
        train_split: a split, or a Dataset, a DataLoader or a list of batches; see `mixbit.data.as_split`.
        test_split: the same; evaluated after epochs as the config says; None for none.
        config: settings.
        run: folder for `checkpoint.safetensors` and `metrics.jsonl`.
        teacher: the float network, where `config.distill` is above 0.
        loss: see `mixbit.task.Loss`; or a task's `objective`, which brings its metrics and rules along.
        metric, read, output, class_axis, distill: see `mixbit.Task`.
        step: how gradients of one batch are made; a `StatefulStep` brings parameters and state of its own.
        penalty: a term on the weights, added to the loss of every step.
        monitor: looks at the model between epochs.
        quiet: no progress bar.
        label: what the progress bar calls this training.

    Raises:
        MixbitError: a loss that does not depend on the parameters.
        MixbitError: quantizers that were never calibrated, or whose ranges would be of weights that are gone.
        TrainingDiverged: the loss became NaN or infinite; the last checkpoint is kept.
        MixbitError: a step brings a parameter that the model has, or one twice.
        StaleRun: the run folder was begun with other settings, or another step.
    """
    check_calibrated(model)
    _distributed.start()
    objective = objective_of(loss, metric, output=output, class_axis=class_axis, distill=distill)
    first, second = as_split(train_split, read), None if test_split is None else as_split(test_split, read)
    if second is not None:
        _check_ranges(model, config)
        try_out(model, second, objective, label_smoothing=config.label_smoothing)
    loop = _Loop(model, first, second, config, run, teacher, objective, step, penalty, monitor, quiet, label)
    return loop.run()


def _check_ranges(model: nn.Module, config: TrainConfig) -> None:
    """That ranges of quantizers which training does not move are made before they are evaluated."""
    found = _ranged(model)
    if found and not config.bn_samples:
        raise MixbitError(
            f"bn_samples=0, and {len(found)} quantizers have ranges that are made from as many training samples before "
            f"each evaluation ({found[0]}). Give bn_samples=6000, the default, or leave the test split out."
        )


def _ranged(model: nn.Module) -> list[str]:
    return [name for name, bank in quantizers(model).items() if bank.statistics]


def _batches(split: Split, config: TrainConfig, epoch: int, start: int) -> Iterator[tuple[Any, Any]]:
    """This process's part of an epoch."""
    yield from split.batches(
        config.batch_size, epoch=epoch, seed=config.seed, shuffle=True, augment=config.augment, start=start,
        drop_last=True, rank=_distributed.rank(), world=_distributed.world_size(), fraction=config.fraction,
    )  # fmt: skip


def statistics_batches(split: Split, config: TrainConfig, device: torch.device) -> Iterator[Any]:
    """Inputs of the first `bn_samples` samples of a training, from which it makes statistics before evaluations."""
    count = -(-config.bn_samples // config.batch_size)
    for (x, _), _ in zip(_batches(split, config, 0, 0), range(count), strict=False):
        yield _batch.move(x, device, channels_last=config.channels_last)


class _Loop:
    """The state of one training run."""

    def __init__(
        self,
        model: nn.Module,
        train_split: Split,
        test_split: Split | None,
        config: TrainConfig,
        folder: Path | None,
        teacher: nn.Module | None,
        objective: Objective,
        step: Step,
        penalty: Penalty | None,
        monitor: Monitor | None,
        quiet: bool,
        label: str,
    ) -> None:
        self.model, self.train_split, self.test_split, self.config = model, train_split, test_split, config
        self.folder, self.objective, self.step, self.quiet, self.label = folder, objective, step, quiet, label
        self.penalty, self.monitor = penalty, monitor
        self.device = next(model.parameters()).device
        self.loss = TrainingLoss(objective, config, teacher, self.device)
        if config.channels_last:
            lay_out_channels_last(model)
        self.optimizer = make_optimizer(
            model,
            name=config.optimizer,
            lr=config.lr,
            step_lr=config.lr if config.step_lr is None else config.step_lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.guard = PositiveSteps(model, self.optimizer)
        self.per_epoch = train_split.num_batches(config.batch_size, drop_last=True, fraction=config.fraction)
        if not self.per_epoch:
            raise MixbitError(
                f"batch_size={config.batch_size} is larger than the training split ({len(train_split)} samples, "
                f"fraction {config.fraction}). Legal: at most the number of samples (--batch-size)."
            )
        moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.brought = Brought(step, model, self.device)
        self.gradients = Gradients(moved, list(self.brought.parameters.values()), config, objective)
        self.epoch, self.batch, self.history = 0, 0, list[dict[str, Any]]()
        self.saved = 0.0
        self.ended = False
        self.average: Average | None = None
        self.context = StepContext(
            model=model,
            loss=self.loss,
            forward=make_forward(model, config, self.device),
            total=config.epochs * self.per_epoch,
            seed=config.seed,
            mean=self.gradients.mean,
        )

    # -- one run -------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        # The caller's generators go on afterwards as if nothing had been drawn here.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            return self._run()

    def _run(self) -> TrainResult:
        torch.manual_seed(self.config.seed)
        for module, what in ((self.model, "parameters and buffers"), (self.loss.teacher, "weights of the teacher")):
            if module is not None:
                _distributed.take_from_first_([*module.parameters(), *module.buffers()], what)
        self.brought.begin()
        if self.config.ema is not None:
            self.average = Average(self.model, self.config.ema, self.brought.averaged)
        self._resume()
        total, done = self.context.total, self.epoch * self.per_epoch + self.batch
        with progress_bar(self.label, total, done=done, quiet=self.quiet) as advance:
            while self.epoch < self.config.epochs and not self.ended:
                self._run_epoch(advance)
        told = self.guard.told(total) if _distributed.rank() == 0 else None
        if told is not None:
            warnings.warn(told, stacklevel=4)
        metrics = (
            Metrics.from_json(self.history[-1]["test"], self._info())
            if self.history and "test" in self.history[-1]
            else None
        )
        return TrainResult(metrics=metrics, history=self.history)

    def _info(self) -> MetricInfo | None:
        """Of the metric; None where it follows from targets that only an evaluation sees."""
        return None if self.objective.metrics is None else self.objective.info

    def _run_epoch(self, advance: Callable[[int, str], None]) -> None:
        began = self.saved = time.perf_counter()
        start_training(self.model)
        self._set_clock()
        if not self.batch:
            self.brought.begin_epoch(self.context)
        for x, y in _batches(self.train_split, self.config, self.epoch, self.batch):
            loss, due = self._take_step(x, y)
            self.batch += 1
            advance(1, f"epoch {self.epoch + 1}/{self.config.epochs}  loss {loss:.3f}")
            if due and self.batch < self.per_epoch:
                self._check_parameters()
                self._save()
                self.saved = time.perf_counter()
        self._end_epoch(time.perf_counter() - began)

    def _take_step(self, x: Any, y: Any) -> tuple[float, bool]:
        """The loss over all processes, and whether a checkpoint is due."""
        x, y = _batch.move(x, self.device, channels_last=self.config.channels_last), _batch.move(y, self.device)
        self._set_clock()
        self._set_rates()
        self.optimizer.zero_grad(set_to_none=True)
        self.brought.zero_grad()
        loss = self.gradients.weigh(self.step(self.context, x, y), y)
        if self.penalty is not None:
            loss = loss + self.penalty(self.model, self.context.number / self.per_epoch)
        value, due = self.gradients.share(loss, time.perf_counter() - self.saved > self.config.checkpoint_seconds)
        self._check_finite(value, x)
        self.gradients.finish()
        self.optimizer.step()
        self.brought.update()
        if self.average is not None:
            self.average.update(self.model, self.context.number)
        return value, due

    def _set_clock(self) -> None:
        self.context.number, self.context.epoch = self.epoch * self.per_epoch + self.batch, self.epoch

    def _set_rates(self) -> None:
        epochs = self.config.epochs
        if self.config.schedule == "step":
            progress, held = self.context.number / (epochs * self.per_epoch), 0.0
        else:
            progress, held = self.epoch / epochs, 1 / epochs
        warmup = self.config.warmup_epochs / epochs
        curve = partial(set_rates, progress=progress, floor=self.config.final_lr, warmup=warmup, held=held)
        curve(self.optimizer)
        self.brought.set_rates(curve)

    def _check_finite(self, loss: float, x: Any) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"loss={loss}, {first_not_finite(self.model, x)}")

    def _check_parameters(self) -> None:
        """Before each checkpoint: a finite loss does not promise finite gradients, and quantizers clip infinity
        away.
        """
        for name, parameter in (*self.model.named_parameters(), *self.brought.parameters.items()):
            if not torch.isfinite(parameter).all():
                raise self._diverged(f"parameter {name!r} is not finite")

    def _diverged(self, what: str) -> TrainingDiverged:
        kept = "no checkpoint was written yet"
        if self.folder is not None and (self.folder / CHECKPOINT).exists():
            kept = f"the last good checkpoint is {self.folder / CHECKPOINT}"
        return TrainingDiverged(
            f"training diverged in epoch {self.epoch + 1}, at batch {self.batch + 1}: {what}; {kept}. "
            f"Lower lr (now {self.config.lr}), set clip_value, or check the data for NaN."
        )

    # -- ends of epochs and resuming -----------------------------------------------------------------------------

    def _end_epoch(self, seconds: float) -> None:
        self._check_parameters()
        self.epoch, self.batch = self.epoch + 1, 0
        average_batch_norm(self.model)
        record: dict[str, Any] = {"epoch": self.epoch, "seconds": round(seconds, 3)}
        self.brought.end_epoch(self.context, record)
        if self.average is not None:
            # What is saved at the end is what every epoch is judged by.
            self.average.put_into(self.model)
            average_batch_norm(self.model)  # of which each rank has averaged its own statistics
        if self.monitor is not None:
            ended = self.monitor.after_epoch(self.model, record, self.history)
            self.ended = _distributed.first_decides(bool(ended))
            record |= {"ended": True} if self.ended else {}
        last, every = self.ended or self.epoch == self.config.epochs, self.config.validate_every
        if last and self.monitor is not None:
            self.monitor.at_end(self.model)
        if self.test_split is not None and (last or (every and self.epoch % every == 0)):
            record["test"] = self._validate(self.test_split).to_json()
        elif last and _ranged(self.model):  # what is saved has no ranges of weights that are gone
            self._make_statistics()
        if self.average is not None and not last:
            self.average.take_out(self.model)
        self.history.append(record)
        self._save()

    def _validate(self, split: Split) -> Metrics:
        c = self.config
        self._make_statistics()
        return evaluate(
            self.model, split, batch_size=2 * c.batch_size, loss=self.objective, channels_last=c.channels_last
        )

    def _make_statistics(self) -> None:
        if self.config.bn_samples:
            reestimate_batch_norm(self.model, statistics_batches(self.train_split, self.config, self.device))

    def _settings(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self.config).items() if k not in ("checkpoint_seconds", "validate_every")}

    def _save(self) -> None:
        self.brought.check_alike()
        _distributed.barrier()
        if self.folder is None or _distributed.rank() != 0:
            return
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= _checkpoint.optimizer_tensors(self.optimizer) | _checkpoint.random_state(self.device)
        brought, facts = self.brought.kept()
        tensors |= brought
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.shadow.items()}
        facts |= {"epoch": self.epoch, "batch": self.batch, "history": self.history, "settings": self._settings()}
        _checkpoint.write(self.folder / CHECKPOINT, tensors, facts)
        _io.write_text(self.folder / METRICS, "".join(json.dumps(r) + "\n" for r in self.history))

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not _distributed.first_decides(path.exists()):
            return
        if not _distributed.all_say(path.exists()):
            raise MixbitError(f"{path} is not there for every process. Put the run folder where all of them read it.")
        tensors, place = _checkpoint.read(path, self._settings(), epochs=self.config.epochs, per_epoch=self.per_epoch)
        _checkpoint.check_same(path, place.step, json.loads(json.dumps(self.brought.settings())))
        with _checkpoint.fitting(path):
            _checkpoint.restore_model(self.model, tensors)
            _checkpoint.restore_optimizer(self.optimizer, tensors)
            self.brought.restore(tensors, place.state)
            if self.average is not None:
                self.average.restore({k[8:]: v for k, v in tensors.items() if k.startswith("average/")})
            _checkpoint.restore_random_state(tensors, self.device)
        self.epoch, self.batch, self.history = place.epoch, place.batch, place.history
        self.ended = bool(self.history and self.history[-1].get("ended"))
