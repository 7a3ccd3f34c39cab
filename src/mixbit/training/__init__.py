"""The one training loop, and what a step of it may bring along."""

from mixbit.training.config import TrainConfig
from mixbit.training.distillation import distilled_loss
from mixbit.training.loop import CHECKPOINT, METRICS, TrainResult, train
from mixbit.training.monitor import Monitor
from mixbit.training.step import Step, StepContext, supervised_step

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "Monitor",
    "Step",
    "StepContext",
    "TrainConfig",
    "TrainResult",
    "distilled_loss",
    "supervised_step",
    "train",
]
