"""The user's problem in one object."""

from __future__ import annotations

import torch
from torch import nn

from mixbit.data import TensorSplit
from mixbit.network import capture
from mixbit.task import Task, cross_entropy


def test_network_is_captured_from_a_test_batch_unless_given() -> None:
    split = TensorSplit(torch.zeros(4, 1, 5, 5, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), 2, [0.5], [0.5])
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    task = Task(model=model, train=split, test=split)
    assert [layer.name for layer in task.network.layers] == ["0", "2"]
    assert task.example(3).shape == (3, 1, 5, 5)
    other = capture(model, task.example())
    assert Task(model=model, train=split, test=split, network=other).network is other


def test_cross_entropy_with_smoothing() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(cross_entropy(logits, torch.tensor([0]), smoothing), torch.tensor(3.0).log())
    sure = torch.tensor([[20.0, 0.0, 0.0]])
    assert cross_entropy(sure, torch.tensor([0]), 0.1) > cross_entropy(sure, torch.tensor([0]))
    assert cross_entropy(sure.bfloat16(), torch.tensor([0])).dtype == torch.float32
