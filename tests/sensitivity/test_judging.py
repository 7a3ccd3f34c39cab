"""Judging policies: the numbers of quantizing, calibrating and evaluating by hand, on images that are held apart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError, StaleRun
from mixbit.metric import LOSS
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from mixbit.sensitivity import judging
from mixbit.sensitivity.judging import Judge, bits_of, bits_text
from mixbit.task import Task
from tests.methods import seen


def judge(images: int = 7, calibration: int = 5, **more: int) -> Judge:
    given = {"batch_size": 3, "seed": 2, **more}
    return Judge(seen.small_task(), images=images, calibration_images=calibration, **given)


def policy(weight: int, activation: int) -> Policy:
    return Policy.uniform(seen.small_task().network, weight, activation)


def by_hand(found: Policy, steps: Tensor, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Loss and accuracy with PyTorch's own functions."""
    model = copy.deepcopy(seen.small_task().model)
    quantize(model, found, seen.small_task().network)
    calibrate(model, [steps], seed=2)
    with torch.no_grad():
        outputs = model.eval()(x)
    return float(F.cross_entropy(outputs, y)), float((outputs.argmax(1) == y).float().mean())


@pytest.mark.parametrize("bits", [(2, 3), (8, 8)])
def test_it_is_calibration_and_evaluation_on_other_images(bits: tuple[int, int]) -> None:
    found = judge()(policy(*bits))
    x, y = seen.labelled(seed=2)
    loss, accuracy = by_hand(policy(*bits), x[:5], x[5:], y[5:])
    assert found.loss == pytest.approx(loss, rel=1e-5) and found.accuracy == pytest.approx(accuracy)
    assert found.samples == 7


@pytest.mark.parametrize(
    ("images", "calibration", "parts"), [(7, 5, (7, 5)), (4, 2, (4, 2)), (30, 30, (6, 6)), (500, 1, (11, 1))]
)
def test_where_images_are_few_both_parts_shrink(images: int, calibration: int, parts: tuple[int, int]) -> None:
    found = judge(images, calibration)
    assert (found.images, found.calibration_images) == parts
    text = f"{parts[0]} training images, after calibration on {parts[1]} others (seed 2)"
    assert found.measured.on == text and found.measured.info == seen.small_task().info


def test_the_seed_is_that_of_calibration_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may draw while it is calibrated."""
    seeds: list[int] = []
    calibrate = judging.calibrate

    def noted(*given: Any, seed: int, **named: Any) -> None:
        seeds.append(seed)
        calibrate(*given, seed=seed, **named)

    monkeypatch.setattr(judging, "calibrate", noted)
    judge(seed=3)(policy(4, 4))
    assert seeds == [3]


def test_one_image_is_too_few() -> None:
    task = seen.small_task()
    x, y = seen.labelled()
    one = Task(model=task.model, train=[(x[:1], y[:1])], test=task.test, network=task.network)
    with pytest.raises(MixbitError, match="1 training image cannot both calibrate and measure"):
        Judge(one, images=8, calibration_images=8, batch_size=8, seed=0)


def test_data_are_known_by_their_content() -> None:
    first = judge().measured.data
    assert first == judge().measured.data and first.startswith("blake2b:")
    assert judge(seed=3).measured.data != first


def test_a_task_of_the_loss_alone_has_that_for_its_metric() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
    data = [(torch.randn(12, 4), torch.randn(12, 1))]
    task = Task(model=model, train=data, test=data, loss=nn.functional.mse_loss)
    found = Judge(task, images=8, calibration_images=4, batch_size=8, seed=0)
    assert found.metrics == (LOSS,)
    (one,) = found.quality([Policy.uniform(task.network, 8, 8)], found.ledger(None, "a", {}), label="", quiet=True)
    assert set(one) == {"loss"}


def test_what_is_measured_is_kept_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, calls = judge(), []
    call = Judge.__call__
    monkeypatch.setattr(Judge, "__call__", lambda self, one: (calls.append(bits_text(one.layers)), call(self, one))[1])
    some = [policy(2, 2), policy(4, 4), policy(2, 2)]
    first = mine.quality(some, mine.ledger(tmp_path, "kept", {"a": 1}), label="", quiet=True)
    assert len(calls) == 2 and first[0] == first[2] != first[1] and list(first[0]) == ["accuracy", "loss"]
    more = mine.quality([*some, policy(3, 3)], judge().ledger(tmp_path, "kept", {"a": 1}), label="", quiet=True)
    assert more[:3] == first and len(calls) == 3
    with pytest.raises(StaleRun, match="begun with a=1, now a=2"):
        mine.ledger(tmp_path, "kept", {"a": 2})
    with pytest.raises(StaleRun, match="begun with training_images="):
        judge(seed=5).ledger(tmp_path, "kept", {"a": 1})


def test_bits_as_text_are_those_of_all_layers() -> None:
    assert bits_text({"a": LayerBits(2, 3), "b": LayerBits(None, 8)}) == "W2A3 W32A8"


def test_the_float_network_is_measured_on_the_same_images() -> None:
    x, y = seen.labelled(seed=2)
    with torch.no_grad():
        outputs = seen.small_task().model.eval()(x[5:])
    found = judge().floats()
    assert found.loss == pytest.approx(float(F.cross_entropy(outputs, y[5:])), rel=1e-5) and found.samples == 7


def test_a_network_may_be_tuned_between_calibration_and_measurement() -> None:
    """Here by a loss of all that it says, so that all logits are equal."""

    def tune(model: nn.Module) -> None:
        with torch.no_grad():
            for name in ("head.weight", "head.bias"):
                model.get_parameter(name).zero_()

    found = Judge(seen.small_task(), images=7, calibration_images=5, batch_size=3, seed=2, tune=tune)
    assert found(policy(4, 4)).loss == pytest.approx(float(torch.tensor(3.0).log()), abs=1e-4)
    assert judge()(policy(4, 4)).loss != pytest.approx(float(torch.tensor(3.0).log()), abs=1e-4)


def test_bits_are_read_as_they_are_written() -> None:
    network = seen.small_task().network
    layers = {**policy(3, 4).layers, "conv": LayerBits(2, None)}
    assert bits_of(bits_text(layers), network) == layers
    with pytest.raises(ValueError, match="zip"):
        bits_of("W3A4", network)
