"""Checkpoints that no training wrote are refused with what is wrong with them; generators of all devices are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixbit.data import TensorSplit
from mixbit.errors import MixbitError, StaleRun, WeightsError
from mixbit.training import TrainConfig, _checkpoint, train
from mixbit.training._optim import make_optimizer

CONFIG = TrainConfig(epochs=2, batch_size=8, bn_samples=0, ema=0.9, augment=False)
SPLIT = TensorSplit(torch.arange(64).view(16, 1, 2, 2).to(torch.uint8), torch.arange(16) % 2, 2, (0.5,), (0.25,))

State = tuple[dict[str, Tensor], Any]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(net(), SPLIT, SPLIT, CONFIG, run=folder, quiet=True)
    return folder / "checkpoint.safetensors"


def load(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["mixbit"])  # noqa: SIM118


def fill(name: str, value: float) -> Callable[[State], object]:
    return lambda state: state[0][name].view(-1)[:1].fill_(value)


def fact(name: str, value: object) -> Callable[[State], object]:
    return lambda state: state[1].update({name: value})


def tensor(name: str, value: Tensor) -> Callable[[State], object]:
    return lambda state: state[0].update({name: value})


def without(part: int, name: str) -> Callable[[State], object]:
    return lambda state: state[part].pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fill("model/1.weight", float("nan")), "'model/1.weight' that are not finite"),
        (fill("model/1.weight", float("inf")), "'1.weight' is not finite"),
        (fill("model/2.running_var", float("nan")), "'model/2.running_var' that are not finite"),
        (fill("average/3.bias", float("inf")), "'average/3.bias' that are not finite"),
        (fill("optimizer/0/momentum_buffer", float("inf")), "that are not finite"),
        (fact("batch", 1), r"batch is 1, legal is 0 to 1"),
        (fact("batch", -1), "batch is -1"),
        (fact("batch", 10**30), "checkpoint.safetensors is not what mixbit wrote|batch is 1000"),
        (fact("batch", "x"), "'batch': .*found 'x'"),
        (fact("batch", True), "'batch'"),
        (fact("epoch", 3), "epoch is 3, legal is 0 to 2"),
        (fact("epoch", 1), "history is 2, legal is 1 records"),
        (fact("epoch", None), "'epoch'"),
        (fact("history", [1, 2]), "'history'"),
        (fact("settings", []), "'settings'"),
        (without(1, "settings"), "'settings': Field required"),
        (without(0, "model/1.bias"), "does not fit this model or optimizer: .*"),
        (without(0, "average/1.bias"), "does not fit this model or optimizer: .*1.bias"),
        (without(0, "rng/cpu"), "does not fit this model or optimizer"),
        (tensor("rng/cpu", torch.zeros(3, dtype=torch.uint8)), "does not fit this model or optimizer"),
        (tensor("model/1.weight", torch.zeros(3, 4)), "does not fit this model or optimizer"),
        (tensor("optimizer/0/momentum_buffer", torch.zeros(())), r"has shape \(\), its parameter \(4, 4\)"),
        (tensor("optimizer/77/momentum_buffer", torch.zeros(4)), "does not fit this model or optimizer"),
        (tensor("optimizer/0/exp_avg", torch.zeros(4, 4)), r"optimizer/0 holds \['exp_avg', 'momentum_buffer'\]"),
    ],
)
def test_what_no_training_wrote(
    finished: Path, tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    state = load(finished)
    change(state)
    save_file(state[0], tmp_path / finished.name, metadata={"mixbit": json.dumps(state[1])})
    with pytest.raises(WeightsError, match=message) as caught:
        train(net(), SPLIT, SPLIT, CONFIG, run=tmp_path, quiet=True)
    assert "Delete it to start again" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", "null"])
def test_facts_that_are_no_record(finished: Path, tmp_path: Path, content: str) -> None:
    save_file(load(finished)[0], tmp_path / finished.name, metadata={"mixbit": content})
    with pytest.raises(WeightsError, match="Delete it to start again"):
        train(net(), SPLIT, SPLIT, CONFIG, run=tmp_path, quiet=True)


def test_another_number_of_steps_in_an_epoch(finished: Path, tmp_path: Path) -> None:
    """The data shrank since: a step that the epoch no longer has."""
    state = load(finished)
    state[1].update(epoch=1, batch=1, history=state[1]["history"][:1])
    save_file(state[0], tmp_path / finished.name, metadata={"mixbit": json.dumps(state[1])})
    small = TensorSplit(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2, 2, (0.5,), (0.25,))
    with pytest.raises(WeightsError, match="batch is 1, legal is 0 to 0. The data may have changed"):
        train(net(), small, None, CONFIG, run=tmp_path, quiet=True)
    train(net(), SPLIT, None, CONFIG, run=tmp_path, quiet=True)


def test_infinite_constants_of_a_model_are_no_fault(tmp_path: Path) -> None:
    """Masks of attention are."""

    def masked() -> nn.Module:
        model = net()
        model.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))
        return model

    train(masked(), SPLIT, None, replace(CONFIG, epochs=1), run=tmp_path, quiet=True)
    train(masked(), SPLIT, None, replace(CONFIG, epochs=1), run=tmp_path, quiet=True)


def test_momenta_come_back_by_number_in_the_layout_of_their_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(2, 2)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for name in ("sgd", "adamw"):
        first, second = (
            make_optimizer(model, name=name, lr=0.1, step_lr=0.1, momentum=0.9, weight_decay=0.0) for _ in "ab"
        )
        for at, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 1.0 + at)
        first.step()
        _checkpoint.restore_optimizer(second, _checkpoint.optimizer_tensors(first))
        states = zip(first.state.values(), second.state.values(), strict=True)
        assert all(torch.equal(one[key], other[key]) for one, other in states for key in one)
        kept = next(iter(second.state.values()))["momentum_buffer" if name == "sgd" else "exp_avg"]
        assert kept.is_contiguous(memory_format=torch.channels_last)


def test_a_changed_setting_is_named_with_both_values(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.safetensors"
    _checkpoint.check_same(path, {"lr": 0.1, "seed": 1}, {"seed": 1, "lr": 0.1})
    for old, new, told in (
        ({"lr": 0.1}, {"lr": 0.2}, "lr=0.1, now lr=0.2"),
        ({}, {"ema": 0.5}, "ema=None, now ema=0.5"),
        ({"gone": 3}, {}, "gone=3, now gone=None"),
    ):
        with pytest.raises(StaleRun, match=f"run was begun with {told}"):
            _checkpoint.check_same(path, old, new)


def test_generators_of_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's device need not be the current one."""
    held = {0: torch.tensor([10]), 1: torch.tensor([11])}

    def number(device: object) -> int:
        return device.index if isinstance(device, torch.device) else int(device)  # type: ignore[call-overload, return-value]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: held[number(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: held.update({number(device): state}))
    device = torch.device("cuda", 1)
    kept = _checkpoint.random_state(device)
    assert [int(kept[name]) for name in ("rng/cuda", "rng/cuda/0", "rng/cuda/1")] == [11, 10, 11]
    held.clear()
    _checkpoint.restore_random_state(kept, device)
    assert {index: int(state) for index, state in held.items()} == {0: 10, 1: 11}
    # The second of two processes has the second device; it goes on from what the first one's had.
    kept = _checkpoint.random_state(torch.device("cuda", 0))
    held.clear()
    monkeypatch.setattr("mixbit._distributed.world_size", lambda: 2)
    _checkpoint.restore_random_state(kept, device)
    assert {index: int(state) for index, state in held.items()} == {1: 10}


def test_a_run_folder_that_only_some_processes_see(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbit._distributed.all_say", lambda flag: False)
    with pytest.raises(MixbitError, match="not there for every process"):
        train(net(), SPLIT, None, CONFIG, run=finished.parent, quiet=True)
