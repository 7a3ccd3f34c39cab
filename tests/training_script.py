"""Run by training/test_loop.py in a process that it kills: says its id and trains the tiny network, slowly."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from mixbit.training import StepContext, TrainConfig, supervised_step, train
from tests.nets import quantized_net, tiny_split


def trained(folder: Path, pause: float = 0.0) -> tuple[nn.Module, int]:
    """The trained network, and the number of the first step that this process took."""
    model, numbers = quantized_net(), list[int]()

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        numbers.append(context.number)
        time.sleep(pause)
        return supervised_step(context, x, y)

    config = TrainConfig(epochs=3, batch_size=16, checkpoint_seconds=0.0)
    train(model, tiny_split(), tiny_split(), config, run=folder, step=step, quiet=True)
    return model, numbers[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(os.getpid(), flush=True)
    trained(Path(sys.argv[1]), pause=1.0)
