"""The training loop: learning, resuming, divergence, schedules, several processes."""

from __future__ import annotations

import copy
import json
import math
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mixbit.data import LoaderSplit, read_keys
from mixbit.data.order import samples_of
from mixbit.errors import MixbitError, StaleRun, TrainingDiverged
from mixbit.evaluation import evaluate
from mixbit.metric import mean_absolute_error
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize, quantizers
from mixbit.quantizers import Quantizer
from mixbit.testing.options import OptionCases, OptionRow, alike, fields_of
from mixbit.training.loop import StepContext, TrainConfig, _bf16_is_slow, distilled_loss, supervised_step, train
from tests import ranks_script, training_script
from tests.by_hand import by_hand
from tests.nets import colours, quantized_net, small_net, tiny_net, tiny_split
from tests.seen_in_training import (
    as_by_hand,
    both_close,
    chosen,
    close,
    expects,
    first_draw,
    notes_of,
    rates_of_steps,
    saved_at,
    statistics,
    validated,
)

SCRIPT = Path(__file__).parent / "training_script.py"


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


def test_bf16_without_its_arithmetic_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbit.training.loop._bf16_is_slow", lambda device: True)
    config = TrainConfig(epochs=1, batch_size=16, precision="bf16", augment=False)
    with pytest.warns(UserWarning, match="no bf16 arithmetic and emulates it"):
        train(quantized_net(), tiny_split(), tiny_split(), config, quiet=True)


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


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9}, {"optimizer": "adamw"}])
def test_broken_run_ends_with_the_same_numbers(tmp_path: Path, extra: dict[str, object]) -> None:
    """Stopped in the middle of the second epoch, with a checkpoint at every step."""
    config = TrainConfig(**{"epochs": 3, "batch_size": 16, "checkpoint_seconds": 0.0, **extra})  # type: ignore[arg-type]
    whole, broken = quantized_net(), quantized_net()
    run_until(whole, tmp_path / "whole", None, config)
    with pytest.raises(KeyboardInterrupt):
        run_until(broken, tmp_path / "broken", 9, config)
    again = quantized_net()
    run_until(again, tmp_path / "broken", None, config)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_sigkill_in_mid_epoch(tmp_path: Path) -> None:
    """A process that is killed; the same training again continues, and ends with the numbers of an unbroken run."""
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path / "killed"], stdout=subprocess.DEVNULL)
    whole, _ = training_script.trained(tmp_path / "whole")
    checkpoint, deadline = tmp_path / "killed" / "checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again, resumed_at = training_script.trained(tmp_path / "killed")
    assert resumed_at > 0 and alike(dict(again.state_dict()), dict(whole.state_dict()))


def tensors_of(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in state.items()}


def test_two_processes_train_by_the_mean_of_both_parts(two_processes: dict[str, Any]) -> None:
    """Weights, statistics and their average, by hand: batch norm sees the parts one by one."""
    first, second = (two_processes[rank]["normed"] for rank in ("0", "1"))
    assert first == second
    wanted = by_hand(small_net(), colours(), ranks_script.NORMED, parts=2)
    assert close(tensors_of(first), wanted)
    assert not close(by_hand(small_net(), colours(), ranks_script.NORMED), wanted)


def test_two_processes_train_the_steps_of_quantizers(two_processes: dict[str, Any]) -> None:
    first, second = (two_processes[rank]["quantized"] for rank in ("0", "1"))
    assert first == second
    start = dict(quantized_net().state_dict())
    wanted = by_hand(quantized_net(), tiny_split(), ranks_script.QUANTIZED, parts=2)
    for name, values in tensors_of(first).items():
        if not values.is_floating_point():
            assert torch.equal(values, wanted[name])
            continue
        # A weight at the edge of two integers may go either way: far less than a tenth of the way.
        way = float((wanted[name] - start[name]).abs().max())
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=0.1 * way + 1e-6)


def test_two_processes_train_what_one_trains(two_processes: dict[str, Any]) -> None:
    """From rank 0's weights, with batches that two do not divide, whatever rank 1's clock says."""
    assert two_processes["0"]["apart"] == two_processes["1"]["apart"]
    found, wanted = torch.tensor(two_processes["0"]["apart"]), torch.tensor(ranks_script.apart(None))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_targets_that_do_not_count_weigh_nothing_on_any_process(two_processes: dict[str, Any]) -> None:
    assert two_processes["0"]["ignored"] == two_processes["1"]["ignored"]
    found, wanted = torch.tensor(two_processes["0"]["ignored"]), torch.tensor(ranks_script.ignored())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_process_counts_by_its_samples_where_the_loss_says_nothing_else(two_processes: dict[str, Any]) -> None:
    assert two_processes["0"]["weighed"] == two_processes["1"]["weighed"]
    found, wanted = torch.tensor(two_processes["0"]["weighed"]), torch.tensor(ranks_script.weighed())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_each_process_reads_its_part_of_every_batch(two_processes: dict[str, Any]) -> None:
    """Five samples: two and three."""
    parts = [two_processes[rank]["images read"] for rank in ("0", "1")]
    assert {len(one) for one in parts[0]} == {2} and {len(one) for one in parts[1]} == {3}
    assert [one + other for one, other in zip(*parts, strict=True)] == ranks_script.images_read()


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


def test_bf16_is_slow_where_the_processor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda answer=supported: answer)
        assert _bf16_is_slow(torch.device("cpu")) is not supported
        assert not _bf16_is_slow(torch.device("cuda"))


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


def test_distillation_needs_a_teacher() -> None:
    config = TrainConfig(epochs=1, batch_size=16, distill=0.5)
    with pytest.raises(MixbitError, match="teacher"):
        train(quantized_net(), tiny_split(), None, config, quiet=True)


def test_the_distilled_loss_is_the_divergence_of_the_student_from_its_teacher() -> None:
    """Of probabilities p (teacher) and q that are no mirror images of each other, softened by 3: sum p log(p / q)."""
    outputs, teacher = (
        torch.tensor([[3.0, 0.0, -1.0], [0.5, 0.2, 2.0]]),
        torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 0.3]]),
    )
    apart = 0.0
    for row, other in zip(outputs.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(one / 3) / sum(math.exp(two / 3) for two in line) for one in line] for line in (row, other))
        apart += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    found = distilled_loss(outputs, teacher, torch.tensor(0.8), weight=0.3, temperature=3.0)
    assert float(found) == pytest.approx(0.7 * 0.8 + 0.3 * 9 * apart, rel=1e-5)


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


def test_a_monitor_ends_a_training_once_and_for_all(tmp_path: Path) -> None:
    """It sees the epochs before, puts its weights in before the last evaluation, and a resumed run stays ended."""

    class End:
        seen: ClassVar[list[tuple[int, int]]] = []

        def after_epoch(self, model: nn.Module, record: dict[str, Any], history: list[dict[str, Any]]) -> bool:
            self.seen.append((record["epoch"], len(history)))
            return record["epoch"] == 2

        def at_end(self, model: nn.Module) -> None:
            self.seen.append((0, 0))
            nn.init.zeros_(model[6].weight)  # type: ignore[index, arg-type]
            nn.init.zeros_(model[6].bias)  # type: ignore[index, arg-type]

    for _ in range(2):
        config = replace(CONFIG, epochs=5, validate_every=0, batch_size=32)
        result = train(tiny_net(), tiny_split(), tiny_split(), config, run=tmp_path, monitor=End(), quiet=True)
        assert End.seen == [(1, 0), (2, 1), (0, 0)] and [one.get("ended") for one in result.history] == [None, True]
        assert result.metrics is not None and result.metrics.loss == pytest.approx(math.log(3), rel=1e-5)


def test_a_teacher_judges_in_evaluation_mode_and_stays_as_it_was() -> None:
    """Its dropout and its norm are off in the copy, and the user's own has neither mode nor statistics changed."""
    model, teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), tiny_net().train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    train(model, tiny_split(), None, replace(CONFIG, distill=1.0), teacher=teacher, quiet=True)
    assert teacher.training and alike(before, dict(teacher.state_dict()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5 is illegal. Legal: a whole number from 1 to 1000000"),
        ({"epochs": True}, "epochs=True is illegal"),
        ({"epochs": 10**24}, "Legal: a whole number from 1 to 1000000"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"lr": float("inf")}, "lr=inf is illegal. Legal: a number above 0"),
        ({"momentum": -5}, "momentum=-5"),
        ({"label_smoothing": -1}, "label_smoothing=-1"),
        ({"temperature": 0}, "temperature=0"),
        ({"step_lr": "nan"}, "step_lr='nan'"),
        ({"compile": 5}, "compile=5 is illegal. Legal: true or false"),
        ({"bn_samples": -5}, "bn_samples=-5"),
        ({"clip_value": 0}, "clip_value=0"),
        ({"seed": 2**63}, "seed="),
    ],
)
def test_illegal_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_unknown_setting_offers_the_nearest() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'epochs'"):
        TrainConfig.from_dict({"epoch": 3})


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


def test_a_loss_without_a_gradient_is_an_error_at_the_first_step() -> None:
    data, model = regression(), nn.Linear(4, 1)
    for loss in (lambda o, _y: o.detach().mean(), lambda o, _y: o.mean().item()):
        with pytest.raises(MixbitError, match="does not depend on the parameters"):
            train(model, data, None, TrainConfig(epochs=1, batch_size=16), loss=loss, quiet=True)
    config = TrainConfig(epochs=1, batch_size=16, label_smoothing=0.1)
    with pytest.raises(
        MixbitError, match="label_smoothing=0.1, and the loss 'mse_loss' does not take it.*--set label_smoothing=0"
    ):
        train(model, data, None, config, loss=nn.functional.mse_loss, quiet=True)


def test_the_teacher_gets_the_same_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return (self.fc(x) * scale[:, None]).flatten()  # type: ignore[no-any-return]

    random = torch.Generator().manual_seed(0)
    x, scale = torch.randn(32, 4, generator=random), torch.rand(32, generator=random) + 0.5
    torch.manual_seed(0)
    model, teacher = Named(), Named()
    rows = [{"x": a, "scale": b, "y": 0.0} for a, b in zip(x, scale, strict=True)]
    config = TrainConfig(epochs=30, batch_size=16, lr=0.1, distill=1.0, bn_samples=0, validate_every=0)
    train(
        model, DataLoader(rows, 16), None, config, teacher=teacher, loss=nn.functional.mse_loss,  # type: ignore[arg-type]
        distill=nn.functional.mse_loss, read=read_keys(["x", "scale"], "y"), quiet=True,
    )  # fmt: skip
    assert float(nn.functional.mse_loss(model(x, scale), teacher(x, scale))) < 1e-2


def test_distilled_loss_does_not_guess_the_axis_of_the_classes() -> None:
    outputs, teacher = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    with pytest.raises(MixbitError, match="class_axis="):
        distilled_loss(outputs, teacher, torch.tensor(0.0), weight=1.0, temperature=1.0)
    found = distilled_loss(outputs, teacher, torch.tensor(0.0), weight=1.0, temperature=1.0, class_axis=2)
    flat = (one.flatten(0, 1) for one in (outputs, teacher))
    torch.testing.assert_close(found, distilled_loss(*flat, torch.tensor(0.0), weight=1.0, temperature=1.0))


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


# ----------------------------------------------------------------------------------- every option, by hand or counted


def test_defaults_are_those_that_are_told() -> None:
    """Who changes one changes every training that does not name it: here, in the docstring and in the changelog."""
    assert asdict(TrainConfig()) == {
        "epochs": 5, "batch_size": 128, "optimizer": "sgd", "lr": 0.01, "step_lr": None, "momentum": 0.9,
        "weight_decay": 1e-4, "warmup_epochs": 0.0, "final_lr": 0.0, "schedule": "step", "label_smoothing": 0.0,
        "distill": 0.0, "temperature": 4.0, "clip_value": None, "drop_zero_gradients": False, "ema": None,
        "bn_samples": 6000, "fraction": 1.0, "augment": True, "precision": "float32", "channels_last": True,
        "compile": False, "seed": 0, "checkpoint_seconds": 60.0, "validate_every": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "legal", "illegal"),
    [
        ("momentum", (0, 0.999), (-0.01, 1.0)),
        ("ema", (1e-9, 0.999), (0.0, 1.0)),
        ("fraction", (1e-9, 1.0), (0.0, 1.01)),
        ("label_smoothing", (0, 1), (-0.01, 1.01)),
        ("distill", (0, 1), (-0.01, 1.01)),
        ("final_lr", (0, 1), (-0.01, 1.01)),
        ("temperature", (1e-9, 100.0), (0.0, -1.0)),
        ("lr", (1e-9, 100.0), (0.0, float("nan"))),
        ("step_lr", (None, 1e-9), (0.0, -1.0)),
        ("weight_decay", (0, 10.0), (-1e-9, float("inf"))),
        ("warmup_epochs", (0, 99.5), (-0.5, float("nan"))),
        ("epochs", (1, 1_000_000), (0, 1_000_001)),
        ("batch_size", (1, 10**9), (0, 2.0)),
        ("bn_samples", (0, 10**9), (-1, 1.5)),
        ("validate_every", (0, 1_000_000), (-1, 1_000_001)),
        ("checkpoint_seconds", (0, 1e9), (-1.0, float("inf"))),
        ("seed", (0, 2**63 - 1), (-1, 2**63)),
    ],
)
def test_bounds_of_settings(name: str, legal: tuple[Any, ...], illegal: tuple[Any, ...]) -> None:
    for value in legal:
        assert getattr(TrainConfig(**{name: value}), name) == value
    for value in illegal:
        with pytest.raises(MixbitError, match=f"{name}=.* is illegal. Legal: "):
            TrainConfig(**{name: value})


class TestTrainConfigOptions(OptionCases):
    """Every setting of the loop against a training written by hand, or by what it counts."""

    owner = TrainConfig
    options = fields_of(TrainConfig)
    rows = (
        as_by_hand("epochs", 2, 3),
        as_by_hand("batch_size", 8, 6),
        as_by_hand("optimizer", "sgd", "adamw", lr=0.01, weight_decay=0.1),
        as_by_hand("lr", 0.05, 0.02),
        as_by_hand("lr", 0.01, 0.02, optimizer="adamw"),
        OptionRow("step_lr", (None, 0.003), seen=rates_of_steps, holds=expects({(0.02, 0.02)}, {(0.003, 0.02)})),
        as_by_hand("momentum", 0.9, 0.0),
        as_by_hand("weight_decay", 1e-4, 0.3),
        as_by_hand("warmup_epochs", 0.0, 1.5),
        as_by_hand("warmup_epochs", 1.0, 2.5, schedule="epoch", epochs=3),
        as_by_hand("final_lr", 0.0, 0.5),
        as_by_hand("final_lr", 0.0, 0.5, warmup_epochs=1.0),
        as_by_hand("schedule", "step", "epoch"),
        as_by_hand("label_smoothing", 0.0, 0.4),
        as_by_hand("distill", 0.0, 0.3),
        as_by_hand("distill", 0.3, 1.0, label_smoothing=0.2),
        as_by_hand("temperature", 4.0, 1.5, distill=0.7),
        as_by_hand("clip_value", None, 0.02),
        as_by_hand("drop_zero_gradients", False, True, momentum=0.8, weight_decay=0.1),
        as_by_hand("ema", None, 0.6),
        as_by_hand("ema", 0.1, 0.3, epochs=4),
        OptionRow("bn_samples", (8, 20), seen=statistics, holds=both_close, says="of the first batches"),
        as_by_hand("fraction", 1.0, 0.7),
        OptionRow(
            "fraction", (1.0, 0.5), seen=chosen, says="the same images in every epoch",
            holds=expects([list(range(30))] * 2, [samples_of(30, 0.5, 2).tolist()] * 2),
        ),
        as_by_hand("augment", True, False),
        as_by_hand("precision", "float32", "bf16", lr=0.2, channels_last=False),
        OptionRow(
            "precision", ("float32", "bf16"), seen=lambda value: notes_of(precision=value, validate_every=0).types,
            holds=expects({torch.float32}, {torch.float32, torch.bfloat16}), says="in training alone",
        ),
        OptionRow(
            "channels_last", (True, False), holds=expects({True}, {False}),
            seen=lambda value: notes_of(channels_last=value, bn_samples=8).layouts,
        ),
        OptionRow("compile", (False, True), seen=lambda value: notes_of(compile=value).compiled, holds=expects(0, 6)),
        as_by_hand("seed", 0, 1),
        OptionRow(
            "seed", (0, 7), seen=lambda value: notes_of(seed=value).drawn[:2], says="of random draws, and told",
            holds=lambda one, other: (one, other) == ([first_draw(0), 0.0], [first_draw(7), 7.0]),
        ),
        OptionRow("checkpoint_seconds", (1e6, 25.0), seen=saved_at, holds=expects([0], [3, 0])),
        OptionRow("validate_every", (1, 2), seen=validated, holds=expects([1, 2, 3, 4, 5], [2, 4, 5])),
        OptionRow("validate_every", (0, 3), seen=validated, holds=expects([5], [3, 5]), says="the last always"),
    )  # fmt: skip
