"""Keyword spotting: a 1-d convolutional network on sound, judged by top-1 accuracy, with top-2 beside it.

mixbit train examples/keyword_spotting.py:task --run runs/keywords --epochs 10
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mixbit

WORDS, LENGTH = 4, 256


def sounds(count: int, seed: int) -> TensorDataset:
    """Waves `(1, 256)` of a tone that rises by the word's own amount, under noise, and the word's number."""
    random = torch.Generator().manual_seed(seed)
    words, time = torch.arange(count) % WORDS, torch.arange(LENGTH) / LENGTH
    pitch = 8 + 4 * torch.rand(count, 1, generator=random) + (6.0 * words[:, None]) * time
    waves = torch.sin(2 * math.pi * pitch * time) + torch.randn(count, LENGTH, generator=random) / 4
    return TensorDataset(waves[:, None], words)


def task() -> mixbit.Task:
    model = nn.Sequential(
        nn.Conv1d(1, 16, 9, stride=4, padding=4, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm1d(32), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, WORDS),
    )  # fmt: skip
    return mixbit.Task(
        model=model,
        train=DataLoader(sounds(256, seed=0), batch_size=32, shuffle=True),
        test=DataLoader(sounds(64, seed=1), batch_size=64),
        metric=[mixbit.metric.accuracy(), mixbit.metric.top_k(2)],
    )
