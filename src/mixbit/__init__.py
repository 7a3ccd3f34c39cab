"""mixbit: mixed-precision quantization of neural networks under hard budgets.

task = mixbit.Task(model=model, train=data.train, test=data.test)
scores = mixbit.methods.make("limpq").search(task)
policy, proof = mixbit.allocate(task.network, scores, mixbit.Budget.parse(["bitops=3x3"]))
mixbit.quantize(model, policy, task.network)
"""

from __future__ import annotations

from mixbit import data, methods, metric, models
from mixbit._version import __version__
from mixbit.allocation import Allocation, AllocationSettings, allocate
from mixbit.cost import Budget, Costs, LayerBits, costs
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics, evaluate
from mixbit.network import Network, capture
from mixbit.policy import Front, Policy, Scores, resolve_pins
from mixbit.quantization import QuantizeConfig, calibrate, detach, freeze, quantize
from mixbit.supernet import select
from mixbit.task import Task
from mixbit.training import TrainConfig, train

__all__ = [
    "Allocation",
    "AllocationSettings",
    "Budget",
    "Costs",
    "Front",
    "LayerBits",
    "Metrics",
    "MixbitError",
    "Network",
    "Policy",
    "QuantizeConfig",
    "Scores",
    "Task",
    "TrainConfig",
    "__version__",
    "allocate",
    "calibrate",
    "capture",
    "costs",
    "data",
    "detach",
    "evaluate",
    "freeze",
    "methods",
    "metric",
    "models",
    "quantize",
    "resolve_pins",
    "select",
    "train",
]
