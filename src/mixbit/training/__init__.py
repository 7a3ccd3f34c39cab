"""The one training loop, and what a step of it may bring along."""

from mixbit.training.loop import (
    CHECKPOINT,
    METRICS,
    Monitor,
    Step,
    StepContext,
    TrainConfig,
    TrainResult,
    distilled_loss,
    supervised_step,
    train,
)

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
