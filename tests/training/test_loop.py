"""The training loop: learning, resuming, divergence, schedules, several processes."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mixbit.data import LoaderSplit
from mixbit.errors import MixbitError, StaleRun, TrainingDiverged
from mixbit.evaluation import evaluate, reestimate_batch_norm, statistics_of
from mixbit.metric import mean_absolute_error
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize, quantizers
from mixbit.quantizers import BatchQuant, Quantizer
from mixbit.testing.options import alike, fields_of
from mixbit.training import StepContext, TrainConfig, supervised_step, train
from tests import training_script
from tests.nets import quantized_net, tiny_net, tiny_split

SCRIPT = Path(training_script.__file__)


CONFIG = TrainConfig(epochs=3, batch_size=16, lr=0.05, bn_samples=32, augment=False)


def test_quantized_training_learns_and_moves_the_steps(tmp_path: Path) -> None:
    model, split = quantized_net(), tiny_split()
    before = [q.steps.clone() for q in quantizers(model).values()]
    result = train(model, split, split, CONFIG, run=tmp_path, quiet=True)
    assert result.metrics is not None and result.metrics.accuracy > 0.8
    assert all(not torch.equal(b, q.steps) for b, q in zip(before, quantizers(model).values(), strict=True))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and lines[-1]["test"]["samples"] == 96


@pytest.mark.parametrize("change", [{"optimizer": "adamw", "lr": 0.005}, {"precision": "bf16"}])
def test_quantized_networks_learn_under_adamw_and_bf16(change: dict[str, object]) -> None:
    """What the options do is held by the table below; here, that low-bit weights bear them."""
    split = tiny_split()
    config = TrainConfig(**{"epochs": 4, "batch_size": 16, "lr": 0.05, "augment": False, **change})  # type: ignore[arg-type]
    result = train(quantized_net(), split, split, config, quiet=True)
    assert result.metrics is not None and result.metrics.accuracy > 0.6


def test_the_average_is_what_every_epoch_is_judged_by_and_saved() -> None:
    """Also by a monitor; and the training itself goes on from its own weights."""

    class Watch:
        def __init__(self) -> None:
            self.seen = list[Tensor]()

        def after_epoch(self, model: nn.Module, record: dict[str, object], history: list[dict[str, object]]) -> bool:
            self.seen.append(model[6].weight.detach().clone())  # type: ignore[index, operator, union-attr]
            return False

        def at_end(self, model: nn.Module) -> None: ...

    raw: list[Tensor] = []

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        raw.append(context.model[6].weight.detach().clone())  # type: ignore[index, operator, union-attr]
        return supervised_step(context, x, y)

    model, watch, config = tiny_net(), Watch(), replace(CONFIG, ema=0.9, batch_size=48)
    result = train(model, tiny_split(), tiny_split(), config, step=step, monitor=watch, quiet=True)
    shadow, wanted = raw[0].clone(), list[Tensor]()
    for number, weight in enumerate(raw[1:]):  # before step k + 1 the weights are those after step k
        shadow = shadow.lerp(weight, 1 - min(0.9, (1 + number) / (10 + number)))
        wanted.append(shadow)
    for epoch in (0, 1):
        torch.testing.assert_close(watch.seen[epoch], wanted[2 * epoch + 1], rtol=1e-5, atol=1e-6)
    assert torch.equal(watch.seen[2], model[6].weight)
    assert result.metrics == evaluate(model, tiny_split(), batch_size=96, channels_last=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gradients_that_come_late(optimizer: str) -> None:
    """A layer that is left out of the first steps, as in stochastic depth."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Linear(3, 3))

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        outputs = context.model[1](context.model[0](x))  # type: ignore[index, operator]
        outputs = outputs if context.number < 3 else context.model[2](outputs)  # type: ignore[index, operator]
        loss = context.loss(x, outputs, y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    before = model[2].weight.detach().clone()
    config = TrainConfig(epochs=1, batch_size=16, optimizer=optimizer, bn_samples=0)  # type: ignore[arg-type]
    train(model, tiny_split(), None, config, step=step, quiet=True)
    assert not torch.equal(before, model[2].weight)


def test_a_warm_up_of_whole_epochs_trains_from_the_first_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    before = model[1].weight.detach().clone()
    config = TrainConfig(epochs=1, batch_size=16, warmup_epochs=1, schedule="epoch", bn_samples=0)
    train(model, tiny_split(), None, config, quiet=True)
    assert not torch.equal(before, model[1].weight)


def test_a_network_of_3d_convolutions_trains_with_the_default_layout() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), nn.Flatten(), nn.Linear(32, 3))
    result = train(model, tiny_split(), tiny_split(), replace(CONFIG, epochs=1), quiet=True)
    assert result.metrics is not None


def test_the_callers_random_numbers_go_on() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(model, tiny_split(), None, replace(CONFIG, epochs=1), quiet=True)
    assert torch.equal(torch.rand(3), wanted)


def run_until(model: nn.Module, folder: Path, stop_at: int | None, config: TrainConfig) -> None:
    """Train, but stop the process (here: by an exception) before step `stop_at`."""

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        if context.number == stop_at:
            raise KeyboardInterrupt
        return supervised_step(context, x, y)

    train(model, tiny_split(), tiny_split(), config, run=folder, step=step, quiet=True)


@pytest.mark.parametrize("tested", [True, False])
def test_ranges_are_those_of_the_final_weights(tested: bool) -> None:
    """With a test split and without: made of the training's first batches, which are of its own size."""
    model, split, config = quantized_net("batchquant"), tiny_split(), replace(CONFIG, batch_size=48, bn_samples=96)
    before = {name: one.clone() for name, one in statistics_of(model).items()}
    result = train(model, split, split if tested else None, config, quiet=True)
    banks = [bank for bank in quantizers(model).values() if isinstance(bank, BatchQuant)]
    assert [bank.trained_on.item() for bank in banks] == [48] * 3
    assert all(bool(bank.theta != 0) for bank in banks)
    found = {name: one.clone() for name, one in statistics_of(model).items()}
    reestimate_batch_norm(model, [x for x, _ in split.batches(48, epoch=0, seed=0, shuffle=True)])
    assert all(torch.allclose(one, found[name], rtol=1e-5) for name, one in statistics_of(model).items())
    assert not torch.allclose(found["3.input_quantizer.highs"], before["3.input_quantizer.highs"], rtol=1e-3)
    assert (result.metrics is not None) == tested
    if tested:
        assert result.metrics == evaluate(model, split, batch_size=96, channels_last=True)


def test_ranges_need_samples_before_they_are_evaluated() -> None:
    config = replace(CONFIG, bn_samples=0, epochs=1)
    with pytest.raises(MixbitError, match=r"bn_samples=0, and 3 quantizers.*\(0.input_quantizer\)"):
        train(quantized_net("batchquant"), tiny_split(), tiny_split(), config, quiet=True)
    train(quantized_net("batchquant"), tiny_split(), None, config, quiet=True)
    train(quantized_net(), tiny_split(), tiny_split(), config, quiet=True)


@pytest.mark.parametrize(
    ("extra", "kind"), [({}, "lsq"), ({"ema": 0.9}, "lsq"), ({"optimizer": "adamw"}, "lsq"), ({}, "batchquant")]
)
def test_broken_run_ends_with_the_same_numbers(tmp_path: Path, extra: dict[str, object], kind: str) -> None:
    """Stopped in the middle of the second epoch, with a checkpoint at every step."""
    config = TrainConfig(**{"epochs": 3, "batch_size": 16, "checkpoint_seconds": 0.0, **extra})  # type: ignore[arg-type]
    whole, broken = quantized_net(kind), quantized_net(kind)
    run_until(whole, tmp_path / "whole", None, config)
    with pytest.raises(KeyboardInterrupt):
        run_until(broken, tmp_path / "broken", 9, config)
    again = quantized_net(kind)
    run_until(again, tmp_path / "broken", None, config)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_sigkill_in_mid_epoch(tmp_path: Path, warm: str) -> None:
    """A process that is killed; the same training again continues, and ends with the numbers of an unbroken run."""
    python = str(shutil.which("python", path=warm))
    process = subprocess.Popen([python, SCRIPT, tmp_path / "killed"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    training = int(process.stdout.readline())
    whole, _ = training_script.trained(tmp_path / "whole")
    checkpoint, deadline = tmp_path / "killed" / "checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(training, signal.SIGKILL)
    process.communicate()
    assert process.returncode == 70  # of who asked for a process that a signal ended (warm.py)
    again, resumed_at = training_script.trained(tmp_path / "killed")
    assert resumed_at > 0 and alike(dict(again.state_dict()), dict(whole.state_dict()))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    train(quantized_net(), tiny_split(), None, CONFIG, run=tmp_path, quiet=True)
    with pytest.raises(StaleRun, match=r"lr=0\.05, now lr=0\.01"):
        train(quantized_net(), tiny_split(), None, replace(CONFIG, lr=0.01), run=tmp_path, quiet=True)


OTHERS: dict[str, Any] = {
    "optimizer": "adamw", "schedule": "epoch", "precision": "bf16", "step_lr": 0.5, "clip_value": 0.5, "ema": 0.5,
    "fraction": 0.9, "augment": True, "channels_last": False, "compile": True, "drop_zero_gradients": True,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:precision='bf16'")
def test_every_setting_but_those_of_looking_on_must_be_the_runs(tmp_path: Path) -> None:
    model, split = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), tiny_split()
    begun = replace(CONFIG, batch_size=8, epochs=1, checkpoint_seconds=1e6, momentum=0.5, final_lr=0.5, distill=0.0)
    train(model, split, None, begun, run=tmp_path, quiet=True)
    free = {"checkpoint_seconds": 0.0, "validate_every": 3}
    assert len(train(model, split, None, replace(begun, **free), run=tmp_path, quiet=True).history) == 1  # type: ignore[arg-type]
    with mock.patch.object(torch, "compile", lambda one: one):
        for name in set(fields_of(TrainConfig)) - set(free):
            old = getattr(begun, name)
            new = OTHERS[name] if name in OTHERS else old + (0.25 if isinstance(old, float) else 1)
            changed = replace(begun, **{name: new})
            with pytest.raises(StaleRun, match=re.escape(f"was begun with {name}={old!r}, now {name}={new!r}")):
                train(model, split, None, changed, run=tmp_path, teacher=model, quiet=True)


def test_progress_tells_what_was_done_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, config = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), replace(CONFIG, checkpoint_seconds=0.0)

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        if context.number == 8:
            raise KeyboardInterrupt
        return supervised_step(context, x, y)

    with pytest.raises(KeyboardInterrupt):
        train(model, tiny_split(), None, config, run=tmp_path, step=step, quiet=True)
    assert capsys.readouterr().err == ""
    train(model, tiny_split(), None, config, run=tmp_path, label="mine")
    said = capsys.readouterr().err
    assert "mine: 18 steps, 8 of them done before" in said
    assert re.search(r"mine: done, 18/18 in 0:\d\d:\d\d, epoch 3/3  loss \d\.\d{3}\n", said)


def test_nan_stops_the_run_names_the_layer_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model = quantized_net()

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        if context.number == 8:
            with torch.no_grad():
                model[3].bias.fill_(float("inf"))
        return supervised_step(context, x, y)

    with pytest.raises(
        TrainingDiverged, match=r"epoch 2, at batch 7: .*'3.bias' is not finite; the last good checkpoint"
    ):
        train(model, tiny_split(), None, CONFIG, run=tmp_path, step=step, quiet=True)
    fresh = quantized_net()
    assert train(fresh, tiny_split(), tiny_split(), CONFIG, run=tmp_path, quiet=True).metrics is not None


def test_nan_of_a_layer_is_traced_to_it() -> None:
    class Poison(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0 * 0

    model = nn.Sequential(nn.Conv2d(1, 2, 3), Poison(), nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises(TrainingDiverged, match="layer '1'"):
        train(model, tiny_split(), None, CONFIG, quiet=True)


def test_poisoned_weights_are_never_checkpointed(tmp_path: Path) -> None:
    """The loss of a step can be finite and its gradient not."""
    model = quantized_net()

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        loss = supervised_step(context, x, y)
        if context.number == 5:  # the last step of the first epoch
            model[3].weight.grad.fill_(float("nan"))  # type: ignore[union-attr]
        return loss

    with pytest.raises(TrainingDiverged, match="'3.weight' is not finite; no checkpoint"):
        train(model, tiny_split(), None, CONFIG, run=tmp_path, step=step, quiet=True)


def test_a_penalty_is_told_the_epochs_trained_and_counts() -> None:
    """Its value in the loss that is reported, its gradient as it adds it."""
    times, start = list[float](), tiny_net()[6].weight.detach().clone()

    def penalty(model: nn.Module, epochs: float) -> Tensor:
        times.append(epochs)
        model[6].weight.grad = torch.ones_like(model[6].weight)  # type: ignore[index, operator, union-attr]
        return torch.tensor(float("inf") if epochs > 1.7 else 1.0)

    model = tiny_net()
    config = replace(CONFIG, batch_size=48, epochs=3, lr=0.01, momentum=0.0, weight_decay=0.0, final_lr=1.0)
    with pytest.raises(TrainingDiverged, match="epoch 2, at batch 2: loss=inf, the loss itself is not finite"):
        train(
            model, tiny_split(), None, replace(config, epochs=3), penalty=lambda m, e: penalty(m, e + 0.3), quiet=True
        )
    assert times == pytest.approx([0.3, 0.8, 1.3, 1.8])
    torch.testing.assert_close(model[6].weight.detach(), start - 3 * 0.01, rtol=1e-5, atol=1e-6)


def test_batch_larger_than_the_split() -> None:
    with pytest.raises(MixbitError, match="batch_size=128 is larger"):
        train(quantized_net(), tiny_split(), None, TrainConfig(batch_size=128), quiet=True)


def regression() -> TensorDataset:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=random)
    return TensorDataset(x, x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 1)


def test_a_regression_on_a_dataset_learns_and_goes_on_exactly(tmp_path: Path) -> None:
    """Learning is told by the error itself; killing is told by the numbers of a run in one go."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))

    config = TrainConfig(epochs=4, batch_size=16, lr=0.05, bn_samples=0)
    whole, data = net(), regression()
    result = train(whole, data, data, config, loss=nn.MSELoss(), metric=mean_absolute_error(), quiet=True)
    assert result.metrics is not None
    x, y = data.tensors
    assert result.metrics.values["mean absolute error"] == pytest.approx((whole(x) - y).abs().mean().item(), rel=1e-5)
    assert (
        result.metrics.loss == pytest.approx(nn.functional.mse_loss(whole(x), y).item(), rel=1e-5)
        and result.metrics.loss < 0.3
    )

    class Killed(Exception):
        pass

    def dying(context: StepContext, x: Any, y: Any) -> Tensor:
        if context.number == 9:
            raise Killed
        return supervised_step(context, x, y)

    eager, model = replace(config, checkpoint_seconds=0.0), net()
    with pytest.raises(Killed):
        train(model, data, data, eager, loss=nn.MSELoss(), run=tmp_path, step=dying, quiet=True)
    model = net()
    train(model, data, data, eager, loss=nn.MSELoss(), run=tmp_path, quiet=True)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_gives_its_numbers_again(tmp_path: Path) -> None:
    """Name and unit of the metric too, which its file does not hold; and not a step is taken."""
    torch.manual_seed(0)
    model, data, config = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), regression(), replace(CONFIG, epochs=1)
    how: dict[str, Any] = {"loss": nn.MSELoss(), "metric": mean_absolute_error(unit="mm"), "run": tmp_path}
    first = train(model, data, data, config, quiet=True, **how)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    again = train(model, data, data, config, quiet=True, **how)
    assert again == first and again.metrics is not None and again.metrics.info.unit == "mm"
    assert alike(state, dict(model.state_dict()))


class Tokens(nn.Module):
    """Scores of three classes for every token, among other outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"other": x, "scores": self.fc(x)}


def test_rules_of_outputs_and_axes_reach_loss_metric_and_distillation() -> None:
    """One step of gradient descent, by hand."""
    torch.manual_seed(0)
    model, teacher, x, y = Tokens(), Tokens(), torch.randn(8, 5, 4), torch.randint(0, 3, (8, 5))

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    config = TrainConfig(epochs=1, batch_size=8, lr=0.1, momentum=0.0, weight_decay=0.0, distill=0.4, temperature=2.0)
    copied = copy.deepcopy(model)
    q, p = copied.fc(x) / 2, (teacher.fc(x) / 2).softmax(2)
    apart = (p * (p.log() - q.log_softmax(2))).sum(2).mean()
    (0.6 * own(2 * q, y) + 0.4 * 4 * apart).backward()  # type: ignore[no-untyped-call]
    assert copied.fc.weight.grad is not None
    wanted = copied.fc.weight.detach() - 0.1 * copied.fc.weight.grad
    how: dict[str, Any] = {"loss": own, "output": "scores", "class_axis": 2, "teacher": teacher}
    result = train(model, [(x, y)], [(x, y)], config, quiet=True, **how)
    torch.testing.assert_close(model.fc.weight.detach(), wanted, rtol=1e-5, atol=1e-6)
    assert result.metrics is not None
    assert result.metrics.accuracy == pytest.approx(float((model.fc(x).argmax(2) == y).double().mean()))


def test_steps_that_a_rate_would_take_through_zero_are_held_and_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(32, 4)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    calibrate(model, [x])
    data = LoaderSplit([(x, (x[:, 0] > 0).long())], num_classes=2)
    config = TrainConfig(epochs=4, batch_size=8, lr=0.01, step_lr=30.0, bn_samples=0)
    with pytest.warns(UserWarning, match=r"step sizes were cut short .*lower step_lr"):
        train(model, data, None, config, quiet=True)
    assert all(bool((bank.steps > 0).all()) for bank in quantizers(model).values())


@pytest.mark.parametrize(("updates", "told"), [(100, 1), (101, 0)])
def test_steps_that_are_held_once_in_more_than_a_hundred_updates_are_not_told(updates: int, told: int) -> None:
    model, x = nn.Sequential(Quantizer([8], signed=True), nn.Linear(2, 2)), torch.randn(updates, 2)
    nn.init.constant_(model[0].steps, 0.1)  # type: ignore[arg-type]

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        loss = supervised_step(context, x, y)
        for bank in quantizers(context.model).values():
            assert bank.steps.grad is not None
            bank.steps.grad.fill_(0.0 if context.number else 1e6)
        return loss

    data = LoaderSplit([(x, torch.arange(updates) % 2)], num_classes=2)
    config = TrainConfig(epochs=1, batch_size=1, lr=0.01, momentum=0.0, bn_samples=0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(model, data, None, config, step=step, quiet=True)
    assert sum("cut short" in str(one.message) for one in found) == told
