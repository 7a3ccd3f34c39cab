"""The one training loop: fine-tuning of quantized networks, of float ones, and the joint training of search methods."""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from mixbit import _batch, _checkpoint, _distributed, _io
from mixbit._modes import start_training
from mixbit._progress import progress_bar
from mixbit._settings import (
    LARGEST_COUNT,
    LARGEST_EPOCHS,
    Count,
    Epochs,
    NotNegative,
    Part,
    Positive,
    Range,
    Seed,
    Share,
    check,
    read,
)
from mixbit.data import Read, Split, as_split
from mixbit.data.order import part_of
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
from mixbit.quantization import check_calibrated
from mixbit.quantizers import PositiveSteps, fuse_under_compile
from mixbit.task import Distill, Loss, Objective, Output, Penalty, cross_entropy, divergence, objective_of
from mixbit.training._average import Average
from mixbit.training._finite import first_not_finite
from mixbit.training._optim import make_optimizer, set_rates

__all__ = ["Monitor", "Step", "StepContext", "TrainConfig", "TrainResult", "distilled_loss", "supervised_step", "train"]

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples of one optimizer step, over all processes together.
        optimizer: "sgd" (Nesterov) or "adamw".
        lr: peak learning rate of weights, batch norm and biases.
        step_lr: peak learning rate of step sizes; None takes `lr`. Under AdamW it is a part of each step size.
        momentum: of SGD.
        weight_decay: of weights with two dimensions and more; never of step sizes, batch norm and biases.
        warmup_epochs: linear warm-up at the start of the cosine; under schedule="epoch", an epoch's rate is that of
            its middle.
        final_lr: floor of the cosine, as a part of the peak.
        schedule: "step" moves the rate at every step, "epoch" only between epochs.
        label_smoothing: 0 to 1.
        distill: weight of the divergence from the teacher against the loss on labels, 0 to 1.
        temperature: of the distillation.
        clip_value: element-wise clip of summed gradients, or None.
        drop_zero_gradients: parameters whose whole gradient is 0 skip momentum and decay (LIMPQ's code).
        ema: decay of an exponential moving average of the weights and of batch norm's statistics, or None. The average
            is what is evaluated in every epoch, given to a monitor, and saved; at the start the decay is lower.
        bn_samples: training samples from which batch-norm statistics are made anew before evaluation; 0 for none.
        fraction: part of the training samples that is used, always the same part.
        augment: random crops and flips as the data set defines them.
        precision: "float32", or "bf16" autocast (quantizer arithmetic stays float32).
        channels_last: memory layout of images; faster on CPUs and on tensor cores.
        compile: compile the training step's model; worth it from about ten epochs on.
        seed: of data order, augmentation and random draws.
        checkpoint_seconds: time between checkpoints within an epoch; one is also written after every epoch.
        validate_every: epochs between evaluations (the last epoch is always evaluated); 0 for none but the last.
    """

    epochs: Epochs = 5
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    step_lr: Positive | None = None
    momentum: Annotated[float, Range(least=0, below=1)] = 0.9
    weight_decay: NotNegative = 1e-4
    warmup_epochs: NotNegative = 0.0
    final_lr: Share = 0.0
    schedule: Literal["step", "epoch"] = "step"
    label_smoothing: Share = 0.0
    distill: Share = 0.0
    temperature: Positive = 4.0
    clip_value: Positive | None = None
    drop_zero_gradients: bool = False
    ema: Annotated[float, Range(above=0, below=1)] | None = None
    bn_samples: Annotated[int, Range(least=0, most=LARGEST_COUNT)] = 6000
    fraction: Part = 1.0
    augment: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    seed: Seed = 0
    checkpoint_seconds: NotNegative = 60.0
    validate_every: Annotated[int, Range(least=0, most=LARGEST_EPOCHS)] = 1

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From JSON; an unknown key is an error that offers the nearest legal one.

        >>> TrainConfig.from_dict({"epochs": 2}).epochs
        2
        """
        return read(cls, values, room="training")


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What one training step may use; `loss` is the user's loss with smoothing and distillation already in it."""

    model: nn.Module
    loss: Callable[[Any, Any, Any], Tensor]
    """`(inputs, outputs, targets) -> scalar`."""
    forward: Callable[[Any], Any]
    """The model under the run's precision, compiled if asked for."""
    number: int = 0
    """Steps taken before this one, over all epochs."""
    seed: int = 0


class Step(Protocol):
    """Computes gradients for one batch (they may be the sum of several passes) and returns the loss to report."""

    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor: ...


class Monitor(Protocol):
    """Looks at the model between epochs, and may end a training early.

    Everything that it decides must follow from the model and the history, which a resumed run has; so the same run,
    killed or not, ends at the same epoch.
    """

    def after_epoch(self, model: nn.Module, record: dict[str, Any], history: list[dict[str, Any]]) -> bool:
        """Add facts to the epoch's `record`, which `history` does not hold yet; True ends the training."""
        ...

    def at_end(self, model: nn.Module) -> None:
        """Before the last evaluation: the model may be given other weights, such as the best ones seen."""
        ...


def supervised_step(context: StepContext, x: Any, y: Any) -> Tensor:
    """One forward and one backward pass."""
    loss = context.loss(x, context.forward(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def distilled_loss(
    outputs: Tensor,
    teacher: Tensor,
    hard: Tensor,
    *,
    weight: float,
    temperature: float,
    class_axis: int | None = None,
) -> Tensor:
    """`(1 - w) * hard + w * T^2 * KL(softmax(teacher / T) || softmax(outputs / T))` (Hinton et al. 2015).

    Args:
        outputs: logits `(N, classes)`; of more dimensions with `class_axis`, and then the mean over all positions.
        teacher: the float network's logits, the same shape.
        hard: the loss on labels, a scalar.
        weight: w.
        temperature: T.
        class_axis: where the classes are; needed but for `(N, classes)`.

    Raises:
        MixbitError: it is not told where the classes are.

    >>> same = torch.tensor([[1.0, 2.0]])
    >>> float(distilled_loss(same, same, torch.tensor(2.0), weight=0.5, temperature=4.0))
    1.0
    """
    if class_axis is None and outputs.dim() != 2:
        raise MixbitError(
            f"distillation of outputs {tuple(outputs.shape)}: it is not known which axis has the classes. Give "
            "class_axis=, e.g. 1 for (N, C, H, W) and 2 for (N, T, C)."
        )
    soft = divergence(outputs, teacher, 1 if class_axis is None else class_axis, temperature)
    return (1 - weight) * hard + weight * temperature**2 * soft


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
        step: how gradients of one batch are made.
        penalty: a term on the weights, added to the loss of every step.
        monitor: looks at the model between epochs.
        quiet: no progress bar.
        label: what the progress bar calls this training.

    Raises:
        MixbitError: a loss that does not depend on the parameters.
        MixbitError: quantizers that were never calibrated.
        TrainingDiverged: the loss became NaN or infinite; the last checkpoint is kept.
        StaleRun: the run folder was begun with other settings.
    """
    check_calibrated(model)
    _distributed.start()
    objective = objective_of(loss, metric, output=output, class_axis=class_axis, distill=distill)
    first, second = as_split(train_split, read), None if test_split is None else as_split(test_split, read)
    if second is not None:
        try_out(model, second, objective, label_smoothing=config.label_smoothing)
    loop = _Loop(model, first, second, config, run, teacher, objective, step, penalty, monitor, quiet, label)
    return loop.run()


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
        if config.distill and teacher is None:
            raise MixbitError(f"distill={config.distill} needs a teacher. Pass the float network, or distill=0.")
        self.model, self.train_split, self.test_split, self.config = model, train_split, test_split, config
        self.folder, self.objective, self.step, self.quiet, self.label = folder, objective, step, quiet, label
        self.penalty, self.monitor = penalty, monitor
        self.teacher = copy.deepcopy(teacher).eval() if teacher is not None and config.distill else None
        self.device = next(model.parameters()).device
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
        self.weight = _part_of_mean(config.batch_size)
        self.epoch, self.batch, self.history = 0, 0, list[dict[str, Any]]()
        self.saved = 0.0
        self.ended = False
        self.average = Average(model, config.ema) if config.ema else None
        self.context = StepContext(model=model, loss=self._loss, forward=self._forward(), seed=config.seed)

    # -- one run -------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        # The caller's generators go on afterwards as if nothing had been drawn here.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            return self._run()

    def _run(self) -> TrainResult:
        torch.manual_seed(self.config.seed)
        for module, what in ((self.model, "parameters and buffers"), (self.teacher, "weights of the teacher")):
            if module is not None:
                _distributed.take_from_first_([*module.parameters(), *module.buffers()], what)
        self._resume()
        total, done = self.config.epochs * self.per_epoch, self.epoch * self.per_epoch + self.batch
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
        for x, y in self._batches(self.epoch, self.batch):
            loss, due = self._take_step(x, y)
            self.batch += 1
            advance(1, f"epoch {self.epoch + 1}/{self.config.epochs}  loss {loss:.3f}")
            if due and self.batch < self.per_epoch:
                self._check_parameters()
                self._save()
                self.saved = time.perf_counter()
        self._end_epoch(time.perf_counter() - began)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Any, Any]]:
        c = self.config
        yield from self.train_split.batches(
            c.batch_size, epoch=epoch, seed=c.seed, shuffle=True, augment=c.augment, start=start, drop_last=True,
            rank=_distributed.rank(), world=_distributed.world_size(), fraction=c.fraction,
        )  # fmt: skip

    def _take_step(self, x: Any, y: Any) -> tuple[float, bool]:
        """The loss over all processes, and whether a checkpoint is due."""
        x, y = _batch.move(x, self.device, channels_last=self.config.channels_last), _batch.move(y, self.device)
        self.context.number = self.epoch * self.per_epoch + self.batch
        self._set_rates()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._weighed(self.step(self.context, x, y), y)
        if self.penalty is not None:
            loss = loss + self.penalty(self.model, self.context.number / self.per_epoch)
        value, due = self._share(loss)
        self._check_finite(value, x)
        self._finish_gradients()
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.context.number)
        return value, due

    def _weighed(self, loss: Tensor, y: Any) -> Tensor:
        """The mean over this rank's part of the batch counts by the targets that it is a mean of."""
        weight = self._weight_of(y)
        if weight == 1:
            return loss
        for parameter in self._parameters():
            if parameter.grad is not None:  # a mean of nothing is NaN, which no factor makes nothing
                parameter.grad.mul_(weight) if weight else parameter.grad.zero_()
        return loss * weight if weight else torch.zeros_like(loss)

    def _weight_of(self, y: Any) -> float:
        """Samples, or, where the loss ignores some targets, those that count: then the ranks ask each other."""
        counts = self.objective.loss
        if counts.ignore_index is None or not _distributed.is_active():
            return self.weight
        world = _distributed.world_size()
        samples = self.weight * self.config.batch_size / world
        mine = float(counts.weight(y, round(samples)))
        total = torch.tensor([mine], dtype=torch.float64)
        _distributed.sum_([total])
        return mine * world / total.item() if total.item() else 1.0

    def _share(self, loss: Tensor) -> tuple[float, bool]:
        """Mean gradients and loss over all ranks, and rank 0's word on whether a checkpoint is due, in one message."""
        due = time.perf_counter() - self.saved > self.config.checkpoint_seconds
        if not _distributed.is_active():
            return float(loss), due
        riders = torch.stack([loss.float(), loss.new_tensor(float(due and _distributed.rank() == 0)).float()])
        _distributed.mean_gradients_(self._parameters(), riders)
        mean, share = riders.tolist()
        return mean, share > 0

    def _parameters(self) -> list[nn.Parameter]:
        return [p for g in self.optimizer.param_groups for p in g["params"]]

    def _set_rates(self) -> None:
        epochs = self.config.epochs
        if self.config.schedule == "step":
            progress, held = self.context.number / (epochs * self.per_epoch), 0.0
        else:
            progress, held = self.epoch / epochs, 1 / epochs
        warmup = self.config.warmup_epochs / epochs
        set_rates(self.optimizer, progress, floor=self.config.final_lr, warmup=warmup, held=held)

    def _finish_gradients(self) -> None:
        parameters = [p for p in self._parameters() if p.grad is not None]
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.config.clip_value)
        if self.config.drop_zero_gradients:
            for parameter in parameters:
                if parameter.grad is not None and not parameter.grad.any():
                    parameter.grad = None

    # -- model and loss ------------------------------------------------------------------------------------------

    def _forward(self) -> Callable[[Any], Any]:
        inner: Callable[..., Any] = self.model
        if self.config.compile:
            fuse_under_compile()
            inner = torch.compile(self.model)
        if self.config.precision == "float32":
            return lambda x: _batch.call(inner, x)
        if _bf16_is_slow(self.device):
            has = torch.backends.cpu.get_cpu_capability()
            warnings.warn(
                f"precision='bf16', but this processor ({has}) has no bf16 arithmetic and emulates it: steps "
                "take far longer than in float32. Set precision='float32'.",
                stacklevel=4,
            )

        def autocast(x: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16):
                return _batch.call(inner, x)

        return autocast

    def _loss(self, x: Any, outputs: Any, y: Any) -> Tensor:
        c = self.config
        hard = self.objective.loss(outputs, y, c.label_smoothing)
        if not hard.requires_grad:
            raise MixbitError(
                f"the loss {self.objective.loss.name!r} does not depend on the parameters: it has no gradient. "
                "Compute it from the outputs by operations of torch, without detach(), item() or argmax()."
            )
        if self.teacher is None:
            return hard
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, c.precision == "bf16"):
            soft = _batch.call(self.teacher, x)
        return self.objective.distilled(outputs, soft, y, hard, weight=c.distill, temperature=c.temperature)

    def _check_finite(self, loss: float, x: Any) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"loss={loss}, {first_not_finite(self.model, x)}")

    def _check_parameters(self) -> None:
        """Before each checkpoint: a finite loss does not promise finite gradients, and quantizers clip infinity
        away.
        """
        for name, parameter in self.model.named_parameters():
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
        if self.average is not None and not last:
            self.average.take_out(self.model)
        self.history.append(record)
        self._save()

    def _validate(self, split: Split) -> Metrics:
        c = self.config
        if c.bn_samples:
            count = -(-c.bn_samples // c.batch_size)
            first = (x for (x, _), _ in zip(self._batches(0, 0), range(count), strict=False))
            moved = (_batch.move(x, self.device, channels_last=c.channels_last) for x in first)
            reestimate_batch_norm(self.model, moved)
        return evaluate(
            self.model, split, batch_size=2 * c.batch_size, loss=self.objective, channels_last=c.channels_last
        )

    def _settings(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self.config).items() if k not in ("checkpoint_seconds", "validate_every")}

    def _save(self) -> None:
        _distributed.barrier()
        if self.folder is None or _distributed.rank() != 0:
            return
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= _checkpoint.optimizer_tensors(self.optimizer) | _checkpoint.random_state(self.device)
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.shadow.items()}
        facts = {"epoch": self.epoch, "batch": self.batch, "history": self.history, "settings": self._settings()}
        _checkpoint.write(self.folder / CHECKPOINT, tensors, facts)
        _io.write_text(self.folder / METRICS, "".join(json.dumps(r) + "\n" for r in self.history))

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT if self.folder is not None else None
        if path is None or not _distributed.first_decides(path.exists()):
            return
        if not _distributed.all_say(path.exists()):
            raise MixbitError(f"{path} is not there for every process. Put the run folder where all of them read it.")
        tensors, place = _checkpoint.read(path, self._settings(), epochs=self.config.epochs, per_epoch=self.per_epoch)
        with _checkpoint.fitting(path):
            _checkpoint.restore_model(self.model, tensors)
            _checkpoint.restore_optimizer(self.optimizer, tensors)
            if self.average is not None:
                self.average.restore({k[8:]: v for k, v in tensors.items() if k.startswith("average/")})
            _checkpoint.restore_random_state(tensors, self.device)
        self.epoch, self.batch, self.history = place.epoch, place.batch, place.history
        self.ended = bool(self.history and self.history[-1].get("ended"))


def _part_of_mean(batch_size: int) -> float:
    """What this rank's mean over its part of a batch counts in the mean of all ranks: 1 where all have as many."""
    rank, world = _distributed.rank(), _distributed.world_size()
    if batch_size < world:
        raise MixbitError(
            f"batch_size={batch_size} is that of all {world} processes together. Legal: at least one sample each."
        )
    part = part_of(batch_size, rank, world)
    samples: int = part.stop - part.start
    return samples * world / batch_size


def _bf16_is_slow(device: torch.device) -> bool:
    """Whether bf16 is emulated: the numbers are the same, and every step takes longer than in float32."""
    known = device.type == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return known and not bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
