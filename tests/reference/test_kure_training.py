"""What training with KURE does to weights: a small network on digits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mixbit import data
from mixbit.evaluation import evaluate
from mixbit.quantizers import fake_quantize, find_rule, integer_range
from mixbit.task import Task
from mixbit.training import KurtosisPenalty, TrainConfig, train

# bits -> relative squared error of the best signed step after KURE, and normal by uniform error of the same grid
EXPECTED = {4: (0.0048, 2.670), 3: (0.0220, 1.994), 2: (0.122, 1.391)}


def network() -> nn.Sequential:
    """Three convolutions, of which two are regularised; all start from normal weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def relative_error(weight: Tensor, bits: int) -> float:
    """Squared error of the best signed step in relation to the weight's variance."""
    rows = weight.detach().reshape(1, -1)
    low, high = integer_range(bits, signed=True)
    step, zero = find_rule("mse")(rows, low, high)
    ends = (torch.full((1,), float(end)) for end in (low, high))
    return float((fake_quantize(rows, step, zero, *ends) - rows).square().mean() / rows.var())


@pytest.mark.slow
def test_kurtosis_arrives_accuracy_stays_and_errors_fall_as_the_table_says() -> None:
    digits = data.load("digits")
    plain, regular = network(), network()
    task = Task(model=copy.deepcopy(plain), train=digits.train, test=digits.test)
    penalty = KurtosisPenalty(task)
    config = TrainConfig(epochs=25, batch_size=64, lr=0.01, final_lr=1.0, augment=False, validate_every=0, bn_samples=0)
    train(plain, digits.train, None, config, quiet=True)
    train(regular, digits.train, None, config, penalty=penalty, quiet=True)
    for name in penalty.layers:
        assert penalty.values(regular)[name] == pytest.approx(1.8, abs=0.05)
        assert penalty.values(plain)[name] > 2.7
    gain = evaluate(regular, digits.test).accuracy - evaluate(plain, digits.test).accuracy
    assert abs(gain) < 0.02
    for bits, (error, ratio) in EXPECTED.items():
        before, after = (
            sum(relative_error(model.get_submodule(name).weight, bits) for name in penalty.layers) / len(penalty.layers)  # type: ignore[arg-type]
            for model in (plain, regular)
        )
        assert after == pytest.approx(error, rel=0.15), bits
        assert before / after == pytest.approx(ratio, rel=0.25), bits
