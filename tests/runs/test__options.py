"""Settings of a training that other rooms own: each goes there, and the stopping rule starts from what is true."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixbit.data import Split
from mixbit.errors import MixbitError
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig
from mixbit.runs._options import quantize_config, read_options, regularised, watched
from mixbit.task import Task
from mixbit.training import KurtosisConfig, KurtosisPenalty, TrainConfig
from tests.tasks import tiny_task


def test_every_setting_goes_to_its_room() -> None:
    found = read_options({"epochs": 3, "kurtosis": 0.5, "quantize": {"weight_rule": "minmax"}}, 7)
    assert found.training == TrainConfig(epochs=3, seed=7)
    assert found.kurtosis == KurtosisConfig(weight=0.5)
    assert found.quantize == QuantizeConfig(weight_rule="minmax")
    plain = read_options({"seed": 2}, 7)
    assert plain.training == TrainConfig(seed=2) and plain.kurtosis is None and plain.quantize == QuantizeConfig()
    with pytest.raises(MixbitError, match="quantize has no setting 'weight_rul'. Did you mean 'weight_rule'"):
        quantize_config({"quantize": {"weight_rul": "minmax"}})


def test_the_term_is_in_the_loss_where_it_was_asked_for() -> None:
    task = tiny_task()
    assert regularised(task, None) is task
    found = regularised(task, KurtosisConfig(weight=0.5))
    assert isinstance(found.penalty, KurtosisPenalty) and found.penalty.config == KurtosisConfig(weight=0.5)
    by_bits = regularised(task, KurtosisConfig(by_bits=True), Policy.uniform(task.network, 3, 4))
    assert isinstance(by_bits.penalty, KurtosisPenalty)  # which it cannot be without the bits
    with pytest.raises(MixbitError, match="by_bits"):
        regularised(task, KurtosisConfig(by_bits=True))
    assert watched(task, KurtosisConfig(stop=True), Path("r"), 0) == (task, None)  # there is no term to watch


def pixels(split: Split) -> Tensor:
    """All images, in an order of their own content."""
    rows = next(split.batches(len(split)))[0].flatten(1)
    return rows[torch.argsort((rows * torch.arange(1, rows.shape[1] + 1)).sum(1))]


def judged(task: Task, held_out: Split) -> float:
    """Accuracy, by PyTorch alone."""
    x, y = next(held_out.batches(len(held_out)))
    with torch.no_grad():
        return float((task.model.eval()(x).argmax(1) == y).float().mean())


def test_the_stopping_rule_holds_out_what_is_then_not_trained_on(tmp_path: Path) -> None:
    config = KurtosisConfig(stop=True, held_out=0.25)
    task = regularised(tiny_task(), config)
    left, monitor = watched(task, config, tmp_path, 3)
    assert monitor is not None and monitor.held_out is not None
    assert (len(left.train), len(monitor.held_out)) == (48, 16)
    parts = torch.cat([pixels(left.train), pixels(monitor.held_out)])
    assert torch.equal(parts.sort(0).values, pixels(task.train).sort(0).values), "one of the images is lost or doubled"
    assert left.test is task.test and left.penalty is task.penalty and monitor.penalty is task.penalty
    assert monitor.path == tmp_path / "best.safetensors" or monitor.path.parent == tmp_path  # type: ignore[union-attr]
    assert monitor.start == pytest.approx(judged(task, monitor.held_out)) and monitor.start > 0
    assert monitor.objective is task.objective
    again, other = (watched(task, config, tmp_path, seed)[1] for seed in (3, 4))
    assert again is not None and again.held_out is not None and other is not None and other.held_out is not None
    assert torch.equal(pixels(again.held_out), pixels(monitor.held_out))
    assert not torch.equal(pixels(other.held_out), pixels(monitor.held_out))


def test_without_a_rule_all_images_are_trained_on(tmp_path: Path) -> None:
    config = KurtosisConfig()
    task = regularised(tiny_task(), config)
    same, monitor = watched(task, config, tmp_path, 0)
    assert same is task and monitor is not None and monitor.held_out is None and monitor.penalty is task.penalty
