"""The settings of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

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

__all__ = ["TrainConfig"]


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
        bn_samples: training samples from which batch-norm statistics, and ranges of BatchQuant, are made anew before
            evaluation; 0 for none.
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
