"""A float run on digits that the tests of this folder share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mixbit import runs
from mixbit.runs import Subject

SHORT = {"epochs": 1, "batch_size": 64, "lr": 0.05, "fraction": 0.3, "bn_samples": 256}
DIGITS = Subject(model="digits-resnet", data="digits")


@pytest.fixture(scope="session")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> runs.Trained:
    """A float network after a third of an epoch."""
    return runs.train(DIGITS, None, SHORT, tmp_path_factory.mktemp("runs") / "float", quiet=True)


@pytest.fixture(scope="session")
def searched(float_run: runs.Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Path]:
    """Untrained indicators of that network, in a run folder."""
    folder = tmp_path_factory.mktemp("runs") / "search"
    subject = replace(float_run.trained, seed=0)
    runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    return subject, folder


REGRESSION = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from mixbit import Task


def task():
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
    return Task(model=model, train=data, test=data, loss=nn.functional.mse_loss)
"""


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A task whose only metric is its own loss, the mean squared error: no accuracy can stand in for it."""
    file = tmp_path_factory.mktemp("regression") / "mine.py"
    file.write_text(REGRESSION)
    return Subject(model=f"{file}:task")


def squared_error(model: nn.Module) -> float:
    """Of a network on that task, by PyTorch alone."""
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((model.eval()(x) - x.sum(1, keepdim=True)).square().mean())
