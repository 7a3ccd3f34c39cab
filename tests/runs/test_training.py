"""Training in a run folder."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mixbit import runs
from mixbit.cost import LayerBits
from mixbit.data import LoaderSplit, hold_out
from mixbit.errors import MixbitError, PolicyError, StaleRun
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, calibrate, quantize
from mixbit.runs import Subject, training
from mixbit.task import Task
from mixbit.training import KurtosisConfig, KurtosisPenalty, TrainConfig
from tests.cli import tiny
from tests.runs.conftest import DIGITS, SHORT, squared_error


@pytest.fixture(scope="module")
def policy() -> Policy:
    task, _ = DIGITS.task()
    return Policy.uniform(task.network, 3, 3)


def test_float_run_learns_and_names_its_weights(float_run: runs.Trained) -> None:
    assert float_run.outcome.name == "float32" and 0.2 < float_run.outcome.accuracy <= 1
    assert float_run.trained.weights is not None and float_run.trained.weights.is_file()
    assert all(path.is_file() for path in float_run.files)


def test_policy_edited_by_hand_trains(float_run: runs.Trained, policy: Policy, tmp_path: Path) -> None:
    edited = replace(policy, layers=policy.layers | {"layer1.conv1": LayerBits(5, None)})
    edited.save(tmp_path / "policy.json")
    done = runs.train(float_run.trained, tmp_path / "policy.json", SHORT, tmp_path / "run", quiet=True)
    kept = Policy.load(tmp_path / "run" / "policy.json")
    assert kept.layers["layer1.conv1"] == LayerBits(5, None)
    assert any("recomputed" in note for note in kept.notes)
    assert done.outcome.costs.bitops == kept.costs["bitops"]


def test_finished_run_is_only_read_again(float_run: runs.Trained, policy: Policy, tmp_path: Path) -> None:
    one = runs.train(float_run.trained, policy, SHORT, tmp_path, quiet=True)
    assert runs.train(float_run.trained, policy, SHORT, tmp_path, quiet=True).outcome == one.outcome


def test_other_bits_in_the_same_folder_are_refused(float_run: runs.Trained, policy: Policy, tmp_path: Path) -> None:
    runs.train(float_run.trained, policy, SHORT, tmp_path, quiet=True)
    other = replace(policy, layers=policy.layers | {"fc": LayerBits(4, 4)})
    with pytest.raises(StaleRun, match=r"bits.fc=\[8, 8\], now bits.fc=\[4, 4\]"):
        runs.train(float_run.trained, other, SHORT, tmp_path, quiet=True)


def test_policy_of_another_model_is_refused(policy: Policy, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    with pytest.raises(PolicyError, match="another model"):
        runs.train(Subject(model=str(file), data="digits"), policy, SHORT, tmp_path / "run", quiet=True)


def test_unknown_setting(tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="Did you mean 'epochs'"):
        runs.train(DIGITS, None, {"epoch": 1}, tmp_path, quiet=True)
    assert not (tmp_path / "config.json").exists()


def test_losses_on_noisy_copies(float_run: runs.Trained, policy: Policy, tmp_path: Path) -> None:
    noisy = replace(float_run.trained, data="digits?noise=0.25&copies=2")
    few = {**SHORT, "fraction": 0.1}
    with pytest.raises(MixbitError, match=r"noise=macer needs noisy training images"):
        runs.train(float_run.trained, policy, {**few, "noise": "macer"}, tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()
    found = []
    for setting in (None, "consistency", {"loss": "consistency", "weight": 0, "entropy": 0}, "macer"):
        run = tmp_path / f"run-{len(found)}"
        runs.train(noisy, policy, {**few, "noise": setting}, run, quiet=True)
        found.append(load_file(run / "model.safetensors")["fc.weight"])
    assert torch.equal(found[0], found[2]) and len({tuple(one.flatten().tolist()) for one in found}) == 3


def test_capture_sees_the_same_network_as_the_policy(policy: Policy) -> None:
    task, _ = DIGITS.task()
    policy.check(capture(task.model, task.example(4)))


class Tied(nn.Module):
    """Two layers of one weight, and a third of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.again, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.again(torch.relu(self.first(x)))))


def tied_task() -> Task:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    split = LoaderSplit([(x, (x[:, 0] > 0).long())], num_classes=2)
    return Task(model=Tied(), train=split, test=split)


def test_tied_weights_are_saved_under_each_of_their_names(tmp_path: Path) -> None:
    for _ in range(2):
        settings = {"epochs": 1, "batch_size": 8}
        runs.train(Subject(model="tied"), None, settings, tmp_path, task=tied_task(), quiet=True)
    state = load_file(tmp_path / "model.safetensors")
    assert set(state) == set(Tied().state_dict()) and torch.equal(state["first.weight"], state["again.weight"])


def test_a_tuple_among_the_settings_is_the_list_that_the_folder_remembers(tmp_path: Path) -> None:
    settings = {"epochs": 1, "batch_size": 8, "quantize": {"step_range": (1e-5, 1.0)}}
    policy = Policy.uniform(tied_task().network, 4, 4)
    for _ in range(2):
        runs.train(Subject(model="tied"), policy, settings, tmp_path, task=tied_task(), quiet=True)


def test_a_network_is_quantized_as_the_settings_say_and_taught_by_itself_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training begins with: one step a tensor, calibrated by its rule on the images that the seed draws."""
    given: dict[str, Any] = {}

    def fit(model: nn.Module, *_: object, **named: Any) -> None:
        given.update(named, model=model)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    own: dict[str, Any] = {"per_channel": False, "activation_rule": "minmax"}
    settings, config = {"epochs": 1, "quantize": own}, QuantizeConfig(**own)
    with pytest.raises(KeyboardInterrupt):
        runs.train(replace(tiny.subject(), seed=3), tiny.policy(), settings, tmp_path, quiet=True)

    def by_hand(seed: int) -> dict[str, Tensor]:
        model = copy.deepcopy(tiny.task().model)
        policy = Policy.load(tiny.policy()).check(tiny.task().network)
        quantize(model, policy, tiny.task().network, config)
        calibrate(model, [tiny.task().calibration(256, seed)], config.activation_rule, seed=seed)
        return dict(model.state_dict())

    found, wanted, other = given["model"].state_dict(), by_hand(3), by_hand(0)
    assert found.keys() == wanted.keys() and found["left.weight_quantizer.steps"].numel() == 1
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not all(torch.equal(other[name], wanted[name]) for name in wanted)
    assert given["teacher"].state_dict().keys() == tiny.task().model.state_dict().keys()


def test_all_that_a_training_is_made_of_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def fit(*parts: object, **named: Any) -> None:
        given.update(named, parts=parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    task = tiny.task()
    settings = {"epochs": 2, "lr": 0.5, "kurtosis": {"weight": 0.5, "stop": True, "held_out": 0.25}}
    with pytest.raises(KeyboardInterrupt):
        runs.train(replace(tiny.subject(), seed=3), None, settings, tmp_path / "mine", task=task, quiet=True)
    model, train, test, config = given["parts"]
    assert config == TrainConfig(epochs=2, lr=0.5, seed=3)
    assert model is not task.model and test is task.test and given["teacher"] is task.model
    penalty = given["penalty"]
    assert isinstance(penalty, KurtosisPenalty) and penalty.config == KurtosisConfig(
        weight=0.5, stop=True, held_out=0.25
    )
    # What the stopping rule judges by is not trained on; the draw is that of the run's seed.
    wanted = hold_out(task.train, 0.25, seed=3)
    for found, split in ((train, wanted[0]), (given["monitor"].held_out, wanted[1])):
        assert torch.equal(next(found.batches(len(split)))[0], next(split.batches(len(split)))[0])
    assert (given["run"], given["quiet"], given["label"]) == (tmp_path / "mine", True, "mine")
    assert given["loss"].loss is task.objective.loss


def test_a_training_is_judged_by_the_metric_of_its_task(regression: Subject, tmp_path: Path) -> None:
    done = runs.train(regression, None, {"epochs": 1, "batch_size": 12, "lr": 0.01}, tmp_path, quiet=True)
    model = regression.task()[0].model
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert done.outcome.accuracy == done.metrics.value == pytest.approx(squared_error(model), rel=1e-4)
    assert done.outcome.metric.name == "loss" and not done.outcome.metric.larger_is_better
    assert done.outcome.costs == done.float32
    found = runs.evaluate(str(tmp_path))
    assert found.outcome.metric == done.outcome.metric and found.outcome.accuracy == pytest.approx(done.metrics.value)
