"""An autoencoder: the target is the image itself, and less error is better. What it cannot rebuild is an anomaly.

mixbit train examples/autoencoder.py:task --run runs/autoencoder --epochs 20
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import mixbit


def image_twice(batch: Any) -> tuple[Tensor, Tensor]:
    """The batch of a data set of labelled images, as input and target of an autoencoder."""
    images, _ = batch
    return images, images.flatten(1)


def task() -> mixbit.Task:
    digits = mixbit.data.load("digits")
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 48), nn.ReLU(),
        nn.Linear(48, 64),
    )  # fmt: skip
    return mixbit.Task(model=model, train=digits.train, test=digits.test, read=image_twice, loss=nn.MSELoss())
