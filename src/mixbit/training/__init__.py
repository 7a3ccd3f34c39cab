"""The one training loop, and what a step of it may bring along."""

from mixbit.training.config import TrainConfig
from mixbit.training.distillation import distilled_loss
from mixbit.training.groups import ParameterGroup
from mixbit.training.kure import KurtosisConfig, KurtosisPenalty
from mixbit.training.kurtosis import kurtosis_gradient, kurtosis_loss
from mixbit.training.loop import CHECKPOINT, METRICS, TrainResult, statistics_batches, train
from mixbit.training.monitor import Monitor
from mixbit.training.noise import NoiseConfig, NoiseStep, consistency, noise_step, soft_radius
from mixbit.training.step import StatefulStep, Step, StepContext, supervised_step
from mixbit.training.stopping import KurtosisMonitor, monitored, regularised

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "KurtosisConfig",
    "KurtosisMonitor",
    "KurtosisPenalty",
    "Monitor",
    "NoiseConfig",
    "NoiseStep",
    "ParameterGroup",
    "StatefulStep",
    "Step",
    "StepContext",
    "TrainConfig",
    "TrainResult",
    "consistency",
    "distilled_loss",
    "kurtosis_gradient",
    "kurtosis_loss",
    "monitored",
    "noise_step",
    "regularised",
    "soft_radius",
    "statistics_batches",
    "supervised_step",
    "train",
]
