"""Regression on a table: mean squared error as the loss, mean absolute error in euros as the metric.

mixbit train examples/regression.py:task --run runs/regression --epochs 20
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

import mixbit

FEATURES = 13


def rents(count: int, seed: int) -> TensorDataset:
    """Normalised features `(13,)`, and a rent in hundreds of euros `(1,)` that depends on them with a bend."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=random)
    slopes = torch.linspace(-1, 1, FEATURES)
    rent = 8 + x @ slopes + 2 * torch.relu(x[:, 0] + x[:, 1]) + torch.randn(count, generator=random) / 10
    return TensorDataset(x, rent[:, None])


def task() -> mixbit.Task:
    model = nn.Sequential(
        nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    return mixbit.Task(
        model=model,
        train=rents(512, seed=0),
        test=rents(128, seed=1),
        loss=nn.functional.mse_loss,
        metric=mixbit.metric.mean_absolute_error(unit="x 100 EUR"),
    )
