"""The moving average of weights and batch-norm statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixbit.training._average import Average


def test_each_update_is_the_documented_rule() -> None:
    """Warm at the start, `decay` later; batch norm's statistics as the weights."""
    torch.manual_seed(0)
    model, values = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.randn(300, 2)
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    average = Average(model, 0.9)
    wanted = torch.zeros(2)
    for step, value in enumerate(values):
        model[1].running_mean.copy_(value)  # type: ignore[operator, union-attr]
        with torch.no_grad():
            model[0].bias.copy_(value)
        average.update(model, step)
        keep = min(0.9, (1 + step) / (10 + step))
        wanted = wanted * keep + value * (1 - keep)
        torch.testing.assert_close(average.shadow["0.bias"], wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(average.shadow["1.running_mean"], wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(average.shadow["0.bias"], wanted, rtol=1e-5, atol=1e-6)
    assert set(average.shadow) == {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}


def test_the_first_weights_are_forgotten_in_a_short_run() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 100.0)
    average = Average(model, 0.999)
    nn.init.constant_(model.weight, 1.0)
    for step in range(48):
        average.update(model, step)
    assert float(average.shadow["weight"]) == pytest.approx(1.0, abs=1e-4)


def test_a_checkpoints_average_goes_on() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    first, second = Average(model, 0.9), Average(model, 0.9)
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    first.update(model, 0)
    second.restore(first.shadow)
    for average in (first, second):
        average.update(model, 1)
    assert all(torch.equal(tensor, second.shadow[name]) for name, tensor in first.shadow.items())
    assert second.shadow["0.weight"] is not first.shadow["0.weight"]


def test_taking_the_average_out_gives_every_number_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, 0.5)
    model(torch.randn(8, 2) + 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average.put_into(model)
    assert float(model[1].running_mean.abs().max()) == 0.0  # type: ignore[operator, union-attr]
    model[1].running_var.fill_(7.0)  # type: ignore[operator, union-attr]
    model[1].num_batches_tracked.fill_(99)  # type: ignore[operator, union-attr]
    average.take_out(model)
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in average.shadow.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
